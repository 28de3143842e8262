"""Embeddings are asked for once; what of them cannot be used is counted and named."""

import json
import pathlib
import signal
import textwrap

import numpy as np
import pytest
import torch

from tests.evaluate.conftest import PX, saved, squares, write_image, write_list
from tests.processes import forked
from zennas.embed import embeddings
from zennas.embed.embeddings import Sidecar, kept_path
from zennas.embed.model import open_model
from zennas.embed.named import open_named
from zennas.evaluate import embedded as embedded_module
from zennas.evaluate.embedded import embedded
from zennas.evaluate.sets import open_all, open_identification, open_pairs
from zennas.records import UserError

pytestmark = pytest.mark.usefixtures("own_embeddings")
NUM_IMAGES = 11


class Answering(torch.nn.Module):
    """Four mean grey values of a face, or what is said for the faces whose first pixel is of that red."""

    def __init__(self, answers=None, fallback=None):
        super().__init__()
        self.answers, self.fallback, self.asked = answers or {}, fallback, []

    def forward(self, image_B3HW):
        embedding_BD = image_B3HW.mean(1).unflatten(1, (4, -1)).mean((2, 3))
        for row, value in enumerate(image_B3HW[:, 0, 0, 0].round().int().tolist()):
            if value:  # not one of the black images by which a Model finds out what it is
                self.asked.append(value)
                given = self.answers.get(value, self.fallback)
                embedding_BD[row] = embedding_BD[row] if given is None else given
        return embedding_BD


def model_of(answers=None, fallback=None):
    """(Model that sees 0..255 as they are, its Answering)"""
    model = open_model(Answering(answers, fallback), mean=(0,) * 3, std=(1,) * 3, image_px=PX)
    # A module is copied when it is opened: the copy is the one that is asked.
    network = next(
        cell.cell_contents for cell in model._origin.answer.__closure__ if hasattr(cell.cell_contents, "asked")
    )
    return model, network


def face(number):
    """An image whose first pixel has the red `number`."""
    image_HW3 = np.random.default_rng(number).integers(1, 256, size=(PX, PX, 3), dtype=np.uint8)
    image_HW3[0, [0, -1], 0] = number
    return image_HW3


@pytest.fixture
def drawn(tmp_path):
    """A list of images 1.png to 11.png, of three people."""
    for number in range(1, NUM_IMAGES + 1):
        write_image(tmp_path / "images" / f"{number}.png", face(number))
    rows = [(f"{number}.png", number % 3) for number in range(1, NUM_IMAGES + 1)]
    return f"{write_list(tmp_path / 'drawn.csv', ('image', 'label'), rows)}@{tmp_path / 'images'}"


def by_hand(number, *, flip=False):
    """The embedding of a face."""
    grey_HW = face(number).astype(np.float64).mean(2)
    rows_D = grey_HW.reshape(4, -1).mean(1)
    return (2 * rows_D if flip else rows_D).tolist()  # rows are the same in the mirror


def test_embeddings_are_the_network_s(drawn):
    model, network = model_of()
    found = embedded(open_all(drawn), model, flip=False)
    assert found.embedding_ND.dtype == np.float32 and (found.num_unusable, found.notices) == (0, [])
    for number in range(1, NUM_IMAGES + 1):
        assert found.embedding_ND[number - 1].tolist() == pytest.approx(by_hand(number), rel=1e-5)  # float32 means
    assert sorted(network.asked) == list(range(1, NUM_IMAGES + 1))


def test_the_mirrored_image_is_added(drawn):
    model, network = model_of()
    found = embedded(open_all(drawn), model, flip=True)
    for number in range(1, NUM_IMAGES + 1):
        assert found.embedding_ND[number - 1].tolist() == pytest.approx(by_hand(number, flip=True), rel=1e-5)
    assert sorted(network.asked) == sorted([*range(1, NUM_IMAGES + 1)] * 2)


def test_each_image_is_asked_once_by_model_set_and_flip(drawn, tmp_path, own_embeddings):
    model, network = model_of()
    first = embedded(open_all(drawn), model, flip=False).embedding_ND.copy()
    assert len(network.asked) == NUM_IMAGES
    again = embedded(open_all(drawn), model, flip=False)
    assert len(network.asked) == NUM_IMAGES and (again.embedding_ND == first).all()
    (tmp_path / "drawn.csv").write_text((tmp_path / "drawn.csv").read_text().replace(",2", ",7"))
    embedded(open_all(drawn), model, flip=False)  # other labels are no other images
    assert len(network.asked) == NUM_IMAGES
    embedded(open_all(drawn), model, flip=True)
    assert len(network.asked) == 3 * NUM_IMAGES
    (tmp_path / "fewer.csv").write_text("image,label\n1.png,1\n2.png,2\n")
    embedded(open_all(f"{tmp_path / 'fewer.csv'}@{tmp_path / 'images'}"), model, flip=False)
    assert network.asked[3 * NUM_IMAGES :] == [1, 2]
    other = open_model(Answering(), mean=(1,) * 3, std=(1,) * 3, image_px=PX)  # the same network, fed otherwise
    assert not np.allclose(embedded(open_all(drawn), other, flip=False).embedding_ND, first)
    assert len(list(own_embeddings.glob("*.npy"))) == 4


