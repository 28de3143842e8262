"""MGN and networks of one branch: published sizes, layouts written out, what their vectors are, what they refuse."""

# B images, C channels, HW map, D numbers of an embedding, R of a reduction

import pathlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zennas.export.onnx_file import export, fold, open_session
from zennas.records import UserError
from zennas.space.candidate import Candidate, read_candidates
from zennas.space.cost import cost
from zennas.space.families.family import Tree, Way
from zennas.space.families.mgn import rows_of_stripes
from zennas.space.families.table import layout_of, tree_of
from zennas.space.form import Form
from zennas.space.network import build, calibrate, on_meta
from zennas.space.parts import parts_of
from zennas.space.residual import Reparameterised, deployed
from zennas.space.shape import Shape
from zennas.space.space import Space

ROOT = pathlib.Path(__file__).parent.parent.parent
RESNET = {"block": "resnet_bottleneck", "stem": 64}
MGN_R50 = Candidate(family="mgn", **RESNET, widths=(256, 512, 1024, 1024, 2048), depths=(3, 4, 1, 5, 3))
R50 = Candidate(family="single", **RESNET, widths=(256, 512, 1024, 2048), depths=(3, 4, 6, 3))
OSNET = Candidate(family="single", block="osnet", stem=64, widths=(256, 384, 512), depths=(2, 2, 2))
MOBILENETV2 = Candidate(
    family="single",
    form=Form(strides=(2, 2, 2, 1, 2, 1)),
    block="mobilenetv2",
    stem=16,
    widths=(24, 32, 64, 96, 160, 320),
    depths=(2, 3, 4, 3, 3, 1),
)
REPVGG_A0 = Candidate(family="single", block="repvgg", stem=48, widths=(48, 96, 192, 1280), depths=(2, 4, 14, 1))
SMALL = Candidate(family="mgn", block="resnet_basic", stem=8, widths=(8, 12, 16), depths=(1, 2, 1))
APART = SMALL.model_copy(update={"form": Form(apart=True), "widths": (8, 12, 16, 10, 20), "depths": (1, 2, 1, 1, 2)})
ONE = Candidate(family="single", block="resnet_basic", stem=8, widths=(8, 12), depths=(1, 2))


def person(height, *, width=128, embedding_size=2048):
    return Shape(channels=3, height=height, width=width, embedding_size=embedding_size)


SMALL_SHAPE = person(64, width=32, embedding_size=16)


def with_form(candidate, **form):
    return candidate.model_copy(update={"form": Form(**form)})


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def troubled(network, shape, seed=0):
    """With weights, statistics and norms that nothing is alike in, in eval mode."""
    generator = seeded(seed)
    calibrate(network, torch.randn(4, *shape.image, generator=generator))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
    return network.eval()


# --- published sizes


@pytest.mark.parametrize(
    ("candidate", "height", "params", "gmacs"),
    [
        # Counted by shape from the paper's layers, outside this package; the last of each with all strides 1, as
        # fast-reid has them.
        (MGN_R50, 384, "68.808", "11.885"),
        (MGN_R50, 256, "68.808", "7.925"),
        (with_form(MGN_R50, strides=(1, 2, 2, 1, 1)), 384, "68.808", "13.961"),
        (with_form(MGN_R50, strides=(1, 2, 2, 1, 1)), 256, "68.808", "9.309"),
    ],
)
def test_mgn_has_its_size(candidate, height, params, gmacs):
    spent = cost(candidate, person(height))
    assert (f"{spent.params / 1e6:.3f}", f"{spent.macs / 1e9:.3f}") == (params, gmacs)


