"""--model: every spelling, every mistake, and files of strangers, of which nothing is run."""

import os
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.embed.test_model import as_pt2, as_torchscript, made
from tests.evaluate.conftest import PX, means, onnx_of, saved, squares
from zennas.embed.checkpoint import save_network
from zennas.embed.model import open_model
from zennas.embed.named import RGB_NORMALISATIONS, SPELLING, file_named, open_named, resolved
from zennas.export.onnx_file import to_onnx
from zennas.records import UserError

COLOUR = (30, 90, 200)  # R, G, B


def answer(named, *, hw=None, colour=COLOUR):
    image_BHW3 = torch.tensor(colour, dtype=torch.uint8).expand(2, *(hw or named.model.input_hw), 3)
    return named.model(image_BHW3).embedding_BD[0].tolist()


@pytest.fixture
def channels(tmp_path):
    """A file whose answer is the mean of each channel as it is fed."""
    return saved(means(), tmp_path / "channels.onnx")


@pytest.mark.parametrize(
    ("says", "mean", "std", "words"),
    [
        ("", (127.5,) * 3, (127.5,) * 3, "insightface, as the challenge's checker takes it to be"),
        (",normalise=insightface", (127.5,) * 3, (127.5,) * 3, "insightface"),
        (",normalise=imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "imagenet"),
        (",normalise=unit", (0,) * 3, (255,) * 3, "unit"),
        (",normalise=none", (0,) * 3, (1,) * 3, "none"),
        (",normalise=100/50", (100,) * 3, (50,) * 3, "(x - 100) / 50"),
        (",normalise=1e1/2.5", (10,) * 3, (2.5,) * 3, "(x - 10) / 2.5"),
        (",normalise=1/2/3:4/5/6", (1, 2, 3), (4, 5, 6), "(x - 1, 2, 3) / (4, 5, 6)"),
        (",normalise=7:4/5/6", (7,) * 3, (4, 5, 6), "(x - 7) / (4, 5, 6)"),
    ],
)
@pytest.mark.parametrize("colour", ["", ",colour=rgb", ",colour=bgr"])
def test_normalisation_and_colour(channels, says, mean, std, words, colour):
    named = open_named(f"{channels}{says}{colour}")
    expected = [(value - m) / s for value, m, s in zip(COLOUR, mean, std, strict=True)]
    if colour == ",colour=bgr":  # mean and std are those of R, G, B in every spelling, and go with their channel
        expected = [(value - m) / s for value, m, s in zip(COLOUR[::-1], mean, std, strict=True)]
    # float32 means of 256 pixels
    assert answer(named) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert named.normalisation == words + (", BGR" if colour == ",colour=bgr" else "")
    assert (named.name, named.kind, named.file) == ("channels", "onnx", channels)


def test_what_a_text_says_counts_before_what_holds_without_it(channels):
    recipe = {"mean": (10.0,) * 3, "std": (5.0,) * 3, "image_px": PX}
    assert answer(open_named(str(channels), unless_named=recipe)) == pytest.approx([4.0, 16.0, 38.0], rel=1e-5)
    named = open_named(f"{channels},normalise=none,colour=bgr", unless_named=recipe)
    assert answer(named) == pytest.approx(COLOUR[::-1], rel=1e-5)


def test_a_named_file_holds_in_any_working_folder(channels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1,wd=5e-4").mkdir()
    for text, expected in (
        ("channels.onnx", f"{channels}"),
        ("channels.onnx,normalise=1/2/3:4/5/6,px=8x16", f"{channels},px=8x16,normalise=1/2/3:4/5/6"),
        ("./lr=0.1,wd=5e-4,trusted=yes", f"{tmp_path / 'lr=0.1,wd=5e-4'},trusted=yes"),
    ):
        assert resolved(text, "--teacher") == expected
        assert file_named(text, "--teacher").exists()
    with pytest.raises(UserError, match=r"--teacher channels.onnx,norm=none: 'norm' is not known"):
        resolved("channels.onnx,norm=none", "--teacher")


def test_imagenet_is_what_torchvision_says():
    mean, std = RGB_NORMALISATIONS["imagenet"]
    assert [value / 255 for value in mean] == pytest.approx([0.485, 0.456, 0.406])
    assert [value / 255 for value in std] == pytest.approx([0.229, 0.224, 0.225])


def test_a_file_that_normalises_itself_is_left_to_it(tmp_path):
    """By the names of its first nodes, as the challenge's checker has it."""
    first = [
        helper.make_node("Sub", ["image", "mean"], ["less"], name="Sub_0"),
        helper.make_node("Mul", ["less", "factor"], ["fed"], name="Mul_1"),
    ]
    model = means(first_nodes=first)
    model.graph.node[2].input[0] = "fed"
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), name) for name, value in (("mean", 127.5), ("factor", 1 / 127.5))
    )
    named = open_named(str(saved(model, tmp_path / "own.onnx")))
    assert named.normalisation == "none, as the challenge's checker takes it to be"
    assert answer(named) == pytest.approx([(value - 127.5) / 127.5 for value in COLOUR], rel=1e-5)


