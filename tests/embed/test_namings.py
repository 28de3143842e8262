import collections
import os
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from tests.embed.public_networks import (
    PUBLIC,
    Body,
    IResNet,
    bottleneck_layers,
    evolve_layers,
    public,
    seeded_state,
    tface_layers,
)
from zennas.embed.checkpoint import load_network, read_checkpoint, save_network
from zennas.embed.model import open_model
from zennas.embed.named import open_named
from zennas.embed.namings import backbones_in, network_of
from zennas.records import UserError
from zennas.space.cost import cost

ATOL = 1e-5  # of outputs of about 1, summed in another order


def images(network_or_px, batch=2):
    px = network_or_px if isinstance(network_or_px, int) else network_or_px.shape.height
    return torch.randn(batch, 3, px, px, generator=torch.Generator().manual_seed(5))


def saved(content, folder, name="backbone.pth", **how):
    torch.save(content, folder / name, **how)
    return folder / name


def same_answers(theirs, ours, batch=2):
    image_BCHW = images(ours, batch)
    with torch.no_grad():
        expected_BD, answer_BD = theirs.eval()(image_BCHW), ours(image_BCHW)
    assert 0.1 < expected_BD.std() < 100
    assert torch.allclose(answer_BD, expected_BD, rtol=0, atol=ATOL * float(expected_BD.abs().max()))


@pytest.mark.parametrize("name", PUBLIC)
def test_weights_of_another_project_answer_as_they_do_there(name, tmp_path):
    theirs, block = public(name), PUBLIC[name][0]
    path = saved(theirs.state_dict(), tmp_path)
    ours, backbone = read_checkpoint(path)
    assert ours.candidate.text == f"{block}-16-16x2-32x1" and not ours.training
    assert (ours.shape.hw, ours.shape.embedding_size, backbone.place) == ((16, 16), 12, "")
    assert backbone.left_aside == ()
    same_answers(theirs, ours)
    # All that the file holds is used, and what it counts is kept; a last norm without scale has neutral ones.
    lacks = 2 if "output_layer.4.weight" not in theirs.state_dict() and "fc.weight" not in theirs.state_dict() else 0
    assert len(ours.state_dict()) == len(theirs.state_dict()) + lacks
    assert {int(norm.num_batches_tracked) for norm in ours.modules() if hasattr(norm, "num_batches_tracked")} == {7}


@pytest.mark.parametrize(
    ("theirs", "text"),
    [
        (lambda: IResNet((3, 4, 14, 3)), "ir-64-64x3-128x4-256x14-512x3"),
        (
            lambda: Body(tface_layers, (3, 4, 14, 3), squeeze="se_block", affine=False),
            "ir_se_tface-64-64x3-128x4-256x14-512x3",
        ),
        (lambda: Body(evolve_layers, (3, 4, 14, 3), squeeze=""), "ir_se_evolve-64-64x3-128x4-256x14-512x3"),
    ],
    ids=["insightface r50", "tface IR_SE_50", "face.evoLVe IR_SE_50"],
)
@pytest.mark.slow
def test_a_whole_network_of_fifty_layers_answers_alike(theirs, text):
    theirs = theirs()
    (backbone,) = backbones_in(seeded_state(theirs))
    ours = network_of(backbone).eval()
    assert ours.candidate.text == text and ours.shape.hw == (112, 112)
    same_answers(theirs, ours, batch=1)


# depths -> millions of parameters, as published
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
MILLIONS = {18: 24.03, 34: 34.14, 50: 43.59, 100: 65.16, 200: 118.83}


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_depth_of_insightface_is_read_from_the_shapes(layers):
    with torch.device("meta"):
        theirs = IResNet(DEPTHS[layers])
    (backbone,) = backbones_in(theirs.state_dict())
    network = network_of(backbone)
    assert network.candidate.depths == DEPTHS[layers] and network.candidate.widths == (64, 128, 256, 512)
    learned = sum(weight.numel() for weight in theirs.parameters())
    assert cost(network.candidate, network.shape).params == learned and f"{learned / 1e6:.2f}" == str(MILLIONS[layers])


@pytest.mark.parametrize(
    ("layers", "depths", "widths", "block"),
    [
        (tface_layers, (3, 13, 30, 3), (64, 128, 256, 512), "ir_tface"),
        (evolve_layers, (3, 8, 36, 3), (64, 128, 256, 512), "ir_evolve"),
        (bottleneck_layers, (3, 24, 36, 3), (256, 512, 1024, 2048), "bottleneck_tface"),
    ],
    ids=["IR_101 of TFace", "IR_152 of face.evoLVe", "IR_200 of TFace"],
)
def test_deep_ones_are_read_from_the_shapes(layers, depths, widths, block):
    with torch.device("meta"):
        theirs = Body(layers, depths, widths=widths)
    (backbone,) = backbones_in(theirs.state_dict())
    network = network_of(backbone)
    assert (network.candidate.block, network.candidate.depths, network.candidate.widths) == (block, depths, widths)
    assert cost(network.candidate, network.shape).params == sum(weight.numel() for weight in theirs.parameters())


