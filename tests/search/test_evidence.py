import types

import pytest

from zennas.score.scores import SCORES
from zennas.search.evidence import ranked
from zennas.track import EvidencePlan

SCORES_OF = {"one": 100.0, "two": 99.8, "three": 99.6, "far": 90.0}
WINNERS = [types.SimpleNamespace(key=key, score_mean=score) for key, score in SCORES_OF.items()]


def keys(evidence, **plan):
    plan = EvidencePlan(names=("equal_cost",), near_pct=0.5, **plan)
    found = {key: {"equal_cost": value} for key, value in evidence.items()}
    return [entry.key for entry in ranked(WINNERS, found, plan)]


def test_those_that_score_alike_stand_in_the_order_of_the_evidence_and_the_others_behind_them():
    assert keys({"one": 1.0, "two": 3.0, "three": 2.0, "far": 9.0}) == ["two", "three", "one", "far"]


def test_without_evidence_the_score_decides():
    assert keys({}) == list(SCORES_OF)
    assert keys({"two": 9.0}, rank_by=None) == list(SCORES_OF)


def test_a_network_whose_evidence_is_missing_comes_last_of_those_alike():
    assert keys({"one": None, "two": -5.0, "three": -4.0}) == ["three", "two", "one", "far"]


def test_nobody_is_ranked_where_nobody_won():
    assert ranked([], {}, EvidencePlan()) == []


def test_the_plan_asks_scores_that_there_are_and_ranks_by_one_of_them():
    assert set(EvidencePlan().names) <= set(SCORES) and EvidencePlan().rank_by in EvidencePlan().names
    with pytest.raises(ValueError, match="rank_by must be one of names; given naswot"):
        EvidencePlan(names=("equal_cost",), rank_by="naswot")