def test_names(tmp_path, channels):
    assert open_named(f"{channels},name=my net").name == "my net"
    generic = saved(means(), tmp_path / "ours" / "model.onnx")
    assert open_named(str(generic)).name == "ours"
    (tmp_path / "run").mkdir()
    save_network(tmp_path / "run" / "network.pt", made())
    for path in (tmp_path / "run", tmp_path / "run" / "network.pt"):
        named = open_named(str(path))
        assert (named.name, named.kind, named.normalisation) == ("run", "checkpoint", "insightface")
        assert named.file == tmp_path / "run" / "network.pt"


@pytest.mark.parametrize("name", ["a,b.onnx", "a,b=1.onnx", "lr=0.1,wd=5e-4/x.onnx", "x,px=7"])
def test_commas_may_stand_in_paths(tmp_path, name):
    path = saved(means(), tmp_path / name)
    assert open_named(str(path)).file == path
    assert open_named(f"{path},name=x,normalise=none").name == "x"


def test_a_checkpoint_answers_as_its_network(tmp_path):
    network = made()
    save_network(tmp_path / "network.pt", network)
    named = open_named(f"{tmp_path},normalise=imagenet")
    fed = (torch.tensor(COLOUR) - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    with torch.no_grad():
        expected = network.eval()(fed.view(1, 3, 1, 1).expand(1, 3, PX, PX))[0]
    assert answer(named) == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)  # float32 through a dozen layers


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch(tmp_path, batch):
    """Images beyond a whole batch are filled up, and what they filled up with is not seen."""
    free = open_named(str(saved(squares(), tmp_path / "free.onnx")))
    fixed = open_named(str(saved(squares(batch=batch), tmp_path / "fixed.onnx")))
    image_BHW3 = torch.from_numpy(np.random.default_rng(0).integers(256, size=(7, PX, PX, 3), dtype=np.uint8))
    for num in (1, 2, 3, 7):
        got, expected = (named.model(image_BHW3[:num]).embedding_BD for named in (fixed, free))
        assert got.shape == (num, 12) and torch.allclose(got, expected, rtol=1e-5, atol=1e-5)  # sums in another order


def test_sides(tmp_path):
    path = saved(means(px="side"), tmp_path / "any.onnx")
    assert open_named(str(path)).model.input_hw == (112, 112)
    assert open_named(f"{path},px=24").model.input_hw == (24, 24)
    for spelling in ("32x16", "32X16"):
        assert open_named(f"{path},px={spelling}").model.input_hw == (32, 16)
    fixed = saved(means(), tmp_path / "fixed.onnx")
    assert open_named(f"{fixed},px=16").model.input_hw == (16, 16)
    with pytest.raises(UserError, match=r"px=24: takes images of 16 x 16 itself; leave px out"):
        open_named(f"{fixed},px=24")


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("normalize=unit", "'normalize' is not known; did you mean 'normalise'"),
        ("size=112", "'size' is not known; .*spelling: FILE"),
        ("px=16,px=16", "says px twice"),
        ("name=", "name= says nothing"),
        ("normalise=", "normalise= says nothing"),
        (
            "normalise=imagnet",
            "normalise=imagnet: allowed: insightface, imagenet, unit, none, MEAN/STD, or M/M/M:S/S/S",
        ),
        ("normalise=1/2:3/4", "normalise=1/2:3/4: allowed"),
        ("normalise=127.5", "normalise=127.5: allowed"),
        ("normalise=nan/1", "normalise=nan/1: allowed"),
        ("normalise=0/inf", "normalise=0/inf: allowed"),
        ("normalise=0/0", "allowed: three numbers each, std above 0"),
        ("normalise=0/-1", "allowed: three numbers each, std above 0"),
        ("colour=grb", "colour=grb: allowed: rgb or bgr"),
        ("trusted=true", "trusted=true: allowed: no or yes"),
        ("px=0", "px=0: allowed: SIDE or HEIGHTxWIDTH in pixels, such as 112 or 256x128"),
        ("px=4097", "px=4097: allowed"),
        ("px=-1", "px=-1: allowed"),
        ("px=1x2x3", "px=1x2x3: allowed"),
        ("px=16px", "px=16px: allowed"),
    ],
)
def test_wrong_spellings(channels, says, words):
    with pytest.raises(UserError, match=rf"^--model .*{words}"):
        open_named(f"{channels},{says}")