def test_mgn_s_size_comes_from_trunk_branches_and_reductions():
    """2.957 M in the trunk, 20.551 M in each branch, 4.198 M in the eight reductions; 2.141, 1.862, 3.938 twice and
    .004 GMACs at 384 x 128."""
    network = on_meta(MGN_R50, person(384))
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (network.trunk, *network.branches)]
    assert [f"{size / 1e6:.3f}" for size in sizes] == ["2.957", "20.551", "20.551", "20.551"]
    reduced = sum(weight.numel() for part in (network.whole, network.cut) for weight in part.parameters())
    assert f"{reduced / 1e6:.3f}" == "4.198" and len([*network.whole, *network.cut]) == 8
    gmacs = dict.fromkeys(("trunk", "branches", "reductions"), 0.0)
    for part, times in parts_of(MGN_R50, person(384)).items():
        behind = part.kind == "reduction" or part.in_hw < (48, 16)  # the trunk's last block sees 48 x 16
        where = "reductions" if part.kind == "reduction" else "branches" if behind else "trunk"
        gmacs[where] += times * part.macs / 1e9
    # Three decimals of each of up to three summands.
    assert list(gmacs.values()) == pytest.approx([2.141, 1.862 + 2 * 3.938, 0.004], abs=0.0015)


def test_branches_apart_that_are_alike_cost_the_same():
    apart = Candidate(
        family="mgn",
        form=Form(apart=True),
        **RESNET,
        widths=(256, 512, 1024, 1024, 2048, 1024, 2048),
        depths=(3, 4, 1, 5, 3, 5, 3),
    )
    assert cost(apart, person(384)) == cost(MGN_R50, person(384))
    slimmer = apart.model_copy(update={"depths": (3, 4, 1, 2, 1, 5, 3)})
    assert cost(slimmer, person(384)).macs < cost(apart, person(384)).macs


@pytest.mark.parametrize(("height", "two", "one"), [(384, "4.004", "6.080"), (256, "2.669", "4.053")])
def test_resnet_50_has_its_size_by_its_last_stride(height, two, one):
    """Torchreid publishes 2.7 and 4.1 GMACs at 256 x 128. 23,508,032 parameters are torchvision's without the
    classifier; the BNNeck's norm has 4,096."""
    for form, gmacs in (((), two), ((1, 2, 2, 1), one)):
        spent = cost(with_form(R50, strides=form), person(height))
        assert spent.params == 23_508_032 + 4096 and f"{spent.macs / 1e9:.3f}" == gmacs


