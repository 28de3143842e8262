"""Depth against width: equal multiply-accumulates, counted anew, within the space."""

import pytest

from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.track import load_space
from zennas.tune.backbone import equal_macs
from zennas.tune_plan import BackboneSpace, Span


def macs(candidate, space):
    return cost(candidate, space.shape).macs


BASES = {
    "ir_se_tiny": Candidate(block="ir_se", stem=16, widths=(24, 48, 96), depths=(2, 3, 3)),
    "ir_se": Candidate(block="ir_se", stem=64, widths=(64, 128, 256, 512), depths=(3, 13, 30, 3)),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("tolerance_pct", [2.0, 8.0])
def test_all_cost_what_the_given_one_costs(name, tolerance_pct):
    space, base = load_space(name), BASES[name]
    found = equal_macs(base, space, BackboneSpace(macs_tolerance_pct=tolerance_pct))
    assert base in found and len(set(found)) == len(found) > 1
    for one in found:
        assert abs(macs(one, space) / macs(base, space) - 1) <= tolerance_pct / 100
        assert space.contains(one) and one.block == base.block
    blocks = [one.num_blocks for one in found]
    assert blocks == sorted(blocks)
    ends = found[0], found[-1]
    assert ends[0].num_blocks < base.num_blocks < ends[1].num_blocks
    assert sum(ends[0].widths) > sum(base.widths) > sum(ends[1].widths)  # deeper is narrower


def test_depths_stay_between_the_multipliers():
    space, base = load_space("ir_se"), BASES["ir_se"]
    found = equal_macs(base, space, BackboneSpace(depth=Span(low=0.9, high=1.2)))
    for one in found:
        assert all(
            round(0.9 * depth) <= new <= round(1.2 * depth) for depth, new in zip(base.depths, one.depths, strict=True)
        )


def test_what_cannot_be_searched_is_said():
    space = load_space("ir_se_tiny")
    with pytest.raises(UserError, match=r"stem_width is 8, allowed: 16 to 32.*not in space ir_se_tiny"):
        equal_macs(Candidate(block="ir_se", stem=8, widths=(24, 48, 96), depths=(1, 2, 2)), space, BackboneSpace())
    with pytest.raises(UserError, match=r"no other depth .* within 0.0001 %"):
        equal_macs(BASES["ir_se_tiny"], space, BackboneSpace(macs_tolerance_pct=0.0001))