def test_the_spelling_names_every_normalisation():
    assert all(name in SPELLING for name in RGB_NORMALISATIONS)


@pytest.mark.parametrize(("kind", "make"), [("pt2", as_pt2), ("torchscript", as_torchscript)])
def test_what_may_run_code_has_to_be_trusted(kind, make, tmp_path):
    path = make(made(), tmp_path)
    for text in (str(path), f"{path},trusted=no"):
        with pytest.raises(
            UserError, match=r"--model .*can run code of its author's when it is opened; give it as FILE,trusted"
        ):
            open_named(text)
    named = open_named(f"{path},px={PX},trusted=yes")
    assert (named.kind, named.normalisation) == (kind, "insightface")


# --- files of strangers


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


def as_hostile(marker):
    """Files of torch that run code where they are unpickled freely."""
    return {
        "whole": Evil(marker),
        "weights": {"weights": Evil(marker), "candidate": {}, "image_px": 1, "embedding_size": 1},
    }


@pytest.mark.parametrize("name", as_hostile(None))
@pytest.mark.parametrize("old", [False, True])
def test_a_hostile_checkpoint_runs_nothing(tmp_path, name, old):
    marker, path = tmp_path / "marker", tmp_path / "network.pt"
    torch.save(as_hostile(marker)[name], path, _use_new_zipfile_serialization=not old)
    torch.load(path, weights_only=False)  # it would do harm, else this test shows nothing
    assert marker.exists()
    marker.unlink()
    for text in (str(path), f"{path},trusted=yes", str(tmp_path)):
        with pytest.raises(UserError, match=r"--model .*network\.pt: "):
            open_named(text)
    assert not marker.exists()


def test_an_archive_that_calls_itself_a_program_is_refused_before_it_is_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("x/archive_format", "pt2")
        archive.writestr("x/data/weights/evil.pt", b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match="give it as FILE,trusted=yes"):
        open_named(str(tmp_path / "x.pt2"))
    with pytest.raises(UserError, match=r"cannot be opened as a torch.export program"):
        open_named(f"{tmp_path / 'x.pt2'},trusted=yes")