def test_osnet_has_its_size():
    """Torchreid publishes 2.2 M parameters and 978.9 million multiply-accumulates; ours is its count by hand."""
    params, macs = 3 * 64 * 49 + 128, 3 * 64 * 49 * 128 * 64
    channels, positions = 64, 64 * 32
    for stage, width in enumerate((256, 384, 512)):
        if stage:
            params, macs = params + channels**2 + 2 * channels, macs + channels**2 * positions
            positions //= 4
        for _ in range(2):
            inner = width // 4
            light = 10 * (inner**2 + 9 * inner)
            gate = 2 * inner * (inner // 16)
            plain = channels * inner + light + inner * width
            params += plain + 2 * inner * 11 + 2 * width + gate + inner // 16 + inner
            macs += plain * positions + 4 * gate
            if channels != width:
                params, macs = params + channels * width + 2 * width, macs + channels * width * positions
            channels = width
    params += 512 * 512 + 2 * 512 + 512 * 512 + 512 + 2 * 512
    macs += 512 * 512 * positions + 512 * 512
    spent = cost(OSNET, person(256, embedding_size=512))
    assert (spent.params, spent.macs) == (params, macs)
    assert (f"{params / 1e6:.1f}", f"{macs / 1e6:.1f}") == ("2.2", "978.9")


def test_mobilenetv2_has_its_size():
    """Torchvision's 3,504,872 parameters less its classifier, plus the BNNeck's norm; 300 million at 224 px (Sandler et
    al. 2018), .2 thousand million at 256 x 128 (torchreid)."""
    square = Shape(channels=3, height=224, width=224, embedding_size=1280)
    spent = cost(MOBILENETV2, square)
    assert spent.params == 3_504_872 - 1281 * 1000 + 2 * 1280 and f"{spent.macs / 1e6:.0f}" == "299"
    assert f"{cost(MOBILENETV2, person(256, embedding_size=1280)).macs / 1e9:.1f}" == "0.2"


def test_repvgg_a0_has_its_size_as_it_is_deployed():
    """8.30 M with ImageNet's classifier (Ding et al. 2021, table 2, who cut 8.309); 7.68 M and .89 GMACs with 512
    numbers (Hailo)."""
    square = Shape(channels=3, height=224, width=224, embedding_size=1280)
    classifier = 1281 * 1000
    assert f"{(cost(REPVGG_A0, square).params - 2 * 1280 + classifier) / 1e6:.2f}" == "8.31"
    spent = cost(REPVGG_A0, person(256, embedding_size=512))
    assert (f"{spent.params / 1e6:.2f}", f"{spent.macs / 1e9:.2f}") == ("7.68", "0.89")
    trained = sum(weight.numel() for weight in on_meta(REPVGG_A0, square).parameters())
    assert f"{(trained - 2 * 1280 + classifier) / 1e6:.2f}" == "9.11"  # as it is trained


# --- what stands where


def test_mgn_s_places():
    layout = layout_of(MGN_R50, person(384))
    assert [[tuple(place) for place in places] for places in layout.stages] == [
        [(1, (96, 32), 1)],
        [(2, (96, 32), 1)],
        [(2, (48, 16), 1)],
        [(1, (24, 8), 3)],
        [(2, (24, 8), 1), (1, (24, 8), 2)],
    ]
    assert [(end.in_hw, end.channels, end.times) for end in layout.necks] == [
        ((12, 4), 256, 1),
        ((24, 8), 256, 2),
        ((12, 8), 256, 2),
        ((8, 8), 256, 3),
    ]
    assert tree_of(MGN_R50) == Tree(
        3,
        (
            Way((0, 1, 2, 3, 4), (1, 2, 2, 1, 2), name="global"),
            Way((0, 1, 2, 3, 4), (1, 2, 2, 1, 1), 2, name="part"),
        ),
    )
    assert tree_of(APART).ways == (
        Way((0, 1, 2), (1, 1, 2), name="global"),
        Way((0, 3, 4), (1, 1, 1), 2, name="part"),
    )
    assert tree_of(APART).before == (0, 1, 2, 1, 4)


@pytest.mark.parametrize(("height", "num"), [(24, 2), (24, 3), (16, 3), (7, 4)])
def test_stripes_are_torch_s_adaptive_ones(height, num):
    map_BCHW = torch.randn(2, 3, height, 5, generator=seeded(0))
    cut = [map_BCHW[:, :, top:bottom].amax((2, 3)) for top, bottom in rows_of_stripes(height, num)]
    assert torch.equal(torch.stack(cut, 2), F.adaptive_max_pool2d(map_BCHW, (num, 1)).squeeze(3))


@pytest.mark.parametrize("candidate", [SMALL, APART, with_form(SMALL, stripes=(2, 3, 4))], ids=lambda one: one.kind)
def test_vectors_are_mgn_s(candidate):
    """Written out over the network's own layers: the global branch halves its last map, no part branch does."""
    num_parts = len((candidate.form and candidate.form.stripes) or (2, 3))
    stripes = (2, 3, 4)[:num_parts]
    shape = person(64, width=32, embedding_size=2 * (1 + num_parts + sum(stripes)))
    network = troubled(build(candidate, shape), shape)
    image_BCHW = torch.randn(3, *shape.image, generator=seeded(1))
    with torch.no_grad():
        answer = network.vectors(image_BCHW)
        map_BCHW = network.trunk(image_BCHW)
        lasts = [branch(map_BCHW) for branch in network.branches]
        assert [tuple(last.shape[2:]) for last in lasts] == [(8, 4), *[(16, 8)] * num_parts]
        wide = [last.amax((2, 3)) for last in lasts]
        cuts = [
            F.adaptive_max_pool2d(last, (num, 1)).squeeze(3).unbind(2)
            for last, num in zip(lasts[1:], stripes, strict=True)
        ]
        reduced = [
            F.relu(norm(linear(vector)))
            for (_, _, linear, norm, _), vector in zip(
                [*network.whole, *network.cut], [*wide, *(one for cut in cuts for one in cut)], strict=True
            )
        ]
        assert torch.equal(network(image_BCHW), answer["embedding"])
    assert all(torch.equal(one, two) for one, two in zip(answer["wide"], wide, strict=True))
    given = [*answer["whole"], *answer["stripes"]]
    # The same layers on the same numbers.
    assert all(torch.equal(one, two) for one, two in zip(given, reduced, strict=True))
    assert torch.equal(answer["embedding"], torch.cat(reduced, 1)) and answer["embedding"].shape == (
        3,
        shape.embedding_size,
    )
    assert len(answer["whole"]) == 1 + num_parts and len({id(part) for part in network.branches}) == 1 + num_parts


@pytest.mark.parametrize("embedding_size", [12, 16], ids=["as wide as the last map", "reduced"])
def test_vectors_of_one_branch_are_before_and_behind_its_norm(embedding_size):
    shape = person(64, width=32, embedding_size=embedding_size)
    network = troubled(build(ONE, shape), shape)
    image_BCHW = torch.randn(3, *shape.image, generator=seeded(1))
    with torch.no_grad():
        answer = network.vectors(image_BCHW)
        feature_BC = network.blocks(network.stem(image_BCHW)).mean((2, 3))
        feature_BC = feature_BC @ network.head_layers()[0].weight.T if embedding_size == 16 else feature_BC
        assert torch.allclose(answer["wide"][0], feature_BC, atol=1e-5)  # a mean in another order
        assert torch.equal(network.neck[-1](answer["whole"][0]), answer["embedding"]) and answer["stripes"] == []
        assert torch.equal(network(image_BCHW), answer["embedding"])
        folded = fold(network)
        assert torch.allclose(folded(image_BCHW), answer["embedding"], atol=1e-4)


# --- deployed


@pytest.mark.parametrize(("channels", "stride"), [((6, 6), 1), ((6, 6), 2), ((6, 10), 1)])
def test_the_deployed_block_is_the_trained_one(channels, stride):
    """In float64, where the weights of both are, to 1e-12: some hundred products of numbers about one."""
    block = Reparameterised(*channels, stride).double()
    image_BCHW = torch.randn(4, channels[0], 8, 6, generator=seeded(0), dtype=torch.float64)
    block.train()(2 * image_BCHW + 1)  # statistics that are not the neutral ones
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=seeded(1))
            module.bias.data.uniform_(-1, 1, generator=seeded(2))
    before = torch.get_rng_state()
    one = deployed(block)
    assert torch.equal(torch.get_rng_state(), before) and one[0].weight.dtype == torch.float64
    assert [type(layer) for layer in one] == [nn.Conv2d, nn.ReLU] and one[0].weight.shape[2:] == (3, 3)
    with torch.no_grad():
        trained = block.eval()(image_BCHW)
        assert (trained > 0).any() and torch.allclose(one(image_BCHW), trained, rtol=0, atol=1e-12)
    assert isinstance(block, Reparameterised)  # the block itself goes on training