# --- where they lie in a file


def under(prefix, state):
    return collections.OrderedDict((prefix + name, weight) for name, weight in state.items())


WRAPPED = {
    "alone": (lambda state: state, "", ()),
    "of DataParallel": (lambda state: under("module.", state), "module", ()),
    "compiled": (lambda state: under("_orig_mod.", state), "_orig_mod", ()),
    "both": (lambda state: under("module._orig_mod.", state), "module._orig_mod", ()),
    "beside a head": (
        lambda state: under("backbone.", state) | {"head.kernel": torch.zeros(3)},
        "backbone",
        ("head.kernel",),
    ),
    "a student": (lambda state: {"model": under("student.", state)}, "model.student", ()),
    "of Lightning": (
        lambda state: {"epoch": 3, "state_dict": under("model.", state), "loops": {}, "lr_schedulers": []},
        "state_dict.model",
        ("epoch", "loops", "lr_schedulers"),
    ),
    "of arcface_torch": (
        lambda state: {
            "epoch": 1,
            "global_step": 9,
            "state_dict_backbone": state,
            "state_dict_softmax_fc": {"weight": torch.zeros(4, 12), "weight_mom": torch.zeros(4, 12)},
            "state_optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": []},
            "state_lr_scheduler": {"last_epoch": 9},
        },
        "state_dict_backbone",
        ("epoch", "global_step", "state_dict_softmax_fc", "state_optimizer", "state_lr_scheduler"),
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "before torch 1.6"])
@pytest.mark.parametrize("how", WRAPPED)
def test_a_network_is_found_wherever_it_lies_in_a_file(how, legacy, tmp_path):
    wrap, place, left_aside = WRAPPED[how]
    state = public("insightface").state_dict()
    path = saved(wrap(state), tmp_path, _use_new_zipfile_serialization=not legacy)
    network, backbone = read_checkpoint(path)
    assert (backbone.place, set(backbone.left_aside)) == (place, set(left_aside))
    plain = load_network(saved(state, tmp_path, "plain.pth"))
    for name, weight in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight)


