import types

import numpy as np
import pytest

from zennas.records import UserError
from zennas.search.cost_limits import CostLimit, check_limits, constraints, cost_limits
from zennas.search.options import Options
from zennas.search.run import check
from zennas.space.cost import cost
from zennas.track import SearchPlan, load_space

SPACE = load_space("ir_se_tiny")


def limits(*, track_mb=None, **plan):
    track = types.SimpleNamespace(limits=types.SimpleNamespace(max_mb=track_mb))
    return cost_limits(track, SearchPlan(**plan), SPACE)


def test_without_limits_there_are_none():
    assert limits() == []


@pytest.mark.parametrize(
    ("track_mb", "plan_mb", "most"), [(8.0, None, 8.0), (None, 5.0, 5.0), (8.0, 5.0, 5.0), (3.0, 5.0, 3.0)]
)
def test_of_two_limits_of_megabytes_the_smaller_holds(track_mb, plan_mb, most):
    (limit,) = limits(track_mb=track_mb, max_mb=plan_mb)
    assert (limit.name, limit.most) == ("MB", most)


def test_what_a_candidate_costs_is_what_it_costs():
    megabytes, giga = limits(max_mb=9.0, max_gmacs=1.0)
    for candidate in (SPACE.cheapest(), SPACE.sample(np.random.default_rng(0))):
        known = cost(candidate, SPACE.shape)
        assert giga.of(candidate, SPACE) == pytest.approx(known.macs / 1e9, rel=1e-9)
        assert megabytes.of(candidate, SPACE) == pytest.approx(known.megabytes, rel=1e-9)
        assert megabytes.of(candidate, SPACE) == pytest.approx(4 * known.params / 2**20, rel=1e-9)


def test_a_constraint_holds_what_a_corrected_limit_does():
    (limit,) = (limit.corrected(1.25) for limit in limits(max_gmacs=1.0))
    rng = np.random.default_rng(0)
    candidates = [SPACE.sample(rng) for _ in range(50)]
    (constraint,) = constraints(
        [limit._replace(most=float(np.median([limit.of(each, SPACE) for each in candidates])))], SPACE
    )
    sum_N = constraint.sums.of(SPACE, np.array([each.genes for each in candidates]))
    assert 1.25 * sum_N == pytest.approx(np.array([limit.of(each, SPACE) for each in candidates]))
    assert (sum_N <= constraint.most).sum() == 25  # up to the median


def test_a_limit_below_the_cheapest_candidate_is_said():
    too_low = limits(max_gmacs=1e-6)
    with pytest.raises(
        UserError, match=r"the limit of 1e-06 GMACs is below the cheapest candidate of space ir_se_tiny: .* has "
    ):
        check_limits(too_low, SPACE)
    check_limits(limits(max_gmacs=1.0), SPACE)


def test_a_device_whose_table_lacks_parts_is_named(tmp_path):
    header = "kind,in_channels,out_channels,stride,in_px,ms"
    path = tmp_path / "phone" / "onnxruntime-cpu-1t-batch1.csv"
    path.parent.mkdir()
    path.write_text(f"{header}\nir_se,16,16,1,16,0.5\n")
    with pytest.raises(
        UserError, match=r"--also .*phone.*: its table lacks \d+ of the parts of space ir_se_tiny;.* --space"
    ):
        limits(devices={str(path): 5.0})


def test_limits_are_said_and_what_nothing_here_corrects():
    megabytes, on_phone = CostLimit("MB", None, 9.5), CostLimit("ms on phone", None, 40.0, device="phone")
    assert megabytes.text == "at most 9.5 MB"
    assert on_phone.text.startswith("at most 40 ms on phone, by its table")


def test_a_device_has_one_budget_of_more_than_nothing():
    assert Options.of(also=["phone=40", "rig=2.5"]).also == {"phone": 40.0, "rig": 2.5}
    with pytest.raises(UserError, match="--also phone=50: phone is 40 already; give it once"):
        Options.of(also=["phone=40", "phone=50"])
    with pytest.raises(UserError, match="--also phone: expected NAME=NUMBER, such as amd-epyc-fam26-mod2-2c=250"):
        Options.of(also=["phone"])
    with pytest.raises(UserError, match="--also phone=0: expected TABLE=MS with more than 0 ms"):
        check(Options.of(track="webface-sfr", also={"phone": 0.0}))
