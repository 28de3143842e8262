"""What a network sees while it is timed."""

import os

import numpy as np
import pytest
import torch

from tests.shapes import square
from zennas.data.images import as_jpeg, decode
from zennas.latency import budget as budgets
from zennas.latency import protocol as protocols
from zennas.latency.budget import choose_protocol, measure_network
from zennas.latency.inputs import (
    FACE_FILE,
    INPUTS,
    before_part,
    calibration,
    check_input,
    given_images,
    hold_images,
    images_of,
    keep_images,
    sample,
    seeing,
)
from zennas.latency.table import measure_part, parts_of_space, table_name
from zennas.latency.tables import protocol_of
from zennas.mask.synthetic import synthetic_face
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.track import Protocol, load_space, load_track

SMALL = Candidate(block="ir_se", stem=8, widths=(8, 16), depths=(1, 1))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def seen(name, **values):
    return Protocol(backend="onnxruntime-cpu", num_runs=2, kth_fastest=1, input=name, **values)


def photograph(path, seed, *, hw=(20, 24)):
    pixels_HW3 = np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_jpeg(pixels_HW3))
    return path


def sign_changes(map_BCHW):
    """The share of horizontal neighbours of different sign."""
    signs = np.signbit(np.asarray(map_BCHW))
    return float((signs[..., 1:] != signs[..., :-1]).mean())


def test_the_face_that_ships_is_the_synthetic_one():
    image_HW3, _ = synthetic_face()
    assert np.array_equal(decode(FACE_FILE.read_bytes()), image_HW3)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (5, 3, 24, 16), (2, 1, 16, 16), (2, 7, 4, 4), (3, 10)])
def test_an_input_has_every_shape_that_is_asked_for(name, shape):
    batch = sample(name, shape)
    assert batch.shape == shape and batch.dtype == np.float32
    assert np.array_equal(batch, sample(name, shape)) and batch.std() > 0.1


def test_a_face_is_smooth_and_noise_is_not():
    assert sign_changes(sample("noise", (1, 3, 112, 112))) > 0.45
    assert sign_changes(sample("face", (1, 3, 112, 112))) < 0.1


def test_the_face_fills_minus_one_to_one_and_is_grey_where_one_channel_is_seen():
    rgb, grey = sample("face", (1, 3, 112, 112)), sample("face", (1, 1, 112, 112))
    assert -1 <= rgb.min() < -0.5 and 0.5 < rgb.max() <= 1
    assert np.allclose(grey[0, 0], np.tensordot([0.299, 0.587, 0.114], rgb[0], 1), atol=1e-5)


@pytest.mark.parametrize("space", ["ir_se", "mobilefacenet", "resnet", "ir_se_lfw"])
def test_what_stands_before_a_part_is_of_its_shape_smooth_and_of_unit_scale(space):
    parts = parts_of_space(load_space(space))
    for part in parts[:1] + parts[:: len(parts) // 5]:
        map_BCHW = before_part("face", part)
        assert map_BCHW.shape[1:] == (part.in_channels, *part.in_hw)
        assert before_part("noise", part) is None
        if part.in_channels > 3:
            assert float(map_BCHW.std()) == pytest.approx(1, abs=0.2)
        if max(part.in_hw) >= 28:
            assert sign_changes(map_BCHW) < 0.35  # noise behind the same layers: 0.4 and more
        assert torch.equal(map_BCHW, before_part("face", part))


def test_a_part_and_a_network_are_timed_on_it(monkeypatch):
    """The batch that the session is run on, and the norms, are those of the face."""
    feeds = []

    def opened(model, protocol, given=None):
        if given is not None:  # a call of a network that does nothing is timed beside the part
            feeds.append(given)
        return lambda: None

    monkeypatch.setattr(protocols, "open_backend", opened)
    (part,) = [part for part in parts_of_space(load_space("ir_se_tiny")) if part.keeps_shape][:1]
    measure_part(part, seen("face"), num_runs=2)
    # Alone and in a stack, both twice, as they are short.
    assert [np.array_equal(feed["image"], before_part("face", part).numpy()) for feed in feeds] == [True] * 4
    feeds.clear()
    monkeypatch.setattr(protocols, "open_backend", lambda model, protocol, given=None: feeds.append(model) or min)
    for name in INPUTS:
        budgets.export_candidate(SMALL, square(16, 8), seen(name))
    assert measure_network.__doc__ and calibration("noise", (3, 16, 16)) is None
    assert calibration("face", (3, 16, 16)).shape == (4, 3, 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "name"), [("ir_se", "IR-SE-100"), ("ir_se", "IR-SE-200"), ("mobilefacenet", "MobileFaceNet x2")]
)
def test_deep_networks_are_proven_on_a_face(space, name):
    """Proven on noise, IR-SE-200 differs by 5e-4: far from its norms its answer is rounding. So it is for the others
    where the norm of the embedding knows nothing but faces that are alike.
    """
    space = load_space(space)
    made = budgets.export_candidate(space.baselines[name], space.shape, seen("face"))
    assert made.proof.relative < 2e-5


@pytest.mark.parametrize("name", INPUTS)
def test_a_network_is_measured_on_every_input(name):
    taken = measure_network(SMALL, seen(name), square(16, 8))
    assert taken.protocol.input == name and taken.measured_ms > 0


# --- images of the user's


def test_images_are_kept_under_what_they_hold(tmp_path, cache):
    names = {given_images(photograph(tmp_path / f"{seed}.jpg", seed)) for seed in (1, 1, 2)}
    assert len(names) == 2 and all(name == check_input(name) for name in names)
    (first, _) = (images_of(name) for name in sorted(names))
    assert first.shape == (1, 3, 20, 24) and -1 <= first.min() < first.max() <= 1
    assert len(list((cache / "inputs").iterdir())) == 2


