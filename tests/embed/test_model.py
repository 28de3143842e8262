import io
import os
import pathlib
import pickle
import signal
import textwrap
import warnings

import cv2
import filelock
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.processes import forked
from tests.shapes import square
from zennas.data.images import decode
from zennas.data.sources import open_source
from zennas.embed.checkpoint import load_network, save_network
from zennas.embed.embeddings import Sidecar, precompute, sidecar_of
from zennas.embed.features import Features, attention_of
from zennas.embed.model import open_model
from zennas.export.onnx_file import to_onnx
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.network import build, calibrate
from zennas.tasks.identity.distill import DISTILLATIONS

CANDIDATE = Candidate(block="ir_cbam", stem=8, widths=(8, 16), depths=(1, 2))
PX, SIZE = 16, 6
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def made(seed=0, block="ir_cbam"):
    candidate = CANDIDATE.model_copy(update={"block": block})
    network = build(candidate, square(PX, SIZE), generator=seeded(seed))
    return calibrate(network, torch.randn(8, 3, PX, PX, generator=seeded(seed)))


def images(batch, *, px=PX):
    return torch.randint(0, 256, (batch, px, px, 3), dtype=torch.uint8, generator=seeded(batch))


def answer_by_hand(network, image_BHW3):
    """Each face alone, each channel normalised by itself."""
    rows = []
    for image_HW3 in image_BHW3:
        channels = [(image_HW3[:, :, c].double() - MEAN[c]) / STD[c] for c in range(3)]
        with torch.no_grad():
            rows.append(network(torch.stack(channels)[None].float())[0])
    return torch.stack(rows)


# --- network.pt


def test_a_network_comes_back_as_it_was(tmp_path):
    network = made().train()
    network.stem[1].num_batches_tracked += 3
    save_network(tmp_path / "network.pt", network)
    assert network.training and os.listdir(tmp_path) == ["network.pt"]
    for path in (tmp_path / "network.pt", tmp_path, str(tmp_path)):
        loaded = load_network(path)
        assert loaded.candidate == CANDIDATE and loaded.input_shape == (3, PX, PX) and not loaded.training
        assert all(weight.requires_grad for weight in loaded.parameters())
        old, new = network.state_dict(), loaded.state_dict()
        assert list(old) == list(new) and all(torch.equal(old[name], new[name]) for name in old)


def test_half_weights_are_read_as_float32(tmp_path):
    save_network(tmp_path / "network.pt", made().half())
    loaded = load_network(tmp_path)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert loaded.stem[1].num_batches_tracked.dtype == torch.int64


class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("evil"),)


def content(**changes):
    network = made()
    return {
        "candidate": CANDIDATE.plain(),
        "image_px": PX,
        "embedding_size": SIZE,
        "weights": network.state_dict(),
    } | changes


def without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


def sparse_map(weight):
    return weight.to_sparse() if weight.ndim == 4 else weight