def test_a_changed_image_is_asked_again(drawn, tmp_path):
    model, network = model_of()
    before = embedded(open_all(drawn), model, flip=False).embedding_ND.copy()
    image_HW3 = face(3)
    image_HW3[8:] = 9
    write_image(tmp_path / "images" / "3.png", image_HW3)
    after = embedded(open_all(drawn), model, flip=False).embedding_ND
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.tolist() == [2] and after[2, 3] == pytest.approx(9) and len(network.asked) == 2 * NUM_IMAGES


def test_the_kept_file_is_not_written_to(drawn, own_embeddings):
    """Rows that cannot be used are zeros for the judge and stay as they were on disk."""
    model, _ = model_of({5: torch.nan})
    for _ in range(2):
        found = embedded(open_all(drawn), model, flip=False)
        assert not found.embedding_ND[4].any() and found.num_unusable == 1
    (path,) = own_embeddings.glob("*.npy")
    assert np.isnan(np.load(path)[4]).all()


def test_what_cannot_be_used_is_counted_and_named(drawn, tmp_path):
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    (tmp_path / "images" / "6.png").write_bytes((tmp_path / "images" / "6.png").read_bytes()[:60])
    write_image(tmp_path / "images" / "11.png", face(10))
    the_set = open_all(drawn)
    (tmp_path / "images" / "1.png").unlink()  # between opening and asking: its reason has a colon of its own
    model, _ = model_of({3: torch.nan, 4: torch.inf, 5: 0.0, 7: 1e-20})
    found = embedded(the_set, model, flip=False)
    assert found.num_unusable == 7
    assert np.flatnonzero(~found.embedding_ND.any(axis=1)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    corrupt, unreadable, not_finite, zero, equal, torn = found.notices
    assert corrupt.startswith("2 images cannot be read and are like nobody: 2.png: ") and "6.png: " in corrupt
    assert unreadable.startswith("1 images could not be read this time") and unreadable.endswith("nobody: 1.png")
    assert not_finite == "2 embeddings are not finite and count as like nobody: 3.png, 4.png"
    assert zero == "2 embeddings are zero and count as like nobody: 5.png, 7.png"
    assert equal == "2 images are the same picture as another one, under another name: 10.png = 11.png"
    assert torn == "of these, 1 groups have more than one label: 10.png = 11.png"


def test_what_could_not_be_read_is_asked_for_again(drawn, tmp_path):
    """A disk that was away is no corrupt image; only what failed is asked for again."""
    the_set, path = open_all(drawn), tmp_path / "images" / "1.png"
    away = path.rename(tmp_path / "away.png")
    model, network = model_of({})
    found = embedded(the_set, model, flip=False)
    assert found.num_unusable == 1 and not found.embedding_ND[0].any()
    count = len(network.asked)
    assert embedded(the_set, model, flip=False).num_unusable == 1  # still away
    away.rename(path)
    found = embedded(the_set, model, flip=False)
    assert found.num_unusable == 0 and found.embedding_ND.any(axis=1).all()
    assert len(network.asked) == count + 1  # that image alone
    assert embedded(the_set, model, flip=False).num_unusable == 0 and len(network.asked) == count + 1


def test_the_network_that_gave_up_is_seen(drawn):
    model, _ = model_of(fallback=3.0)
    equal, torn = embedded(open_all(drawn), model, flip=False).notices
    assert equal.startswith("11 different pictures have the same embedding, as of a network that gave up: 1.png = ")
    assert "1 groups have more than one label" in torn


def test_pairs_have_no_labels_to_be_torn(tmp_path, faces):
    (tmp_path / "pairs.txt").write_text("1\t1\np00\t1\t2\np01\t1\tp02\t1\n")
    model, _ = model_of(fallback=3.0)
    (said,) = embedded(open_pairs(f"{tmp_path / 'pairs.txt'}@{faces}"), model, flip=True).notices
    assert said.startswith("4 different pictures have the same embedding, as of a network that gave up: p00/")


def test_a_picture_that_is_probe_and_gallery_at_once_is_said_for_what_it_is(drawn, tmp_path, own_embeddings):
    """By its name, or as a copy under another name; a network that answers nothing else is not suspected."""
    (tmp_path / "images" / "copy.png").write_bytes((tmp_path / "images" / "3.png").read_bytes())
    probes, gallery = (("1", "a"), ("3", "b"), ("4", "c")), (("1", "a"), ("2", "a"), ("copy", "b"), ("4", "c"))
    rows = [(f"{name}.png", label, "probe") for name, label in probes]
    rows += [(f"{name}.png", label, "gallery") for name, label in gallery]
    write_list(tmp_path / "ids.csv", ("image", "label", "role"), rows)
    the_set = open_identification(f"{tmp_path / 'ids.csv'}@{tmp_path / 'images'}")
    assert the_set.notices == [
        "2 of 3 probes are also in the gallery: 1.png, 4.png; the own image is left out of what is searched"
    ]
    model, _ = model_of({})
    assert embedded(the_set, model, flip=False).notices == [
        "2 images are the same picture as another one, under another name: 3.png = copy.png",
        "of these, 1 groups of one picture are searched for and in the gallery at once: 3.png = copy.png",
    ]


@pytest.mark.parametrize("value", [torch.nan, 0.0, -torch.inf])
def test_all_unusable_is_an_error(drawn, tmp_path, value):
    (tmp_path / "images" / "9.png").write_bytes(b"no image")
    model, _ = model_of(fallback=value)
    says = (
        "drawn: none of its 11 images can be used: Answering gives no embedding of the others that is finite and not "
        "zero; "
        r"1 cannot be read, the first: 9\.png: "
    )
    with pytest.raises(UserError, match=says):
        embedded(open_all(drawn), model, flip=False)


def test_many_that_cannot_be_read_are_counted_and_some_named(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "MAX_LISTED", 3)
    (tmp_path / "images").mkdir()
    for number in range(1, 21):
        (tmp_path / "images" / f"{number:02d}.png").write_bytes(b"x")
    for number in (18, 19, 20):
        write_image(tmp_path / "images" / f"{number:02d}.png", face(number))
    rows = [(f"{number:02d}.png", 1) for number in range(1, 21)]
    path = write_list(tmp_path / "x.csv", ("image", "label"), rows)
    model, _ = model_of({19: torch.nan})
    found = embedded(open_all(f"{path}@{tmp_path / 'images'}"), model, flip=False)
    assert found.num_unusable == 18
    assert found.notices[0].startswith("17 images cannot be read and are like nobody: 01.png: ")
    assert found.notices[0].endswith(" and 14 more")
    assert found.notices[1] == "1 embeddings are not finite and count as like nobody: 19.png"


def test_blocks_of_rows_do_not_matter(drawn, monkeypatch):
    answers = {1: torch.nan, 6: 0.0, 11: torch.nan}
    whole = embedded(open_all(drawn), model_of(answers)[0], flip=False)
    monkeypatch.setattr(embedded_module, "ROWS", 2)
    assert embedded(open_all(drawn), model_of(answers)[0], flip=False).notices == whole.notices
    assert whole.num_unusable == 3


KILLED = """
    import os, signal, sys
    import torch
    from zennas.embed import embeddings
    from zennas.evaluate.embedded import embedded
    from zennas.embed.named import open_named
    from zennas.evaluate.sets import open_all
    from zennas.evaluate import embedded as embedded_module

    torch.set_num_threads(1)
    embeddings.SAVE_EVERY_S = 0.0
    embedded_module.BATCH = {"cpu": 4}
    embedded(
        open_all(sys.argv[2]), open_named(sys.argv[1]).model, flip=True,
        progress=lambda done, total: done == 8 and os.kill(os.getpid(), signal.SIGKILL),
    )
"""


def test_killed_it_goes_on_where_it_was(drawn, tmp_path, own_embeddings, monkeypatch):
    path = saved(squares(), tmp_path / "net.onnx")
    killed = forked(textwrap.dedent(KILLED), path, drawn)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    (sidecar,) = own_embeddings.glob("*.npy.json")
    assert Sidecar.load(sidecar).done == 8
    monkeypatch.setattr(embedded_module, "BATCH", {"cpu": 4})
    seen, model = [], open_named(str(path)).model
    resumed = embedded(open_all(drawn), model, flip=True, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(11, 11)]
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "other"))
    whole = embedded(open_all(drawn), model, flip=True)
    # The same batches on one thread: sums in the same order.
    assert np.array_equal(resumed.embedding_ND, whole.embedding_ND)


def test_a_kept_file_that_somebody_damaged_is_said(drawn, own_embeddings):
    model, _ = model_of()
    embedded(open_all(drawn), model, flip=False)
    (path,) = own_embeddings.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot be written, or is not what its \.json says"):
        embedded(open_all(drawn), model, flip=False)
    sidecar = path.with_name(path.name + ".json")
    sidecar.write_text(json.dumps({"model": "x"}))
    with pytest.raises(UserError, match=r"json: key 'images' is missing"):
        embedded(open_all(drawn), model, flip=False)


def test_where_it_is_kept(tmp_path, monkeypatch):
    one = kept_path("key", ".npy")
    assert one.parent == tmp_path / "cache" / "embeddings" and one.parent.is_dir()
    assert one == kept_path("key", ".npy") != kept_path("other", ".npy")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written: .*; set ZENNAS_CACHE to a folder with room"):
        kept_path("key", ".npy")
    monkeypatch.delenv("ZENNAS_CACHE")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path / "home")
    assert kept_path("key", ".npy").parent == tmp_path / "home" / ".cache" / "zennas" / "embeddings"
