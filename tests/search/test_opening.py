"""A run that an older version began goes on as it began."""

import dataclasses

import numpy as np
import pytest

from zennas.data.images import as_jpeg
from zennas.progress import silent
from zennas.records import UserError
from zennas.search.opening import open_search
from zennas.search.resources import Resources
from zennas.search.stages import Checked
from zennas.track import load_experiment


@pytest.fixture
def opened(tiny, tmp_path, monkeypatch):
    """opened(input, **values) -> the protocol by which a search with that input of its track is opened, and closed."""
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    experiment, track, space = load_experiment(str(tiny))

    def made(name, **values):
        rule = track.protocol.model_copy(update={"input": name})
        checked = Checked(
            experiment=experiment,
            track=track.model_copy(update={"protocol": rule}),
            space=space,
            plan=experiment.search,
            out=tmp_path / "run",
        )
        checked = dataclasses.replace(checked, **values)
        with Resources(checked.out, silent()) as resources:
            return open_search(checked, resources, silent()).protocol

    return made


def test_a_run_whose_times_are_of_noise_goes_on_with_noise(opened):
    assert opened("noise").input == "noise"
    assert opened("face").input == "noise"  # the track says otherwise by now
    assert opened("face", fresh=True).input == "face"
    assert opened("face").input == "face"


def test_images_cannot_be_compared_with_noise(opened, tmp_path):
    opened("noise")
    (tmp_path / "mine.jpg").write_bytes(as_jpeg(np.full((32, 32, 3), 127, np.uint8)))
    with pytest.raises(UserError, match=r"this run's latencies are of noise.*choose another --out"):
        opened("face", images=tmp_path / "mine.jpg")
    assert opened("face", images=tmp_path / "mine.jpg", fresh=True).input.startswith("images:")
    with pytest.raises(UserError, match=r"protocol.input: .images:.*, now .face."):
        opened("face")