def outside(location, *, size=4, inside="the graph"):
    """A network that keeps its weights at `location`, said in the graph itself, a node of it, or a graph inside a
    node."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[3, size], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(12 * size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    nodes = [*means().graph.node, helper.make_node("MatMul", ["flat", "weight"], ["embedding"])]
    nodes[1].output[0] = "flat"
    constant = helper.make_node("Constant", [], ["weight"], value=tensor)
    if inside == "a node":
        return onnx_of([constant, *nodes])
    if inside == "a branch":
        output = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [3, size])
        branch = helper.make_graph([constant], "branch", [], [output])
        choice = helper.make_node("If", ["yes"], ["weight"], then_branch=branch, else_branch=branch)
        return onnx_of([choice, *nodes], [numpy_helper.from_array(np.array(True), "yes")])
    return onnx_of(nodes, [tensor])


WEIGHT_KD = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_weights_beside_the_file(tmp_path):
    (tmp_path / "more").mkdir()
    for place in ("weight.bin", "more/weight.bin"):
        (tmp_path / place).write_bytes(WEIGHT_KD.tobytes())
        path = saved(outside(place), tmp_path / "x.onnx")
        named = open_named(f"{path},normalise=none")
        assert answer(named) == pytest.approx((np.float32(COLOUR) @ WEIGHT_KD).tolist())
        (tmp_path / place).write_bytes((2 * WEIGHT_KD).tobytes())
        other = open_named(f"{path},normalise=none")
        assert answer(other) == pytest.approx((2 * np.float32(COLOUR) @ WEIGHT_KD).tolist())
        assert (
            named.model.fingerprint != other.model.fingerprint
        )  # else the first one's embeddings would be taken for its own


@pytest.mark.parametrize("inside", ["the graph", "a node", "a branch"])
@pytest.mark.parametrize("location", ["../secret.bin", "more/../../secret.bin", "ABSOLUTE", "gone.bin"])
def test_an_onnx_file_reads_nothing_outside_its_folder(tmp_path, location, inside):
    (tmp_path / "given" / "more").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(WEIGHT_KD.tobytes())
    location = location.replace("ABSOLUTE", str(tmp_path / "secret.bin"))
    path = saved(outside(location, inside=inside), tmp_path / "given" / "x.onnx")
    says = "is not beside it" if location == "gone.bin" else "does not lie in its folder; it was not opened"
    for opens in (open_model, lambda path: open_named(str(path))):
        with pytest.raises(UserError, match=rf"x.onnx: keeps weights in {location}, which {says}"):
            opens(path)


def damaged(folder):
    """name -> (path, what is said)"""
    whole = squares().SerializeToString()
    bad_node = squares()
    bad_node.graph.node[0].op_type = "Nothing"
    network = made()
    save_network(folder / "whole.pt", network)
    checkpoint = (folder / "whole.pt").read_bytes()
    files = {
        "empty": (b"", "not an ONNX network|holds no graph"),
        "text": (b"hello", "not an ONNX network"),
        "cut": (whole[: len(whole) // 2], "not an ONNX network"),
        "cut at the end": (whole[:-7], "not an ONNX network"),
        "garbage inside": (whole[:40] + bytes(200) + whole[240:], "not an ONNX network"),
        "an unknown operator": (bad_node.SerializeToString(), "cannot be opened as a network: .*Nothing"),
        "a cut checkpoint": (checkpoint[:-100], "not a network of zennas"),
        "an empty archive": (b"PK\5\6" + bytes(18), "not a network of zennas"),
        "archive's letters alone": (b"PK", "not a network of zennas"),
        "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX network"),
    }
    return {name: (data, says) for name, (data, says) in files.items()}


@pytest.mark.parametrize(
    "name",
    [
        "empty",
        "text",
        "cut",
        "cut at the end",
        "garbage inside",
        "an unknown operator",
        "a cut checkpoint",
        "an empty archive",
        "archive's letters alone",
        "a picture",
    ],
)
@pytest.mark.parametrize("more", ["", ",normalise=unit"])
def test_damaged_files(tmp_path, name, more):
    data, says = damaged(tmp_path)[name]
    (tmp_path / "x").write_bytes(data)
    says = f"{says}|cannot be opened as a network" if more and "ONNX" in says else says
    with pytest.raises(UserError, match=rf"^--model .*x: .*({says})"):
        open_named(f"{tmp_path / 'x'}{more}")


def test_no_file_at_all(tmp_path):
    for text, says in (
        (str(tmp_path / "nowhere"), "nowhere: no such file; allowed: a zennas checkpoint"),
        (str(tmp_path), r"network\.pt: no such file"),
        ("", "names no file; spelling: "),
    ):
        with pytest.raises(UserError, match=f"--model .*{says}"):
            open_named(text)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that nobody can read from its beginning")
def test_a_file_that_cannot_be_read():
    with pytest.raises(UserError, match=r"--model /proc/self/mem: cannot be read: Input/output error"):
        open_named("/proc/self/mem")


def test_a_network_that_gives_no_embeddings(tmp_path):
    network = made()
    with torch.no_grad():
        network.neck[-1].weight.fill_(torch.nan)
    for path in (tmp_path / "x.pt", tmp_path / "x.onnx"):
        if path.suffix == ".pt":
            save_network(path, network)
        else:
            path.write_bytes(to_onnx(network, {"image": (3, PX, PX)}))
        with pytest.raises(UserError, match=r"--model .*its embedding of a black image is not finite"):
            open_named(str(path))
    maps = saved(onnx_of([helper.make_node("Relu", ["image"], ["embedding"])]), tmp_path / "maps.onnx")
    with pytest.raises(
        UserError, match=r"answers 2 images with \(2, 3, 16, 16\), allowed: a tensor \(2, embedding size\)"
    ):
        open_named(str(maps))