HUGE = Candidate(block="ir", stem=8, widths=(8, 16), depths=(60_000, 2)).plain()
WIDE = Candidate(block="ir_cbam", stem=2**16, widths=(2**16, 16), depths=(1, 2)).plain()
WRONG = {
    "another dict": (lambda: {"state_dict": {}}, "one holds candidate, image_px, embedding_size, weights"),
    "a tensor": (lambda: torch.zeros(3), "not a network of zennas; one holds"),
    "an object that runs": (Evil, "not a network of zennas"),
    "one more key": (lambda: content(optimizer={}), "one holds"),
    "no weights": (lambda: content(weights=None), "one holds"),
    "weights that run": (lambda: content(weights=Evil()), "not a network of zennas"),
    "a block of nobody's": (lambda: content(candidate=CANDIDATE.plain() | {"block": "ir_cbm"}), "block 'ir_cbm'"),
    "a candidate with more": (lambda: content(candidate=CANDIDATE.plain() | {"x": 1}), "key 'x' is not known"),
    "another candidate": (
        lambda: content(candidate=CANDIDATE.plain() | {"stem": 9}),
        "not those of ir_cbam-9-8x1-16x2",
    ),
    "a missing weight": (lambda: content(weights=without(made().state_dict(), "stem.0.weight")), "not those of"),
    "no tensor": (
        lambda: content(weights=made().state_dict() | {"stem.0.weight": 3}),
        "stem.0.weight: sparse, .*no numbers",
    ),
    "a sparse weight": (
        lambda: content(weights={name: sparse_map(weight) for name, weight in made().state_dict().items()}),
        "sparse, complex, .*; allowed: dense numbers",
    ),
    "a size of text": (lambda: content(image_px="16"), "image_px: given '16', allowed: an integer of at least 1"),
    "a size below one": (lambda: content(embedding_size=0), "embedding_size: given 0"),
    "another image size": (lambda: content(image_px=32), "not those of"),
    "an odd image size": (lambda: content(image_px=18), "18 px do not allow it"),
    "a hostile depth": (lambda: content(candidate=HUGE), r"\d+ weights cannot be those of 60002 blocks"),
    "a hostile width": (lambda: content(candidate=WIDE), "not those of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_network_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, words = WRONG[name]
    torch.save(value(), "other.pt")
    with pytest.raises(UserError, match=rf"^other\.pt: .*{words}"):
        load_network("other.pt")
    assert not pathlib.Path("evil").exists()


def test_damaged_bytes_are_refused(tmp_path):
    save_network(tmp_path / "network.pt", made())
    whole = (tmp_path / "network.pt").read_bytes()
    for damaged in (
        b"",
        b"text",
        pickle.dumps(Evil(), protocol=2),
        whole[:100],
        whole[:-1000],
        b"PK\x03\x04" + bytes(100),
    ):
        (tmp_path / "bad.pt").write_bytes(damaged)
        with pytest.raises(UserError, match=r"bad\.pt: not a network of zennas"):
            load_network(tmp_path / "bad.pt")
    before, name, after = whole.rpartition(b"data.pkl")  # of the archive's directory
    (tmp_path / "bad.pt").write_bytes(before + b"\xca" + name[1:] + after)
    with pytest.raises(UserError, match=r"bad\.pt: not a network of zennas"):
        open_model(tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"nowhere: no such file; allowed: a zennas checkpoint"):
        load_network(tmp_path / "nowhere")


# --- one teacher in every form


def as_checkpoint(network, folder):
    save_network(folder / "network.pt", network)
    return folder


def as_onnx(network, folder, *, batch=None):
    model = onnx.load_from_string(to_onnx(network, {"image": (3, PX, PX)}))
    if batch:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    (folder / "teacher.bin").write_bytes(model.SerializeToString())
    return folder / "teacher.bin"


def as_pt2(network, folder, *, batch=torch.export.Dim.DYNAMIC):
    image_B3HW = torch.zeros(batch if isinstance(batch, int) else 2, 3, PX, PX)
    dims = None if isinstance(batch, int) else ({0: batch},)
    torch.export.save(torch.export.export(network, (image_B3HW,), dynamic_shapes=dims), folder / "teacher.pt2")
    return folder / "teacher.pt2"


def as_torchscript(network, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.zeros(2, 3, PX, PX)).save(folder / "teacher.ts")
    return folder / "teacher.ts"


FORMS = {
    "checkpoint": as_checkpoint,
    "module": lambda network, folder: network,
    "onnx": as_onnx,
    "onnx of one": lambda network, folder: as_onnx(network, folder, batch=1),
    "onnx of three": lambda network, folder: as_onnx(network, folder, batch=3),
    "pt2": as_pt2,
    "pt2 of three": lambda network, folder: as_pt2(network, folder, batch=3),
    "torchscript": as_torchscript,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_says_the_same_in_every_form(form, tmp_path):
    network = made()
    teacher = open_model(FORMS[form](network, tmp_path), mean=MEAN, std=STD, image_px=PX, trusted=True)
    assert (teacher.input_hw, teacher.embedding_size) == ((PX, PX), SIZE)
    for batch in (1, 3, 5):
        expected_BD = answer_by_hand(network, images(batch))
        features = teacher(images(batch))
        assert features.embedding_BD.dtype == torch.float32 and not features.embedding_BD.requires_grad
        # float32 through a dozen layers, in another order
        assert torch.allclose(features.embedding_BD, expected_BD, rtol=1e-4, atol=1e-5)
        assert expected_BD.std() > 0.1
        assert len(features.attention) == (6 if form in ("checkpoint", "module") else 0)


def test_the_module_that_was_given_stays_as_it_was():
    network = made().train()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    teacher = open_model(network, image_px=PX)
    teacher(images(4))
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_a_student_learns_and_its_teacher_does_not(name, tmp_path):
    teacher = open_model(as_checkpoint(made(), tmp_path))
    assert not isinstance(teacher, nn.Module)
    student = made(seed=1)
    before, first = teacher(images(4)).embedding_BD.clone(), None
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    neighbours_BKD = torch.randn(4, 3, SIZE, generator=seeded(5))
    for _ in range(8):
        with attention_of(student) as maps:
            embedding_BD = student((images(4).permute(0, 3, 1, 2) - 127.5) / 127.5)
            own = Features(embedding_BD, maps.take())
        value = DISTILLATIONS[name](own, teacher(images(4))._replace(neighbours_BKD=neighbours_BKD))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        first = first or value.item()
    assert value.item() < 0.95 * first
    assert torch.equal(teacher(images(4)).embedding_BD, before)


def test_no_gradient_reaches_a_teacher():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 2))

        def forward(self, image_B3HW):
            seen.append((self.training, torch.is_grad_enabled(), self.weight.requires_grad))
            return image_B3HW.mean((2, 3)) @ self.weight

    open_model(Watched().train())(images(2, px=112))
    assert set(seen) == {(False, False, False)}


# --- sizes, kinds and other trouble


def test_images_of_another_size(tmp_path):
    teacher = open_model(as_checkpoint(made(), tmp_path), image_px=112)  # the file knows better
    assert teacher.input_hw == (PX, PX)
    with pytest.raises(UserError, match="takes images of 16 x 16, given 8 x 8; decode the faces at 16 x 16"):
        teacher(images(2, px=8))
    with pytest.raises(
        UserError, match=r"given images \(2, 3, 16, 16\) of torch.uint8, allowed: \(B, H, W, 3\) of uint8"
    ):
        teacher(images(2).permute(0, 3, 1, 2))
    with pytest.raises(UserError, match=r"of torch.float32, allowed"):
        teacher(images(2).float())


def test_resizing_is_asked_for(tmp_path):
    teacher = open_model(as_checkpoint(made(), tmp_path), resize=True)
    grey = torch.full((1, 40, 40, 3), 90, dtype=torch.uint8)
    assert torch.allclose(teacher(grey).embedding_BD, teacher(grey[:, :PX, :PX]).embedding_BD, atol=1e-5)
    halves = torch.cat([grey[:, :, :20] // 9, grey[:, :, 20:]], 2)
    assert not torch.allclose(teacher(halves).embedding_BD, teacher(grey).embedding_BD, atol=1e-2)
    assert teacher.fingerprint != open_model(tmp_path).fingerprint


def test_autocast_around_does_not_reach_it_and_its_own_does(tmp_path):
    path, image_BHW3 = as_checkpoint(made(), tmp_path), images(3)
    exact = open_model(path)(image_BHW3).embedding_BD
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(open_model(path)(image_BHW3).embedding_BD, exact)
    low = open_model(path, dtype=torch.bfloat16)
    difference = (low(image_BHW3).embedding_BD.float() - exact).abs().max()
    assert 0 < difference < 0.2 * exact.abs().max() and low.fingerprint != open_model(path).fingerprint


def test_the_fingerprint_is_of_what_the_answers_depend_on(tmp_path):
    (tmp_path / "other").mkdir()
    path, other = as_checkpoint(made(), tmp_path), as_checkpoint(made(seed=1), tmp_path / "other")
    one = open_model(path).fingerprint
    assert one == open_model(path / "network.pt").fingerprint == open_model(path, image_px=7).fingerprint
    others = [open_model(other), open_model(path, mean=MEAN), open_model(path, std=STD)]
    onnx_path = as_onnx(made(), tmp_path)
    others += [open_model(onnx_path), open_model(as_pt2(made(), tmp_path), trusted=True)]
    assert len({one, *(teacher.fingerprint for teacher in others)}) == 6
    assert open_model(onnx_path).fingerprint == others[3].fingerprint


class Wrong(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, image_B3HW):
        return self.answer(image_B3HW)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: (x.mean((2, 3)), x), "answers 2 images with tuple, allowed: a tensor"),
        (lambda x: x, r"answers 2 images with \(2, 3, 112, 112\)"),
        (lambda x: x.mean((0, 2))[:0], r"answers 2 images with \(0, 112\)"),
        (lambda x: x.mean((2, 3)) * torch.nan, "its embedding of a black image is not finite"),
        (lambda x: x.mean((2, 3)) @ torch.ones(4, 2), "fails on 2 images of 112 x 112: mat1 and mat2"),
    ],
)
def test_what_is_no_teacher_is_said_before_the_first_step(answer, words):
    with pytest.raises(UserError, match=f"Wrong: {words}"):
        open_model(Wrong(answer))


