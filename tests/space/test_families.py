"""The contract of every row of FAMILIES, and of three toys: two branches, two with genes of their own, a last stage
that keeps the size of maps."""

import dataclasses
import math

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.shapes import square
from zennas.embed.checkpoint import load_network, save_network
from zennas.export.onnx_file import export_graph
from zennas.latency.backends import inputs_of
from zennas.latency.budget import export_candidate, measure_network, timed_network
from zennas.latency.table import MORE_RUNS, LatencyTable, measure_part, parts_of_space
from zennas.records import UserError
from zennas.score.aggregate import equal_cost
from zennas.score.baselines import num_convolutions, total_macs, total_params
from zennas.score.branches import MEAN, ONCE
from zennas.score.meanfield import mean_field, mean_field_sums
from zennas.score.zen import zen
from zennas.search.optimum import Constraint, best
from zennas.space.blocks import block, ends, neck, stem, stem_stride
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.families.chain import chain
from zennas.space.families.family import BuiltNetwork, End, Graph, PlainPart, Tree, Way, strided
from zennas.space.families.table import FAMILIES, check_known, family_of, graph_of, tree_of
from zennas.space.network import build, calibrate, candidate_of, on_meta, plain, plain_paths
from zennas.space.parts import parts_of, sums
from zennas.space.shape import Shape
from zennas.space.space import Range, Space
from zennas.track import Protocol

PROTOCOL = Protocol(backend="onnxruntime-cpu", num_runs=2, kth_fastest=1)
SHAPES = {
    "square": square(32, 24),
    "tall": Shape(channels=3, height=96, width=32, embedding_size=16),
    "grey": Shape(channels=1, height=32, width=64, embedding_size=8),
}


class TwoBranches(BuiltNetwork):
    """A trunk, then its last stage twice: once at half the size, once at the size that it was; two embeddings."""

    def __init__(self, candidate, shape):
        super().__init__(candidate, shape)
        family = family_of(candidate)
        shared, paths = family.trunk_length(candidate), family.paths(candidate, shape.channels)
        first, *trunk = paths[0][:shared]
        self.trunk = nn.Sequential(
            stem(first.in_channels, first.out_channels, first.kind), *(block(*part) for part in trunk)
        )
        self.branches = nn.ModuleList(nn.Sequential(*(block(*part) for part in path[shared:])) for path in paths)
        necks = family.layout(candidate, shape).necks
        widths = [path[-1].out_channels for path in paths]
        self.necks = nn.ModuleList(
            neck(width, end.in_hw, end.channels, end.kind) for width, end in zip(widths, necks, strict=True)
        )

    def head_layers(self):
        return [layer for neck in self.necks for layer in neck if isinstance(layer, nn.Linear)]

    def forward(self, image_BCHW):
        map_BCHW = self.trunk(image_BCHW)
        embeddings = [one(branch(map_BCHW)) for branch, one in zip(self.branches, self.necks, strict=True)]
        return torch.cat(embeddings, 1)


