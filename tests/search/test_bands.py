"""Which band of effectiveness a candidate is in, against the definition, candidate by candidate."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from zennas.records import UserError
from zennas.search.bands import Bands, ends_of, shares_of
from zennas.space.space import effectiveness
from zennas.track import ScorePlan, SearchPlan, load_space

SHARES = {"deep": 1.0, "middle": 0.5, "wide": 0.25}


def drawn(space, num, *, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(num)]


@pytest.mark.parametrize("name", ["ir_se", "ir_se_tiny", "mobilefacenet", "resnet"])
def test_a_candidate_is_in_the_narrowest_band_whose_upper_end_it_keeps(name):
    space = load_space(name)
    candidates = drawn(space, 300)
    deepest = max(map(effectiveness, candidates))
    bands = Bands(space, ends_of(SHARES, deepest))
    place_N = bands.of([candidate.genes for candidate in candidates])
    for candidate, place in zip(candidates, place_N, strict=True):
        share = effectiveness(candidate) / deepest
        expected = "wide" if share <= 0.25 else "middle" if share <= 0.5 else "deep"
        assert bands.bands[place].name == expected == bands.band_of(candidate).name
    assert set(place_N) >= {0, 1}


def test_a_candidate_at_the_end_of_a_band_is_in_it_however_its_sums_are_rounded():
    space = load_space("ir_se")
    for candidate in drawn(space, 50):
        bands = Bands(space, ends_of({"deep": 1.0, "middle": 0.5}, 2 * effectiveness(candidate)))
        assert bands.band_of(candidate).name == "middle"


def test_without_bands_all_are_in_one_without_a_name():
    space = load_space("ir_se_tiny")
    bands = Bands(space)
    assert bands.of([candidate.genes for candidate in drawn(space, 20)]).tolist() == [0] * 20
    assert [band.name for band in bands.bands] == [None] and bands.slots(3) == [0, 0, 0]


@hypothesis.given(st.integers(1, 9), st.integers(1, 5))
def test_winners_are_of_each_band_in_turn(num_winners, num_bands):
    names = [f"band {place}" for place in range(num_bands)]
    bands = Bands(load_space("ir_se_tiny"), {name: 1 / (1 + place) for place, name in enumerate(names)})
    slots = bands.slots(num_winners)
    assert slots[:num_bands] == list(range(min(num_winners, num_bands)))
    assert max(map(slots.count, slots)) - min(slots.count(slot) for slot in range(num_bands)) <= 1


def test_only_the_zen_score_has_bands_and_no_more_than_winners():
    plan = SearchPlan()
    assert shares_of(plan) == SHARES and plan.num_winners == 3
    assert list(shares_of(plan.model_copy(update={"num_winners": 2}))) == ["deep", "middle"]
    for changes in ({"num_winners": 1}, {"bands": None}, {"bands": {"all": 1.0}}, {"score": ScorePlan(name="naswot")}):
        assert shares_of(plan.model_copy(update=changes)) == {}, changes
    assert ends_of({}, 0.1) is None


@pytest.mark.parametrize(
    "bands", [{}, {"deep": 0.9}, {"deep": 1.0, "a": 0.2, "b": 0.5}, {"deep": 1.0, "a": 0.5, "b": 0.5}]
)
def test_shares_begin_with_one_and_become_smaller(bands):
    with pytest.raises(UserError, match=r"bands: .*shares that begin with 1 and become smaller; given"):
        SearchPlan.parse({"bands": bands}, "a plan")


def test_a_band_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"bands\.a"):
        SearchPlan.parse({"bands": {"deep": 1.0, "a": 0.0}}, "a plan")