def test_an_embedding_may_end_in_axes_of_one():
    image_BHW3 = images(3, px=112)
    flat, pooled = (open_model(Wrong(answer)) for answer in (lambda x: x.mean((2, 3)), lambda x: x.mean((2, 3), True)))
    assert pooled.embedding_size == 3
    assert torch.equal(pooled(image_BHW3).embedding_BD, flat(image_BHW3).embedding_BD)


def plant(change):
    def build_it(folder):
        path = as_onnx(made(), folder)
        model = onnx.load(path)
        change(model.graph)
        path.write_bytes(model.SerializeToString())
        return path

    return build_it


def written(data):
    def build_it(folder):
        (folder / "x").write_bytes(data)
        return folder / "x"

    return build_it


def other_pt(folder):
    torch.save({"state_dict": {}}, folder / "x")
    return folder / "x"


def cut_pt2(folder):
    """Whole as an archive, without the program."""
    import zipfile

    with zipfile.ZipFile(folder / "x", "w") as archive:
        archive.writestr("x/archive_format", "pt2")
    return folder / "x"


def onnx_of(shape, dtype=onnx.TensorProto.FLOAT):
    """A file whose answer is the mean of each channel."""
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["embedding"]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(*value) for value in (("image", dtype, shape), ("embedding", dtype, None))
    ]
    graph = onnx.helper.make_graph(nodes, "mean", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    return written(model.SerializeToString())


def two_outputs(graph):
    extra = onnx.helper.make_tensor_value_info(graph.node[0].output[0], onnx.TensorProto.FLOAT, None)
    graph.output.append(extra)


def two_inputs(graph):
    graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (lambda folder: folder / "nowhere.onnx", r"nowhere\.onnx: no such file; allowed: a zennas checkpoint"),
        (lambda folder: folder, r"network\.pt: no such file"),
        (written(b""), "x: cannot be opened as a network: .*allowed: a zennas checkpoint"),
        (written(b"hello"), "x: cannot be opened as a network"),
        (other_pt, "x: not a network of zennas; one holds candidate"),
        (cut_pt2, r"x: cannot be opened as a torch\.export program"),
        (onnx_of(["n", 2, 16, 16]), r"takes \['n', 2, 16, 16\], allowed: one input \[batch, 3 or 1, height, width\]"),
        (onnx_of(["n", 3, 16]), r"x: "),
        (onnx_of(["n", 3, 16, 16], onnx.TensorProto.FLOAT16), r"takes tensor\(float16\) and gives 1 outputs; allowed"),
        (plant(two_outputs), "gives 2 outputs; allowed"),
        (plant(two_inputs), "allowed: one input"),
    ],
)
def test_files_that_are_no_teacher(path, words, tmp_path):
    with pytest.raises(UserError, match=words):
        open_model(path(tmp_path), trusted=True)


