"""The pages of experiments/learned/pictures.py, of made-up figures in the form of figures.py and race.py."""

import importlib
import json
import sys

import pytest

from zennas.provenance import provenance

ORDER = {"tau": 0.5, "low": 0.1, "high": 0.8}
SLOPE = {"std_per_e_fold": -0.5, "low": -0.9, "high": -0.1}
LENGTH = {
    "longest": 2,
    "trainings": [{"text": "a", "epochs": epochs, "auc_by_epoch": [0.8, 0.9][:epochs]} for epochs in (1, 2)],
    "orders": [{"epochs": 2, "after": epoch, **ORDER} for epoch in (1, 2)],
    "slope_on_ln_blocks": {"1": SLOPE, "2": SLOPE},
}
PREDICTIONS = {"texts": ["a", "b"], "twelve": ["a"], "ways": {"ridge of twelve": [0.8, 0.9]}}
SEALED = {"trained": {"a": {"0": 0.8}, "b": {"0": 0.9, "1": 0.91}}, "tau": {"S": ORDER}, "num_judged": 1}
RACE = {
    "auc": {name: {"0": 0.9, "1": 0.91} for name in ("learned", "Zen-Score")},
    "curves": {name: [[0.8, 0.9], [0.8, 0.91]] for name in ("learned", "Zen-Score")},
}


@pytest.fixture
def pictures(checkout, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(checkout / "experiments" / "learned")
    program = importlib.import_module("pictures")
    monkeypatch.setattr(program, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["pictures.py", "--out", str(tmp_path / "pages")])
    return program


def test_what_is_there_is_drawn_and_no_more(pictures, tmp_path):
    made_by = {"made_by": provenance(seed=0).model_dump()}
    (tmp_path / "length.json").write_text(json.dumps(LENGTH | made_by))
    pictures.main()
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["length.html"]
    for name, figures in (("predictions", PREDICTIONS), ("sealed-results", SEALED), ("race-results", RACE)):
        (tmp_path / f"{name}.json").write_text(json.dumps(figures | made_by))
    pictures.main()
    pages = {path.stem: path.read_text() for path in (tmp_path / "pages").iterdir()}
    assert sorted(pages) == ["length", "race", "sealed"]
    assert "2 epochs in all" in pages["length"] and "tau with the order after 2 epochs" in pages["length"]
    assert "tau with the truth, 1 candidates" in pages["sealed"] and "learned" in pages["race"]
