import types

import pytest

from zennas.score.scores import SCORES
from zennas.search.evidence import gather, ranked
from zennas.track import EvidencePlan

SCORES_OF = {"one": 100.0, "two": 99.8, "three": 99.6, "far": 90.0}
WINNERS = [types.SimpleNamespace(key=key, score_mean=score) for key, score in SCORES_OF.items()]


def keys(evidence, *, rank_by="equal_cost"):
    plan = EvidencePlan(names=("equal_cost",), near_pct=0.5, rank_by=rank_by)
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


class Asked:
    """Workers that answer every score with its name's length, and note what they were asked."""

    def __init__(self):
        self.asked = []

    def submit(self, candidates, plan, **_):
        self.asked.append((candidates[0], plan.name))
        return plan.name

    def results(self, handle, num):
        return [types.SimpleNamespace(value=float(len(handle)), error=None)] * num


def searched(*, evidence, known=(), rank_by=None):
    state = {"evidence": dict(known)}
    count = types.SimpleNamespace(begin=lambda text: None, end=lambda: None, counting=lambda what: lambda *_: None)
    return types.SimpleNamespace(
        plan=types.SimpleNamespace(evidence=EvidencePlan(rank_by=rank_by), seed=0),
        evidence=evidence,
        ledger=types.SimpleNamespace(state=state, save=state.update),
        space=types.SimpleNamespace(shape=None),
        progress=count,
        workers=Asked(),
    )


def entry(key, *, is_baseline):
    return types.SimpleNamespace(key=key, candidate=key, name=key, is_baseline=is_baseline)


ENTRIES = [entry("winner", is_baseline=False), entry("baseline", is_baseline=True)]


def test_by_default_no_score_decides_and_none_is_asked():
    run = searched(evidence=False)
    assert gather(run, ENTRIES) == {} and run.workers.asked == []
    assert ranked(WINNERS, {"two": {"equal_cost": 9.0}}, EvidencePlan()) == WINNERS


def test_only_the_score_that_decides_is_asked_and_only_of_winners():
    run = searched(evidence=False, rank_by="equal_cost")
    assert gather(run, ENTRIES) == {"winner": {"equal_cost": 10.0}}
    assert run.workers.asked == [("winner", "equal_cost")]


def test_all_are_asked_on_request_and_none_twice():
    run = searched(evidence=True, known={"winner": {"equal_cost": 1.5}})
    values = gather(run, ENTRIES)
    names = EvidencePlan().names
    assert list(values["winner"]) == list(values["baseline"]) == list(names) and values["winner"]["equal_cost"] == 1.5
    assert len(run.workers.asked) == 2 * len(names) - 1
    assert gather(run, ENTRIES) == values and len(run.workers.asked) == 2 * len(names) - 1


def test_the_plan_asks_scores_that_there_are_and_ranks_by_one_of_them():
    assert "equal_cost" in EvidencePlan().names and set(EvidencePlan().names) <= set(SCORES)
    with pytest.raises(ValueError, match="rank_by must be one of names; given naswot"):
        EvidencePlan(names=("equal_cost",), rank_by="naswot")