class Apart(nn.Module):
    """The two embeddings of TwoBranches as two outputs."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image_BCHW):
        return self.network(image_BCHW).chunk(2, 1)


def _two(member):
    last = len(member.widths) - 1
    trunk = tuple(range(last))
    return Tree(last, (Way((*trunk, last), (2,) * (last + 1)), Way((*trunk, last), (*(2,) * last, 1))))


def _forked(member):
    """Two last stages, of different genes."""
    *trunk, one, other = range(len(member.widths))
    strides = (2,) * len(trunk)
    return Tree(len(trunk), (Way((*trunk, one), (*strides, 2)), Way((*trunk, other), (*strides, 1), 1)))


def _necks(member, shape, last_hws):
    kind, ways = ends(member.block).neck, family_of(member).tree(member).ways
    both = zip(last_hws, ways, strict=True)
    return tuple(End(kind, shape.embedding_size, 1, hw, 1, way.stages[-1]) for hw, way in both)


TWO_BRANCHES = dataclasses.replace(
    FAMILIES["chain"],
    tree=_two,
    necks=_necks,
    network=TwoBranches,
    backbone=lambda network: nn.Sequential(*network.trunk, *network.branches[0]),
    graphs=lambda network: (Graph("network", Apart(network), {"picture": network.input_shape}, ("half", "whole")),),
)


LAST_KEEPS = chain(lambda num_stages: (*(2,) * (num_stages - 1), 1))
TOYS = {"two": TWO_BRANCHES, "forked": dataclasses.replace(TWO_BRANCHES, tree=_forked), "keeps": LAST_KEEPS}
EXTRA = {"mgn": 1, "forked": 1}  # stages more than the two of the others


@pytest.fixture(params=[*FAMILIES, *TOYS])
def family(request, monkeypatch):
    """The name of a family, in FAMILIES for the test."""
    if request.param in TOYS:
        monkeypatch.setitem(FAMILIES, request.param, TOYS[request.param])
    return request.param


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def candidate_in(family, *, block="ir_se"):
    """A candidate of two stages, or of three where the family needs them."""
    extra = EXTRA.get(family, 0)
    return Candidate(
        family=family, block=block, stem=8, widths=(12, 20, 16)[: 2 + extra], depths=(2, 3, 1)[: 2 + extra]
    )


def space_of(family, shape):
    extra = EXTRA.get(family, 0)
    widths = (Range(low=8, high=16, step=4), Range(low=12, high=20, step=4), Range(low=16, high=24, step=8))
    return Space(
        name="families",
        family=family,
        block="ir_se",
        **shape.plain(),
        stem=Range(low=8, high=16, step=4),
        widths=widths[: 2 + extra],
        depths=(Range(low=1, high=3), Range(low=1, high=3), Range(low=1, high=2))[: 2 + extra],
        limits={"max_blocks": 6, "max_effectiveness": 99},
    )


def counted(network, shape):
    """(parameters, multiply-accumulates) of a network as it is built and runs."""
    macs = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, x, y: macs.append(y[0].numel() * m.weight[0].numel()))
    with torch.no_grad():
        network.eval()(torch.zeros(1, *shape.image))
    return sum(weight.numel() for weight in network.parameters()), sum(macs)


def test_a_network_is_what_its_layout_says(family, shape):
    candidate = candidate_in(family, block="ir")
    network = build(candidate, shape)
    spent = cost(candidate, shape)
    assert (spent.params, spent.macs) == counted(network, shape)
    assert candidate_of(network) == candidate and network.shape == shape and network.input_shape == shape.image
    assert [layer.out_features for layer in network.head_layers()] == [
        end.channels for end in family_of(candidate).layout(candidate, shape).necks for _ in range(end.times)
    ]
    along = parts_of(candidate, shape, along_path=True)
    assert sum(times for part, times in along.items() if part.is_block) == candidate.num_blocks


def test_images_that_the_stages_cannot_shrink_are_refused(family):
    candidate = candidate_in(family)
    divisor = family_of(candidate).divisor(candidate)
    odd = square(4 * divisor).sized((4 * divisor, 4 * divisor + 1))
    for function in (cost, build, parts_of, on_meta):
        with pytest.raises(UserError, match=rf"{divisor * 4}x{divisor * 4 + 1} px do not allow it"):
            function(candidate, odd)


def test_paths_are_those_of_the_layout(family, shape):
    """From the image to the last map, where each path has as many channels as its neck reads."""
    candidate = candidate_in(family)
    layout, tree = family_of(candidate).layout(candidate, shape), tree_of(candidate)
    for path, way in zip(plain_paths(candidate, shape.channels), tree.ways, strict=True):
        assert all(isinstance(part, PlainPart) for part in path)
        feature = plain(path).to_empty(device="cpu").eval()(torch.zeros(1, *shape.image))
        (place,) = layout.along(way).stages[way.stages[-1]]
        assert tuple(feature.shape) == (1, candidate.widths[way.stages[-1]], *place.out_hw)
        read = {end.in_hw for end in layout.necks if end.behind % len(candidate.widths) == way.stages[-1]}
        assert place.out_hw in read


def test_a_space_sums_what_its_candidates_have(family, shape):
    """Costs of everything that stands in a network; blocks and the closed form along one way through it."""
    space, rng = space_of(family, shape), np.random.default_rng(0)
    candidates = [space.sample(rng) for _ in range(8)]
    genes_NG = np.array([candidate.genes for candidate in candidates])
    assert all(candidate.family == family for candidate in candidates)
    assert sums(space, lambda part: part.macs).of(space, genes_NG).tolist() == [
        cost(candidate, shape).macs for candidate in candidates
    ]
    num_blocks_N = sums(space, lambda part: float(part.is_block), along_path=True).of(space, genes_NG)
    assert num_blocks_N.tolist() == [candidate.num_blocks for candidate in candidates]
    images = shape.sized((32, 16))
    for aggregate in (ONCE, MEAN):
        closed_N = mean_field_sums(space, images.hw, 4, aggregate=aggregate).of(space, genes_NG)
        expected = [mean_field(candidate, images, 4, None, aggregate=aggregate) for candidate in candidates]
        assert closed_N == pytest.approx(expected, abs=1e-9)


def test_a_table_of_the_space_has_a_place_for_every_part(family, shape):
    space, rng = space_of(family, shape), np.random.default_rng(1)
    places = {part.place for part in parts_of_space(space)}
    assert {part.place for _ in range(20) for part in parts_of(space.sample(rng), shape)} <= places


@pytest.mark.parametrize("block", ["ir_se", "inverted_residual"])
def test_every_part_is_timed_and_every_candidate_predicted(family, tmp_path, block):
    """Whatever its stride, a stage's first block is not timed as one that may follow itself."""
    shape, rng = square(32, 8), np.random.default_rng(2)
    small = space_of(family, shape).model_copy(update={"block": block})
    widths = (Range(low=16, high=112, step=16), *(Range(low=32, high=128, step=16),) * (len(small.widths) - 1))
    space = small.model_copy(update={"stem": Range(low=16, high=64, step=16), "widths": widths})
    parts = parts_of_space(space)
    table = LatencyTable(PROTOCOL, folder=tmp_path, rows={part: 1e-6 * part.macs for part in parts})
    for _ in range(20):
        candidate = space.sample(rng)
        # Between measured widths a first block is fitted by products of its widths, which its MACs nearly are.
        assert table.predict(candidate, shape) == pytest.approx(1e-6 * cost(candidate, shape).macs, rel=0.05)
    of_small = {part: 1e-6 * part.macs for part in parts_of_space(small)}  # all of its grids hold one width each
    assert all(
        LatencyTable(PROTOCOL, folder=tmp_path, rows=of_small).covers(small.sample(rng), shape) for _ in range(20)
    )
    for part in {(part.place, part.keeps_shape): part for part in parts}.values():
        ms, measurement = measure_part(part, PROTOCOL, num_runs=2)
        assert ms > 0 and len(measurement.raw_ms) in (2, 2 * MORE_RUNS)  # short parts by more runs


