"""A Shape as a file says it: one side or two, grey or RGB; files of old say as much as they did."""

import pytest

from zennas.latency.budget import keep_network, kept_network
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.shape import Shape, height_and_width, parsed_px, px_text
from zennas.space.space import Space
from zennas.track import EvidencePlan, Reference, ScorePlan, load_space, load_track

VALUES = {
    "name": "tall",
    "block": "ir",
    "stem": {"low": 8, "high": 16, "step": 8},
    "widths": [{"low": 8, "high": 16, "step": 8}],
    "depths": [{"low": 1, "high": 3}],
    "limits": {"max_blocks": 3, "max_effectiveness": 9},
}
TALL = Shape(channels=1, height=48, width=16, embedding_size=12)


def space(**changes):
    return Space.parse(VALUES | changes, "here")


@pytest.mark.parametrize(
    ("given", "hw"), [({}, (112, 112)), ({"image_px": 64}, (64, 64)), ({"image_px": [48, 16]}, (48, 16))]
)
def test_a_space_says_a_side_or_two(given, hw):
    assert space(**given).shape == Shape(channels=3, height=hw[0], width=hw[1], embedding_size=512)


def test_a_space_says_everything_of_its_shape():
    assert space(image_px=[48, 16], channels=1, embedding_size=12).shape == TALL
    assert space(**TALL.plain()).shape == TALL and TALL.plain() == {
        "image_px": [48, 16],
        "embedding_size": 12,
        "channels": 1,
    }


@pytest.mark.parametrize("given", [4, "112", [48], [48, 16, 3], [48, 4], 11.5, True])
def test_what_is_no_size_is_one_clear_line(given):
    with pytest.raises(UserError) as error:
        space(image_px=given)
    allowed = "a whole number from 8 to 65536, or [height, width] of such numbers"
    assert str(error.value) == f"here: image_px: given {given!r}, allowed: {allowed}"


def test_either_side_must_divide():
    for px in ([48, 17], [47, 16]):
        with pytest.raises(UserError, match="image_px must be divisible by 2: each of the 1 stages halves the image"):
            space(image_px=px)


def test_what_is_kept_of_a_run_says_no_more_than_it_did():
    """A search of old goes on: what it was asked for must be what it is asked for now."""
    of_old = {"name", "block", "image_px", "embedding_size", "stem", "widths", "depths", "limits", "baselines"}
    kept = load_space("ir_se").model_dump(mode="json")
    assert set(kept) == of_old and kept["image_px"] == 112
    assert all(set(one) == {"block", "stem", "widths", "depths"} for one in kept["baselines"].values())
    assert set(load_track("webface-sfr").model_dump(mode="json")["budget"]["reference"]) == {
        "machine",
        "candidate",
        "latency_ms",
    }
    grey = space(channels=1, image_px=[48, 16]).model_dump(mode="json")
    assert (grey["channels"], grey["image_px"]) == (1, [48, 16]) and Space.parse(grey, "here") == space(
        channels=1, image_px=[48, 16]
    )


def test_a_reference_is_timed_at_its_own_shape():
    candidate = {"block": "ir", "stem": 8, "widths": [8], "depths": [1]}
    values = {"machine": "a machine", "candidate": candidate, "latency_ms": 1.0}
    assert Reference.parse(values, "here").shape == Shape(channels=3, height=112, width=112, embedding_size=512)
    assert Reference.parse(values | TALL.plain(), "here").shape == TALL


def test_a_score_looks_at_images_of_its_own_size():
    assert ScorePlan(image_px=32).shape(TALL) == TALL.sized((32, 32))
    plan = EvidencePlan(image_px=[24, 8]).of("equal_cost")
    assert plan.shape(TALL) == Shape(channels=1, height=24, width=8, embedding_size=12)


def test_kept_networks_are_told_apart_by_their_shape(taken, monkeypatch, tmp_path):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path))
    candidate = Candidate(block="ir", stem=8, widths=(8,), depths=(1,))
    measurement = taken(5.0)
    keep_network(candidate, measurement, TALL)
    for other in (TALL.sized((16, 48)), TALL.model_copy(update={"channels": 3})):
        assert kept_network(candidate, measurement.protocol, other) is None
    assert kept_network(candidate, measurement.protocol, TALL) == measurement


def test_sides_as_words():
    for hw in ((112, 112), (384, 128)):
        assert parsed_px(px_text(hw)) == hw == height_and_width(list(hw))
    for text in ("", "0", "12x", "1x2x3", "-3", "a"):
        with pytest.raises(ValueError, match="allowed: a whole number, 1 or more, or HEIGHTxWIDTH"):
            parsed_px(text)


@pytest.fixture
def taken():
    from zennas.latency.protocol import Measurement
    from zennas.provenance import machine_name, versions
    from zennas.track import Protocol

    def made(ms):
        protocol = Protocol(backend="onnxruntime-cpu", num_runs=1, kth_fastest=1)
        return Measurement(
            raw_ms=(ms,),
            protocol=protocol,
            machine=machine_name(),
            date="2026-01-01",
            versions=versions(),
            load_average=0.0,
        )

    return made