def test_a_file_with_the_shape_of_one_image_in_its_nodes_is_asked_for_one_at_a_time(tmp_path):
    """Its input says that any batch is taken; its Reshape knows of one image."""
    shape = onnx.numpy_helper.from_array(np.array([1, -1], np.int64), "shape")
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        onnx.helper.make_node("Reshape", ["mean", "shape"], ["embedding"]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, one)
        for name, one in (("image", ["n", 3, 16, 16]), ("embedding", None))
    ]
    graph = onnx.helper.make_graph(nodes, "baked", values[:1], values[1:], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    (tmp_path / "x").write_bytes(model.SerializeToString())
    opened = open_model(tmp_path / "x", mean=(0, 0, 0), std=(1, 1, 1))
    grey_BHW3 = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 16, 16, 3)
    assert opened.embedding_size == 3
    assert opened(grey_BHW3).embedding_BD.tolist() == [[grey] * 3 for grey in range(7)]


def test_what_fails_only_later_is_one_line(tmp_path):
    def answer(image_B3HW):
        if image_B3HW.max() > 1:
            raise RuntimeError("out of memory\nand more")
        return image_B3HW.mean((2, 3))

    model = open_model(Wrong(answer), mean=(0, 0, 0), std=(1, 1, 1), image_px=PX)
    with pytest.raises(UserError, match=r"Wrong: fails on 3 images of 16 x 16: out of memory$"):
        model(torch.full((3, PX, PX, 3), 9, dtype=torch.uint8))