def test_the_optimum_is_the_best_of_all(family, shape):
    space = space_of(family, shape)
    macs, score = sums(space, lambda part: part.macs / 1e6), sums(space, lambda part: math.log(part.out_channels))
    most = cost(space.cheapest(), shape).macs / 1e6 * 2
    found = best(space, score, [Constraint("MMACs", macs, most)])
    everything = np.stack(np.meshgrid(*(span.values() for span in space.genes.values()), indexing="ij"), -1)
    genes_NG = everything.reshape(-1, len(space.genes))
    allowed_N = (macs.of(space, genes_NG) <= most) & (genes_NG[:, list(space.layout.depths)].sum(1) <= 6)
    assert found.score == pytest.approx(score.of(space, genes_NG)[allowed_N].max(), rel=1e-9)


def test_scores_take_every_shape(family, shape):
    candidate, generator = candidate_in(family), torch.Generator()
    images = shape.sized((32, 16))
    for score in (zen, equal_cost, num_convolutions, total_macs, total_params):
        value = score(candidate, images, 4, generator.manual_seed(0))
        assert math.isfinite(value)
        if score is not zen:  # which draws other weights for a module
            assert value == score(build(candidate, images), images, 4, generator.manual_seed(0))
    assert total_params(candidate, shape, 1, None) == cost(candidate, shape).params