@pytest.mark.parametrize(
    "candidate", [SMALL, APART, SMALL.model_copy(update={"block": "repvgg"}), ONE, OSNET], ids=lambda one: one.kind
)
def test_the_exported_network_is_the_trained_one(candidate):
    """One ONNX file with one output, the embedding; RepVGG's has one convolution a block."""
    shape = person(64, width=32, embedding_size=16)
    network = troubled(build(candidate, shape), shape)
    made = export(network, shape)  # raises where ONNX Runtime's answer is another one
    session = open_session(made.onnx_bytes)
    assert [value.name for value in session.get_outputs()] == ["embedding"]
    image_BCHW = torch.randn(2, *shape.image, generator=seeded(3))
    with torch.no_grad():
        expected = network(image_BCHW)
    (answer,) = session.run(None, {"image": image_BCHW.numpy()})
    assert torch.allclose(torch.from_numpy(answer), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    if candidate.block == "repvgg":
        convolutions = sum(isinstance(module, nn.Conv2d) for module in fold(network).modules())
        assert convolutions == 1 + 1 + 3 * (2 + 1)  # stem, trunk, three branches of 2 and 1


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": Form(strides=(1, 2))}, "form.strides: given 2, allowed: 3, one of each stage"),
        ({"widths": (8,), "depths": (1,)}, "widths: given 1, allowed: 2 or more"),
        ({"family": "single", "form": Form(stripes=(2,))}, "given 'stripes', but family 'single' does not know it"),
        ({"family": "chain", "form": Form(apart=True)}, "given 'apart', but family 'chain' does not know it"),
    ],
)
def test_a_form_that_is_not_the_family_s_is_refused(changes, words):
    with pytest.raises(UserError) as caught:
        build(SMALL.model_copy(update=changes), SMALL_SHAPE)
    assert words in str(caught.value)


