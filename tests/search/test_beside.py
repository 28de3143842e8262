"""What stands beside winners: a whole search of a tiny space of networks with branches, by a share of a reference."""

import json

import pytest
import yaml

from tests.conftest import TINY_EXPERIMENT
from zennas.search.beside import MIRRORED_RUNS, mirrored_sentence
from zennas.search.measured import Measured, MirroredLatency

MGN = {"family": "mgn", "block": "resnet_basic", "stem": 16, "widths": [16, 16, 24, 24, 32], "depths": [1, 1, 1, 2, 2]}
SPACE = {
    "name": "tiny_mgn",
    "family": "mgn",
    "block": "resnet_basic",
    "image_px": [64, 32],
    "embedding_size": 64,
    "stem": {"low": 8, "high": 16, "step": 8},
    "widths": [{"low": 8, "high": 32, "step": 8}] * 5,
    "depths": [{"low": 1, "high": most} for most in (2, 2, 1, 3, 2)],
    "limits": {"max_blocks": 10, "max_effectiveness": 0.5},
    "baselines": {
        "MGN": MGN,
        "one branch": {"family": "single", "block": "repvgg", "stem": 16, "widths": [16, 24, 32], "depths": [1, 1, 1]},
    },
}
# A share of 20: parts of networks of 0.2 ms take ten times as long alone as within, and a budget far below their sum is
# refused.
TRACK = {
    "name": "tiny_people",
    "title": "people, tiny",
    "budget": {"reference_share": 20.0, "reference": {"candidate": MGN, "image_px": [64, 32], "embedding_size": 64}},
    "protocol": {"backend": "onnxruntime-cpu", "num_runs": 10, "kth_fastest": 2},
    "limits": {},
    "metric": "none",
    "mirrored": True,
    "sources": ["the tests"],
}


@pytest.mark.slow
def test_a_search_among_networks_with_branches(start, tmp_path):
    experiment = yaml.safe_load(TINY_EXPERIMENT)
    # A margin, because something else may be running; few winners, because one is enough.
    experiment["search"] |= {"margin_pct": 25, "score": {"image_px": [64, 32], "final_repeats": 2}}
    experiment |= {"task": "reid", "space": str(tmp_path / "space.yaml"), "track": str(tmp_path / "track.yaml")}
    for name, values in (("space", SPACE), ("track", TRACK), ("experiment", experiment)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    arguments = ["--track", tmp_path / "experiment.yaml", "--out", tmp_path / "run", "--candidates", 60]
    ended = start("search", *arguments).end()
    assert ended.code in (0, 1), ended.said  # 1: the machine was too busy for any to keep the budget
    assert "20 of what mgn/resnet_basic-16-16x1-16x1-24x1-24x2-32x2 takes here" in ended.stdout
    lines = (tmp_path / "run" / "measured.jsonl").read_text().splitlines()
    measured = {entry.name: entry for entry in (Measured.parse(json.loads(line), "a line") for line in lines)}
    winners = [Measured.parse(values, "winners") for values in json.loads((tmp_path / "run/winners.json").read_text())]
    for entry in (measured["MGN"], measured["one branch"], *winners):
        assert entry.mirrored.protocol.batch == 2 and len(entry.mirrored.raw_ms) == min(MIRRORED_RUNS, 10)
        assert entry.mirrored.times == round(entry.mirrored.measured_ms / entry.latency.measured_ms, 3)
    assert measured["one branch"].ways is None
    for entry in (measured["MGN"], *winners):
        assert entry.ways.every_block_once == pytest.approx(entry.score_mean, abs=2e-4)
        assert [way.times for way in entry.ways.ways] == [1, 2]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "What each way through a network scores" in report and "its mirror image" in report
    if winners:
        assert "An embedding of an image and its mirror image" in ended.stdout and "part x 2" in ended.stdout
    # Nothing is measured or scored twice.
    again = start("search", *arguments).end()
    assert again.code == ended.code
    assert [line for line in (tmp_path / "run" / "measured.jsonl").read_text().splitlines()][: len(lines)] == lines


def test_a_mirror_image_in_words(make_entry, space):
    baseline = next(iter(space.baselines.values()))
    assert mirrored_sentence([make_entry(baseline)]) is None

    def priced(times):
        taken = make_entry(baseline).latency
        kept = {name: getattr(taken, name) for name in ("raw_ms", "protocol", "machine", "date", "load_average")}
        latency = MirroredLatency(measured_ms=2.0, spread_pct=1.0, times=times, **kept)
        return make_entry(baseline, mirrored=latency)

    assert "takes 1.91 to 2.05 times as long" in mirrored_sentence([priced(2.05), priced(1.91)])
    assert "measured on 1 network(s)" in mirrored_sentence([priced(2.0)])