def test_images_need_not_be_square(tmp_path):
    model = open_model(onnx_of(["n", 3, 16, 20])(tmp_path), mean=(0, 0, 0), std=(1, 2, 4))
    assert model.input_hw == (16, 20)
    grey = torch.full((2, 16, 20, 3), 100, dtype=torch.uint8)
    assert model(grey).embedding_BD.tolist() == [[100.0, 50.0, 25.0]] * 2
    with pytest.raises(UserError, match="takes images of 16 x 20, given 20 x 16"):
        model(grey.transpose(1, 2))
    tall = open_model(onnx_of(["n", 3, "height", "width"])(tmp_path), image_px=(24, 12))
    assert tall.input_hw == (24, 12)


def test_channels_may_be_the_other_way_round(tmp_path):
    image_BHW3 = torch.tensor([30, 20, 10], dtype=torch.uint8).expand(2, 16, 16, 3)
    model = open_model(onnx_of(["n", 3, 16, 16])(tmp_path), mean=(1, 2, 3), std=(1, 1, 1), bgr=True)
    assert model(image_BHW3).embedding_BD.tolist() == [[9.0, 18.0, 27.0]] * 2
    assert model.fingerprint != open_model(tmp_path / "x", mean=(1, 2, 3), std=(1, 1, 1)).fingerprint


@pytest.mark.parametrize("form", ["pt2", "torchscript"])
def test_what_may_run_code_is_not_opened_from_strangers(form, tmp_path):
    path = {"pt2": as_pt2, "torchscript": as_torchscript}[form](made(), tmp_path)
    with pytest.raises(
        UserError, match="which can run code of its author's when it is opened; give it as FILE,trusted=yes"
    ):
        open_model(path, trusted=False)


def test_a_side_that_a_file_leaves_open_is_the_one_given(tmp_path):
    teacher = open_model(onnx_of(["n", 3, "height", "width"])(tmp_path), mean=(0, 0, 0), std=(1, 2, 4), image_px=24)
    assert (teacher.input_hw, teacher.embedding_size) == ((24, 24), 3)
    image_BHW3 = images(2, px=24)
    expected_BD = image_BHW3.double().mean((1, 2)) / torch.tensor([1, 2, 4])
    assert torch.allclose(teacher(image_BHW3).embedding_BD.double(), expected_BD, rtol=1e-5)  # float32 sums of 576