def test_an_embedding_that_reductions_cannot_share_is_refused():
    with pytest.raises(UserError, match="embedding_size: given 12, allowed: multiples of 8, the number of reductions"):
        build(SMALL, person(64, width=32, embedding_size=12))


def test_more_stripes_than_rows_are_refused():
    """A part branch's last map has 16 of 64 rows."""
    build(with_form(SMALL, stripes=(2, 16)), person(64, width=32, embedding_size=21))
    with pytest.raises(UserError, match=r"form.stripes: 16 of a part branch, allowed: at most 8, .* images of 32 x 32"):
        build(with_form(SMALL, stripes=(2, 16)), person(32, width=32, embedding_size=21))


def test_a_form_is_written_and_read(tmp_path):
    form = Form(stripes=(2, 4), strides=(1, 1, 2), apart=True)
    candidate = with_form(SMALL, **form.plain())
    assert candidate.text == "mgn+s1.1.2+p2.4+apart/resnet_basic-8-8x1-12x2-16x1"
    again = Candidate.of_kind(candidate.kind, stem=8, widths=candidate.widths, depths=candidate.depths)
    assert again == candidate == Candidate(**candidate.plain()) == Candidate(**candidate.model_dump())
    assert with_form(SMALL).form is None and with_form(SMALL) == SMALL and "form" not in SMALL.plain()
    path = tmp_path / "candidate.yaml"
    path.write_text("{family: mgn, form: {stripes: [1]}, block: ir, stem: 8, widths: [8, 8, 8], depths: [1, 1, 1]}")
    with pytest.raises(UserError, match=r"form.stripes.0: given 1, allowed: greater than or equal to 2"):
        read_candidates(str(path))


# --- the spaces


@pytest.mark.parametrize("name", ["mgn", "mgn_edge", "reid_single"])
def test_a_space_names_what_it_is_measured_beside(name):
    space = Space.load(ROOT / "search_spaces" / f"{name}.yaml")
    assert {
        "MGN-R50": MGN_R50,
        "R50, last stride 1": with_form(R50, strides=(1, 2, 2, 1)),
        "R50, last stride 2": R50,
        "OSNet x1.0": OSNET,
        "MobileNetV2": MOBILENETV2,
        "RepVGG-A0": REPVGG_A0,
    }.items() <= space.baselines.items()
    assert any(space.is_like(candidate) for candidate in space.baselines.values())
    assert all(cost(candidate, space.shape).macs > 0 for candidate in space.baselines.values())