def test_any_way_to_open_a_network_opens_it(tmp_path):
    """One network, whatever the file: the embeddings that are kept of it are found again."""
    theirs = public("evolve")
    path = saved(under("module.", theirs.state_dict()), tmp_path)
    old = saved(theirs.state_dict(), tmp_path, "old.pth", _use_new_zipfile_serialization=False)
    save_network(tmp_path / "network.pt", load_network(path))
    named = open_named(f"{path},colour=bgr,name=mine")
    assert open_named(str(path)).name == tmp_path.name  # every network of arcface_torch has that file name
    assert (named.kind, named.name) == ("checkpoint", "mine") and named.model.bgr and named.model.input_hw == (16, 16)
    fingerprints = {open_model(file).fingerprint for file in (path, old, tmp_path)}
    assert len(fingerprints) == 1
    image_BHW3 = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected_BD = theirs((image_BHW3.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
    assert torch.allclose(open_model(path)(image_BHW3).embedding_BD, expected_BD, atol=1e-4)


def test_half_weights_and_old_files_without_counts_are_taken(tmp_path):
    state = public("tface").state_dict()
    half = {name: weight.half() for name, weight in state.items() if weight.is_floating_point()}
    network = load_network(saved(half, tmp_path))
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert int(network.stem[1].num_batches_tracked) == 0
    assert torch.equal(network.stem[0].weight, half["input_layer.0.weight"].float())


def test_a_network_does_not_change_with_its_file(tmp_path):
    path = saved(public("tface").state_dict(), tmp_path)
    network = load_network(path)
    before = network.stem[0].weight.clone()
    with open(path, "r+b") as file:
        size = os.path.getsize(path)
        file.write(b"\xff" * size)
    assert torch.equal(network.stem[0].weight, before)


# --- what does not fit


def state(**changes):
    weights = public("insightface").state_dict()
    return {name: weight for name, weight in (weights | changes).items() if weight is not None}


class Runs:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("evil"),)


class Classifier(nn.Module):
    """The names of torchvision's ResNet: some are IResNet's, none tells one."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 1), "bn1": nn.BatchNorm2d(4)}))
        self.fc = nn.Linear(4, 10)


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
NOT_FITTING = {
    "code": (lambda: state() | {"x": Runs()}, r"it holds \S+, which is code\); .* save its weights alone"),
    "a scalar of numpy's": (
        lambda: {"state_dict": state(), "best": np.float64(0.99)},
        r"it holds numpy\S+scalar, which is code\); .* save its weights alone",
    ),
    "a whole module": (
        lambda: public("insightface"),
        r"it holds tests\.embed\.public_networks\.IResNet, which is code",
    ),
    "torchvision": (
        lambda: Classifier().state_dict(),
        r"not a network of zennas.*known, too: weights of IResNet .*IR-SE",
    ),
    "a transformer": (
        lambda: {"cls_token": torch.zeros(1, 1, 4), "blocks.0.attn.qkv.weight": torch.zeros(12, 4)},
        r"this file 2 keys \(cls_token, blocks\.0\.attn\.qkv\.weight\); ",
    ),
    "an optimizer": (lambda: OPTIMIZER, r"this file 2 keys \(state, param_groups\)"),
    "nothing": (dict, "this file none of them"),
    "two networks": (
        lambda: under("student.", state()) | under("teacher.", state()),
        r"holds the weights of 2 networks \(student, teacher\)",
    ),
    "only some under a prefix": (
        lambda: state(**{"fc.weight": None}) | {"module.fc.weight": torch.zeros(12, 512)},
        "there is no fc.weight",
    ),
    "a weight less": (
        lambda: state(**{"layer1.1.conv2.weight": None}),
        r"weights of IResNet .*, but not those of ir-16-16x2-32x1: 1 missing \(layer1\.1\.conv2\.weight\)",
    ),
    "a stage less": (
        lambda: {name: weight for name, weight in state().items() if not name.startswith("layer1.")},
        r"there is no layer1\.0\.bn3\.weight",
    ),
    "a weight more": (
        lambda: state(**{"layer1.1.se.weight": torch.zeros(1), "head": torch.zeros(2)}),
        r"2 not known \(head, layer1\.1\.se\.weight\)",
    ),
    "another shape": (
        lambda: state(**{"layer2.0.conv1.weight": torch.zeros(32, 16, 5, 5)}),
        r"1 of another shape \(layer2\.0\.conv1\.weight \(32 x 16 x 5 x 5, not 32 x 16 x 3 x 3\)\)",
    ),
    "maps that are no squares": (
        lambda: state(**{"fc.weight": torch.zeros(12, 32 * 15)}),
        r"reads 480 numbers, which are no square maps of 32 channels",
    ),
    "no picture": (
        lambda: state(**{"conv1.weight": torch.zeros(16, 189, 3, 3)}),
        r"takes images of 189 channels; allowed: 3 \(RGB\), or 1",
    ),
    "a norm of many sides": (lambda: state(**{"bn1.weight": torch.zeros(())}), "bn1.weight: a number"),
    "an empty norm": (lambda: state(**{"bn1.weight": torch.zeros(0)}), "bn1.weight: 0 numbers"),
    "whole numbers": (
        lambda: state(**{"conv1.weight": torch.zeros(16, 3, 3, 3, dtype=torch.int64)}),
        r"conv1\.weight: numbers of torch\.int64; allowed: floating point",
    ),
    "more than the file holds": (
        lambda: state(**{"fc.weight": torch.zeros(1).expand(10**6, 32 * 16)}),
        r"claim 2,0\d\d,\d\d\d,\d\d\d bytes, and the file holds \d\d",
    ),
    "on no device": (lambda: state(**{"fc.weight": torch.zeros(12, 512, device="meta")}), "fc.weight: sparse, "),
    "a million stages": (
        lambda: state(**{"layer999999.0.prelu.weight": torch.zeros(1)}),
        "weights cannot be those of 999999 stages",
    ),
    "a million blocks": (
        lambda: state(**{"layer1.999999.prelu.weight": torch.zeros(1)}),
        "weights cannot be those of 1000001 blocks",
    ),
    "a million blocks of a body": (
        lambda: public("tface").state_dict() | {"body.999999.res_layer.0.weight": torch.zeros(1)},
        "weights cannot be those of 1000000 blocks",
    ),
}


@pytest.mark.parametrize("name", NOT_FITTING)
def test_what_does_not_fit_is_named_in_one_line(name, tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    content, words = NOT_FITTING[name]
    torch.save(content(), "backbone.pth")
    with pytest.raises(UserError, match=rf"^--model backbone\.pth: .*{words}") as caught:
        open_named("backbone.pth")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert not pathlib.Path("evil").exists() and not recwarn.list


def test_a_mapping_inside_itself_ends(tmp_path):
    loop = {"a": torch.zeros(1)}
    loop |= {str(number): loop for number in range(50)}
    with pytest.raises(UserError, match=r"this file 51 keys \(a, 0, 1, 2, 3 and 46 more\)"):
        load_network(saved(loop, tmp_path))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_was_cut_short_is_refused(legacy, tmp_path):
    path = saved(state(), tmp_path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for end in (2, 20, 300, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"^--model .*backbone\.pth: not a network of zennas") as caught:
            open_named(str(path))
        assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_more_than_it_is_stays_packed(tmp_path):
    whole, packed = saved(state(), tmp_path), tmp_path / "packed.pth"
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as written:
        for member in given.namelist():
            written.writestr(member, given.read(member))
    with pytest.raises(UserError, match=r"packed\.pth: not a network of zennas \(.*: its members are compressed"):
        load_network(packed)