def test_of_a_folder_one_of_middling_contrast_is_timed(tmp_path):
    contrasts = {"flat": 0.01, "middling": 0.3, "stark": 0.9}
    images = [np.full((3, 8, 8), value, np.float32) for value in (0.1, 0.1, 0.1)]
    for image_CHW, contrast in zip(images, contrasts.values(), strict=True):
        image_CHW[:, ::2] += contrast
    name = keep_images(images)
    assert np.allclose(images_of(name)[0], images[1], atol=1e-3)
    assert np.allclose(sample(name, (4, 3, 8, 8))[3], images[1], atol=1e-3)  # there are three: the fourth is the first


def test_hidden_files_and_those_that_do_not_decode_are_passed_over(tmp_path):
    photograph(tmp_path / "images" / "deep" / "a.jpg", 1)
    photograph(tmp_path / "images" / "._b.jpg", 2)
    (tmp_path / "images" / "c.jpg").write_bytes(b"no image")
    assert given_images(tmp_path / "images") == given_images(tmp_path / "images" / "deep" / "a.jpg")


@pytest.mark.parametrize("hw", [(1, 1), (1, 500), (20, 24)])
def test_a_single_image_sets_all_norms(tmp_path, hw):
    """Behind the pooling a map is one number: of one image it has no spread."""
    name = given_images(photograph(tmp_path / "a.jpg", 1, hw=hw))
    taken = measure_network(SMALL, seen(name), square(16, 8))
    assert taken.measured_ms > 0 and sample(name, (1, 3, 16, 16)).shape == (1, 3, 16, 16)
    for part in parts_of_space(load_space("ir_se_lfw"))[:2]:
        assert np.isfinite(before_part(name, part).numpy()).all()


def test_a_pipe_is_no_image(tmp_path):
    """To read one waits for somebody who writes."""
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="holds no image"):
        given_images(tmp_path)


@pytest.mark.parametrize("content", [{}, {"a.txt": b"text"}, {"a.jpg": b""}], ids=str)
def test_without_an_image_it_is_said_what_was_looked_for(content, tmp_path):
    (tmp_path / "folder").mkdir()
    for file, encoded in content.items():
        (tmp_path / "folder" / file).write_bytes(encoded)
    with pytest.raises(UserError, match=r"--images .*folder: holds no image: (no file ends in|a.jpg: no bytes)"):
        given_images(tmp_path / "folder")
    with pytest.raises(UserError, match="is not there"):
        given_images(tmp_path / "none")


@pytest.mark.parametrize("name", ["fase", "images:", "images:../../etc/pass", ""])
def test_an_unknown_input_is_refused(name):
    with pytest.raises(UserError, match=r"input '.*' is not known.*face"):
        check_input(name)


def test_kept_images_that_are_gone_are_asked_for_again():
    with pytest.raises(UserError, match="give them again with --images"):
        images_of("images:0123456789ab")


def test_another_machine_holds_the_images_that_it_is_sent(tmp_path, cache, monkeypatch):
    name = given_images(photograph(tmp_path / "a.jpg", 1))
    sent = images_of(name)
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "elsewhere"))
    hold_images(name, sent)
    assert np.allclose(images_of(name), sent)


# --- the protocol


def test_every_track_that_ships_sees_a_face():
    assert load_track("webface-sfr").protocol.input == load_track("insightface-ms1m").protocol.input == "face"


def test_a_protocol_of_noise_is_written_as_before_and_its_table_is_called_as_before():
    assert "input" not in seen("noise").model_dump() and seen("face").model_dump()["input"] == "face"
    assert Protocol.model_validate(seen("noise").model_dump()) == seen("noise")
    assert table_name(seen("noise")) == "onnxruntime-cpu-1t-batch1.csv"
    assert table_name(seen("face")) == "onnxruntime-cpu-1t-batch1-face.csv"


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", ["noise", "face", "images:0123456789ab"])
def test_a_table_s_name_says_what_was_seen(name, precision):
    wanted = seen(name, precision=precision)
    named = protocol_of(table_name(wanted))
    assert (named.input, named.precision, table_name(named)) == (name, precision, table_name(wanted))


def test_a_track_s_slip_is_told_with_its_file():
    track = load_track("lfw-smoke")
    slip = track.model_copy(update={"protocol": track.protocol.model_copy(update={"input": "fase"})})
    with pytest.raises(UserError, match=r"latency/tracks/lfw-smoke\.yaml: input 'fase' is not known"):
        choose_protocol(slip)


def test_images_take_the_place_of_the_track_s_input(tmp_path):
    protocol, _ = choose_protocol(load_track("lfw-smoke"), images=photograph(tmp_path / "a.jpg", 1))
    assert protocol.input.startswith("images:") and protocol.backend == "onnxruntime-cpu"


def test_a_trained_network_sees_its_data_unless_the_rule_is_noise():
    faces_BCHW = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert seeing(seen("noise"), faces_BCHW) == seen("noise")
    kept = images_of(seeing(seen("face"), faces_BCHW).input)
    assert kept.shape == (8, 3, 16, 16)
    assert np.abs(kept[0] - faces_BCHW.numpy()).reshape(9, -1).max(1).min() < 1e-3


def test_a_track_whose_images_are_gone_is_refused_before_anything_is_timed(monkeypatch):
    track = load_track("webface-sfr")
    gone = track.protocol.model_copy(update={"input": "images:0123456789ab"})
    track = track.model_copy(update={"protocol": gone})
    with pytest.raises(UserError, match=r"tracks/webface-sfr.yaml: .* are gone; give them again with --images"):
        choose_protocol(track, "onnxruntime-cpu")