@pytest.mark.parametrize("bad", [{"std": (0, 1, 1)}, {"mean": (1, 2)}, {"std": (1, 1, float("nan"))}])
def test_a_normalisation_that_cannot_be(bad, tmp_path):
    with pytest.raises(UserError, match="allowed: three numbers each, std above 0"):
        open_model(as_checkpoint(made(), tmp_path), **bad)


# --- embeddings computed once

NUM_IMAGES, CORRUPT = 23, (0, 13)


@pytest.fixture
def source(tmp_path):
    """A folder of identities with PNGs of another size than the teacher's, two of which are none."""
    rng = np.random.default_rng(0)
    for index in range(NUM_IMAGES):
        folder = tmp_path / "faces" / f"person{index // 5}"
        folder.mkdir(parents=True, exist_ok=True)
        data = cv2.imencode(".png", rng.integers(0, 256, (20, 20, 3), np.uint8))[1].tobytes()
        (folder / f"{index:02d}.png").write_bytes(b"no image" if index in CORRUPT else data)
    return open_source(tmp_path / "faces")


@pytest.fixture
def teacher(tmp_path):
    (tmp_path / "teacher").mkdir()
    return open_model(as_checkpoint(made(), tmp_path / "teacher"))


class Unused:
    """A teacher that must not be asked."""

    def __init__(self, teacher):
        self.fingerprint, self.embedding_size, self.input_hw = teacher.fingerprint, teacher.embedding_size, (PX, PX)

    def __call__(self, image_BHW3):
        raise AssertionError("asked")


def test_precomputed_embeddings_are_the_teacher_s(teacher, source, tmp_path):
    path, seen = tmp_path / "kept" / "embeddings.npy", []
    embedding_ND = precompute(teacher, source.images, path, batch=4, progress=lambda *at: seen.append(at))
    assert embedding_ND.shape == (NUM_IMAGES, SIZE) and embedding_ND.dtype == np.float16
    assert isinstance(embedding_ND, np.memmap) and not embedding_ND.flags.writeable
    for index in range(NUM_IMAGES):
        if index in CORRUPT:
            assert np.isnan(embedding_ND[index]).all()
            continue
        image_HW3 = torch.from_numpy(decode(source.read(index), image_px=PX))
        expected_D = teacher(image_HW3[None]).embedding_BD[0]
        # float16 has 11 bits
        assert embedding_ND[index].tolist() == pytest.approx(expected_D.tolist(), rel=2**-10, abs=1e-4)
    assert seen == [(min(done, NUM_IMAGES), NUM_IMAGES) for done in range(4, NUM_IMAGES + 4, 4)]
    sidecar = Sidecar.load(sidecar_of(path))
    assert (sidecar.done, sidecar.num_corrupt, len(sidecar.corrupt)) == (NUM_IMAGES, 2, 2)
    for said, index in zip(sidecar.corrupt, CORRUPT, strict=True):
        assert said.startswith(f"{source.where(index)}: ")
    again_ND = precompute(Unused(teacher), source.images, path)  # whole: opened, not computed
    assert np.array_equal(again_ND, embedding_ND, equal_nan=True)


KILLED = """
    import os, signal, sys
    import torch
    from zennas.data.sources import open_source
    from zennas.embed import embeddings
    from zennas.embed.model import open_model

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    folder, when = sys.argv[1:]
    embeddings.SAVE_EVERY_S = 0.0
    if when == "before a count":  # rows of a third batch are written, and nobody knows
        write, counts = embeddings.write_atomically, []
        embeddings.write_atomically = lambda *given: die() if len(counts) == 3 else (counts.append(0), write(*given))
    progress = (lambda done, total: done == 8 and die()) if when == "after a count" else None
    teacher, images = open_model(folder + "/teacher"), open_source(folder + "/faces").images
    embeddings.precompute(teacher, images, folder + "/x.npy", batch=4, progress=progress)
"""


