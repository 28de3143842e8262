"""Faces drawn by a formula in every layout that a set may have, networks of two nodes, and the command in this
process."""

import contextlib
import io
import re

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import Ended
from tests.train.conftest import drawn_faces, write_folder, write_pairs
from zennas.embed import embeddings
from zennas.evaluate.__main__ import main

NUM_IDENTITIES, IMAGES_EACH, PX = 12, 4, 16


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of 12 people with 4 images each, p00/p00_0001.png."""
    return write_folder(tmp_path_factory.mktemp("drawn") / "faces", drawn_faces(NUM_IDENTITIES, IMAGES_EACH, seed=3))


def image_name(identity, number):
    return f"p{identity:02d}/p{identity:02d}_{number:04d}.png"


def person(where):
    """The identity in a name that `image_name` made."""
    return int(re.search(r"p(\d\d)_", where)[1])


def perfect(the_set, size=NUM_IDENTITIES + 2):
    """embedding_ND of a network that knows everybody: a one where the identity is."""
    return np.eye(size, dtype=np.float32)[[person(the_set.images.where(n)) for n in range(the_set.images.num_images)]]


def random_rows(num, size=8, *, seed=0):
    return np.random.default_rng(seed).normal(size=(num, size)).astype(np.float32)


def write_list(path, columns, rows, *, tab=","):
    path.write_text("\n".join(tab.join(map(str, row)) for row in [columns, *rows]) + "\n")
    return path


# --- a set for each protocol: (folder to write to, faces) -> WHERE ---------------------------------------------------


def everybody():
    return [(identity, number) for identity in range(NUM_IDENTITIES) for number in range(1, IMAGES_EACH + 1)]


def as_pairs(folder, faces):
    pairs = write_pairs(
        folder / "drawn.txt", num_identities=NUM_IDENTITIES, images_each=IMAGES_EACH, num_folds=3, per_kind=6
    )
    return f"{pairs}@{faces}"


def as_mfr(folder, faces):
    """Identities 0 and 1 wear masks in two of their images, 2 and 3 are children, and two are of each race."""
    rows = [(image_name(i, n), f"m{i}", "mask", int(n > 2)) for i, n in everybody() if i < 2]
    rows += [(image_name(i, n), f"k{i}", "children", 0) for i, n in everybody() if i in (2, 3)]
    for place, race in enumerate(("african", "caucasian", "indian", "asian")):
        rows += [(image_name(i, n), i, race, "") for i, n in everybody() if i // 2 == place + 2]
    return f"{write_list(folder / 'mfr.csv', ('image', 'label', 'subset', 'masked'), rows)}@{faces}"


def as_webface(folder, faces):
    rows = [
        (image_name(i, n), i, "yes" if n == 4 else "no", ("Controlled", "wild")[i % 2] if n == 4 else "")
        for i, n in everybody()
    ]
    return f"{write_list(folder / 'web.csv', ('image', 'label', 'masked', 'scene'), rows)}@{faces}"


def as_reid(folder, faces):
    rows = [(image_name(i, n), i, f"c{n % 3}", "query" if n == 1 else "gallery") for i, n in everybody()]
    return f"{write_list(folder / 'reid.csv', ('image', 'label', 'camera', 'role'), rows)}@{faces}"


def as_identification(folder, faces):
    """Identities from 8 on are nobody in the gallery."""
    rows = [(image_name(i, n), i, "gallery" if n > 2 else "probe") for i, n in everybody() if i < 8 or n <= 2]
    return f"{write_list(folder / 'ids.csv', ('image', 'label', 'role'), rows)}@{faces}"


def as_list(folder, faces):
    return (
        f"{write_list(folder / 'all.csv', ('image', 'label'), [(image_name(i, n), i) for i, n in everybody()])}@{faces}"
    )


TEMPLATE_52 = np.array(  # insightface's, for 112 px: eyes, nose, corners of the mouth
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def as_ijb(folder, faces):
    """Two templates for each identity, of two images each, which are of one media in the first template."""
    folder, points, media, pairs = folder / "IJBX", [], [], []
    (folder / "loose_crop").mkdir(parents=True)
    (folder / "meta").mkdir()
    for identity, number in everybody():
        name = f"p{identity:02d}_{number:04d}.png"
        (folder / "loose_crop" / name).write_bytes((faces / image_name(identity, number)).read_bytes())
        points.append([name, *(TEMPLATE_52 * 32 / 112).ravel().round(3), 0.5 + 0.1 * number])
        media.append([name, 10 * identity + (number > 2), number if number > 2 else 77])
    for one in range(NUM_IDENTITIES):
        pairs += [(10 * one, 10 * other + 1, int(one == other)) for other in range(NUM_IDENTITIES)]
    for name, rows in (
        ("ijbx_name_5pts_score", points),
        ("ijbx_face_tid_mid", media),
        ("ijbx_template_pair_label", pairs),
    ):
        (folder / "meta" / f"{name}.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows) + "\n")
    return str(folder)


SETS = {
    "pairs": as_pairs,
    "ijb": as_ijb,
    "mfr": as_mfr,
    "webface": as_webface,
    "reid": as_reid,
    "identification": as_identification,
    "all": as_list,
}


def set_for(protocol, folder, faces):
    """WHERE of a protocol's set; a test of one that has none here is skipped."""
    if protocol not in SETS:
        pytest.skip(f"write a set of drawn faces for '{protocol}', and its row in SETS of tests/evaluate/conftest.py")
    return SETS[protocol](folder, faces)


# --- networks ---------------------------------------------------------------------------------------------------------


def onnx_of(nodes, weights=(), *, px=PX, batch="n", first_nodes=()):
    """The onnx.ModelProto image [batch, 3, px, px] -> embedding."""
    graph = helper.make_graph(
        [*first_nodes, *nodes],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, px, px])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def means(**options):
    """A network whose answer is the mean of each channel as it is fed."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    return onnx_of(nodes, **options)


def square_weights(size=12, *, seed=0, px=PX):
    """weight_KD of the network below."""
    return np.random.default_rng(seed).normal(size=(3 * (px // 4) ** 2, size)).astype(np.float32)


def squares(size=12, *, seed=0, px=PX, **options):
    """One that sees 4 x 4 squares of a face, through random weights: no good, and not the same for two faces."""
    weight_KD = square_weights(size, seed=seed, px=px)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["squares"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["squares"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    return onnx_of(nodes, [numpy_helper.from_array(weight_KD, "weight")], px=px, **options)


def saved(model, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_image(path, image_HW3):
    """An RGB image, as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image_HW3[..., ::-1])
    return path


@pytest.fixture
def own_embeddings(tmp_path, monkeypatch):
    """A cache for this test alone."""
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embeddings"


@pytest.fixture
def asked(monkeypatch):
    """A list that grows with each batch of which a network is asked."""
    rows, seen = embeddings._rows, []
    monkeypatch.setattr(
        embeddings, "_rows", lambda model, pixels, *more: seen.append(len(pixels)) or rows(model, pixels, *more)
    )
    return seen


def ran(*arguments):
    """`zennas evaluate` in this process, to its end."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return Ended(ended.value.code, out.getvalue(), err.getvalue())