def test_graphs_are_exported_with_their_proof(family, shape):
    network = calibrate(build(candidate_in(family), shape), torch.randn(4, *shape.image))
    for graph in family_of(candidate_in(family)).graphs(network):
        model = onnx.load_from_string(export_graph(graph).onnx_bytes)
        assert [value.name for value in model.graph.output] == list(graph.outputs)
        taken = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
            for value in model.graph.input
        }
        assert taken == graph.inputs


def test_a_candidate_is_exported_and_timed_by_its_graph(family):
    """In one shape of each, all of them among the families: the test before exports every family in every shape."""
    candidate, shapes = candidate_in(family), list(SHAPES.values())
    shape = shapes[[*FAMILIES].index(family) % len(shapes)]
    graph = graph_of(build(candidate, shape))
    model = onnx.load_from_string(export_candidate(candidate, shape, PROTOCOL).onnx_bytes)
    assert [value.name for value in model.graph.input] == list(graph.inputs)
    assert [value.name for value in model.graph.output] == list(graph.outputs)
    assert measure_network(candidate, PROTOCOL, shape).measured_ms > 0
    timed = timed_network(candidate, shape, PROTOCOL)
    assert inputs_of(timed) == graph.inputs and type(timed) is type(graph.module)
    image = torch.randn(2, *shape.image, generator=torch.Generator().manual_seed(0))
    answers = timed(image)
    assert len(answers) == 2 and (
        family not in ("two", "forked") or answers[0].shape == answers[1].shape == (2, shape.embedding_size)
    )


def test_a_kept_network_comes_back(family, shape, tmp_path):
    network = build(candidate_in(family), shape)
    save_network(tmp_path / "network.pt", network)
    again = load_network(tmp_path)
    assert again.candidate == network.candidate and again.shape == shape
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_a_family_stands_in_the_text_but_for_the_chain(family):
    candidate = candidate_in(family)
    stages = "ir_se-8-12x2-20x3" + "-16x1" * EXTRA.get(family, 0)
    assert candidate.text == ("" if family == "chain" else f"{family}/") + stages
    assert Candidate.of_kind(candidate.kind, stem=8, widths=candidate.widths, depths=candidate.depths) == candidate
    assert Candidate(**candidate.plain()) == Candidate(**candidate.model_dump()) == candidate
    assert ("family" in candidate.plain()) == ("family" in candidate.model_dump()) == (family != "chain")


def test_an_unknown_family_is_named():
    with pytest.raises(UserError, match=r"family 'chian' is not known; did you mean 'chain'\? known: chain"):
        check_known(candidate_in("chian"))


def test_a_chain_halves_at_every_stage_behind_its_stem():
    for name in ("ir", "inverted_residual"):
        candidate = Candidate(block=name, stem=8, widths=(12, 20, 16), depths=(1, 1, 1))
        assert FAMILIES["chain"].divisor(candidate) == 8 * stem_stride(name)
        assert tree_of(candidate) == Tree(3, (Way((0, 1, 2), (2, 2, 2)),))
    assert strided((48, 16), 2) == (24, 8)