@pytest.mark.parametrize("when", ["after a count", "before a count"])
def test_killed_it_goes_on_where_it_was(when, teacher, source, tmp_path):
    killed = forked(textwrap.dedent(KILLED), tmp_path, when)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert Sidecar.load(sidecar_of(tmp_path / "x.npy")).done == 8
    seen = []
    resumed_ND = precompute(
        teacher, source.images, tmp_path / "x.npy", batch=4, progress=lambda done, total: seen.append(done)
    )
    assert seen == [12, 16, 20, 23]
    whole_ND = precompute(teacher, source.images, tmp_path / "whole.npy", batch=4)
    # Exact would be too much to ask of two numbers of threads: the last bit of float16.
    assert np.allclose(resumed_ND, whole_ND, rtol=2**-10, atol=1e-4, equal_nan=True)
    assert Sidecar.load(sidecar_of(tmp_path / "x.npy")) == Sidecar.load(sidecar_of(tmp_path / "whole.npy"))


def test_embeddings_of_somebody_else_are_left_alone(teacher, source, tmp_path):
    path = tmp_path / "x.npy"
    before = precompute(teacher, source.images, path)
    other = open_model(made(seed=1))
    with pytest.raises(UserError, match=r"x\.npy: holds other embeddings \(model: .*choose another path"):
        precompute(other, source.images, path)
    (tmp_path / "faces" / "person0" / "more.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds other embeddings \(images: "):
        precompute(teacher, open_source(tmp_path / "faces").images, path)
    assert np.array_equal(np.load(path), before, equal_nan=True)
    (tmp_path / "mine.npy").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"mine\.npy: is there and holds no embeddings of zennas"):
        precompute(teacher, source.images, tmp_path / "mine.npy")
    assert (tmp_path / "mine.npy").read_bytes() == b"mine"


@pytest.mark.parametrize("damage", ["gone", "cut", "another shape", "garbage"])
def test_embeddings_that_are_not_what_was_noted_are_said(damage, teacher, source, tmp_path):
    path = tmp_path / "x.npy"
    precompute(teacher, source.images, path)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "another shape":
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((3, SIZE), np.float16))
        path.write_bytes(buffer.getvalue())
    else:
        path.write_bytes(whole[:-10] if damage == "cut" else b"garbage")
    with pytest.raises(UserError, match=r"x\.npy: .*is not what its \.json says"):
        precompute(teacher, source.images, path)


def test_one_process_at_a_time(teacher, source, tmp_path):
    path = tmp_path / "x.npy"
    with filelock.FileLock(tmp_path / ".x.npy.lock"), pytest.raises(UserError, match="another run is under way there"):
        precompute(teacher, source.images, path)
    precompute(teacher, source.images, path)
    precompute(teacher, source.images, path)  # the first one's lock has ended


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_an_embedding_that_float16_cannot_hold_is_no_corrupt_image(value, source, tmp_path):
    teacher = open_model(Wrong(lambda x: x.mean((2, 3)) * 0 + (value if x.std() > 0 else 1)), image_px=PX)
    with pytest.raises(UserError, match=r"its embedding of .*01\.png.* is not finite in float16"):
        precompute(teacher, source.images, tmp_path / "x.npy")


@pytest.mark.data
def test_the_real_teacher_knows_people():
    """MobileFaceNet, RGB with ImageNet's mean and std: two images of a person are nearer than those of two people."""
    data = pathlib.Path(os.environ["ZENNAS_DATA"])
    teacher = open_model(
        data / "models" / "mobilefacenet_foamliu.onnx", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    assert (teacher.input_hw, teacher.embedding_size) == ((112, 112), 128)
    source = open_source(data / "faces" / "lfw_aligned_112.tar")
    label_N = np.asarray(source.label_N)
    several = np.flatnonzero(np.bincount(label_N) >= 2)[:40]
    index_P2 = np.array([np.flatnonzero(label_N == label)[:2] for label in several])
    image_BHW3 = torch.from_numpy(np.stack([decode(source.read(index)) for index in index_P2.T.flatten()]))
    embedding_BD = nn.functional.normalize(teacher(image_BHW3).embedding_BD)
    cosine_PP = embedding_BD[:40] @ embedding_BD[40:].T
    # Its published accuracy on LFW is above 99 %: of 40 people all but one or two find themselves.
    assert (cosine_PP.argmax(1) == torch.arange(40)).sum() >= 38
