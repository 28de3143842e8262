import functools
import random

import pytest
import torch

from zennas.records import UserError
from zennas.score.scores import SCORES, Scored, score_batch
from zennas.search import evolution
from zennas.search.batches import Batches
from zennas.search.ledger import open_ledger
from zennas.space.cost import cost
from zennas.track import load_experiment

LAG = 4
NUM = 72  # 18 batches of four: the search breeds from the fourth on
LIMIT_MACS = 9_300_000  # a quarter of the tiny space is within it


class Pool:
    """The interface of workers.Workers in this process: it scores for real, and is ready in an order of its own.

    `polls(index)`: how often a batch is asked for before it is ready.
    """

    def __init__(self, polls=lambda index: 0, *, interrupt_after=None):
        self.polls, self.interrupt_after = polls, interrupt_after
        self.waiting, self.finished, self.submitted = {}, [], 0

    def submit(self, candidates, plan, *, shape, seed, repeats=None):
        if self.submitted == self.interrupt_after:
            raise KeyboardInterrupt
        handle, self.submitted = self.submitted, self.submitted + 1
        self.waiting[handle] = [self.polls(handle), candidates, plan, shape, seed, repeats]
        return handle

    def _progress(self):
        for handle, state in sorted(self.waiting.items(), key=lambda item: item[1][0]):
            state[0] -= 1
            if state[0] < 0 and handle not in self.finished:
                self.finished.append(handle)

    def ready(self, handle):
        self._progress()
        return handle in self.finished

    def wait(self, handle, seconds):
        self._progress()

    def results(self, handle, num):
        while not self.ready(handle):
            pass
        _, candidates, plan, shape, seed, repeats = self.waiting.pop(handle)
        return [scored(candidate, plan, shape, seed, repeats) for candidate in candidates]


@functools.cache
def scored(candidate, plan, shape, seed, repeats=None):
    """The score of a candidate, computed once for all tests: it depends on nothing else."""
    (result,) = score_batch([candidate], plan, shape, seed=seed, repeats=repeats)
    return result


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker: two threads that wait for each other are 40 times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ORDERS = {
    "at once": lambda index: 0,
    "newest first": lambda index: 40 - 2 * index,
    "oldest of each four last": lambda index: (3, 1, 2, 0)[index % 4] * 3,
    "at random": lambda index: random.Random(index).randrange(12),
}


@pytest.fixture
def setting(tiny):
    """(space, plan) of the tiny experiment, with a score that a processor gives in milliseconds."""
    experiment, _, space = load_experiment(str(tiny))
    return space, experiment.search.model_copy(update={"candidates": NUM})


@pytest.fixture
def search(setting, tmp_path):
    """search(name, **) -> Batches over a ledger in a folder of that name, opened again if it is there."""
    space, plan = setting
    sizes = {"shape": space.shape}

    def begun(name, *, limit_macs=LIMIT_MACS, **changes):
        limit = [limit_macs]
        batches = Batches(
            space,
            plan.model_copy(update=changes),
            open_ledger(tmp_path / name, {}, seed=0),
            lag=LAG,
            refusal=lambda one: "over budget" if cost(one, **sizes).macs > limit[0] else None,
            fit=lambda predicted_ms_N, genes_NG: predicted_ms_N * 1e6 <= limit[0] + 0.5,
            predicted_ms=lambda one: cost(one, **sizes).macs / 1e6,
        )
        batches.limit = limit  # what a correction changes
        return batches

    return begun


def correct(batches, limit_macs):
    """What loop.evolve and loop.correct do between two searches."""
    batches.ledger.event(why="drained", after_batch=batches.next_index - 1)
    batches.limit[0] = limit_macs
    batches.ledger.event(why="misjudged", factor=1.1, after_batch=batches.next_index - 1)
    batches.rebuild()


def told(rows):
    """What of the rows does not depend on the clock."""
    return [
        tuple(row._replace(seconds=0, elapsed_s=0, widths=tuple(row.widths), depths=tuple(row.depths))) for row in rows
    ]


@pytest.fixture
def whole(search):
    """The rows of a search that nothing disturbed."""
    batches = search("whole")
    assert batches.run(Pool(), num_scored=NUM) is True
    return batches.ledger.rows


def test_rows_are_what_the_scores_say_and_all_is_counted(search, setting, whole):
    space, plan = setting
    ledger = open_ledger(search("whole").ledger.folder, {})
    assert len(ledger.rows) == NUM == len({row.key for row in ledger.rows})
    assert [row.batch for row in ledger.rows] == [index // 4 for index in range(NUM)]
    for row in ledger.rows:
        assert space.contains(row.candidate) and row.macs <= LIMIT_MACS
        (alone,) = score_batch([row.candidate], plan.score, space.shape, seed=plan.seed)
        assert (row.score, row.error, row.predicted_ms) == (alone.value, None, row.macs / 1e6)
    counters = ledger.counters
    assert counters["scored"] == NUM and counters["failed"] == 0
    rejected = sum(count for name, count in counters.items() if name.startswith("rejected"))
    assert counters["seen"] == NUM + rejected and rejected > 0


def test_the_search_improves_on_chance(whole):
    half = NUM // 2
    assert max(row.score for row in whole[half:]) > max(row.score for row in whole[:half])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_the_order_in_which_scores_come_in_changes_nothing(search, whole, order):
    pool = Pool(order)
    batches = search("disturbed")
    assert batches.run(pool, num_scored=NUM) is True
    assert told(batches.ledger.rows) == told(whole)


def test_some_order_was_really_another(search):
    pool = Pool(ORDERS["at random"])
    search("disturbed").run(pool, num_scored=NUM)
    assert pool.finished != sorted(pool.finished)


def test_no_more_than_the_lag_is_in_flight(search):
    batches, most = search("bounded"), []
    pool = Pool(ORDERS["at random"])
    batches.run(pool, num_scored=NUM, on_wait=lambda state: most.append(len(pool.waiting)))
    assert max(most) == LAG


@pytest.mark.parametrize("num_batches", range(1, NUM // 4))
def test_a_resumed_search_goes_on_as_if_it_had_never_stopped(search, whole, num_batches):
    cut = search("cut")
    cut.ledger.append([row for row in whole if row.batch < num_batches])
    cut.ledger.flush()
    resumed = search("cut")
    assert resumed.run(Pool(ORDERS["at random"]), num_scored=NUM) is True
    assert told(resumed.ledger.rows) == told(whole)


@pytest.mark.parametrize("num_batches", range(7, 15))
def test_a_resumed_search_keeps_to_its_corrections(search, num_batches):
    """The uninterrupted search drains and is corrected after 9 batches; the other is cut somewhere around it."""
    straight = search("straight")
    straight.run(Pool(), num_scored=36)
    correct(straight, LIMIT_MACS // 2)
    straight.run(Pool(), num_scored=NUM)

    cut = search("cut", limit_macs=LIMIT_MACS if num_batches < 9 else LIMIT_MACS // 2)
    cut.ledger.append([row for row in straight.ledger.rows if row.batch < num_batches])
    cut.ledger.flush()
    if num_batches >= 9:
        cut.ledger.save(events=straight.ledger.state["events"])
    resumed = search("cut", limit_macs=cut.limit[0])
    if num_batches < 9:
        resumed.run(Pool(), num_scored=36)
        correct(resumed, LIMIT_MACS // 2)
    resumed.run(Pool(), num_scored=NUM)
    assert told(resumed.ledger.rows) == told(straight.ledger.rows)


@pytest.mark.parametrize("after", [1, 5, 9])
def test_ctrl_c_keeps_what_is_ready_and_the_rest_is_proposed_again(search, whole, after):
    batches = search("stopped")
    with pytest.raises(KeyboardInterrupt):
        batches.run(Pool(interrupt_after=after), num_scored=NUM)
    kept = open_ledger(batches.ledger.folder, {}).rows
    assert len(kept) == 4 * after
    resumed = search("stopped")
    assert resumed.run(Pool(), num_scored=NUM) is True
    assert told(resumed.ledger.rows) == told(whole)


def test_ctrl_c_does_not_wait_for_what_is_not_ready(search):
    class Stuck(Pool):
        def wait(self, handle, seconds):
            if seconds < 1:
                raise KeyboardInterrupt  # pressed while the search waits

    batches = search("stuck")
    with pytest.raises(KeyboardInterrupt):
        batches.run(Stuck(lambda index: 0 if index < 2 else 10**9), num_scored=NUM)
    assert len(open_ledger(batches.ledger.folder, {}).rows) == 8


def test_a_search_ends_by_the_clock(search):
    batches = search("timed")
    assert batches.run(Pool(), seconds=0.3) is True
    assert len(batches.ledger.rows) > 0 and 0.3 <= batches.ledger.state["search_s"] < 3


def test_a_space_that_holds_nothing_more_ends_the_search(search, monkeypatch):
    monkeypatch.setattr(evolution, "MAX_ATTEMPTS", 1000)  # enough for so few
    batches = search("exhausted", limit_macs=2_600_000)
    assert batches.run(Pool(), num_scored=10_000) is False
    assert 10 < len(batches.ledger.rows) == len({row.key for row in batches.ledger.rows}) < 30
    assert not batches.in_flight


@pytest.fixture
def picky(monkeypatch):
    """The name of a score that fails for every candidate whose stem is 16 wide."""

    def score(network, image_px, batch, generator):
        if network.stem == 16:
            raise FloatingPointError("a score of inf")
        return float(sum(network.widths) / network.stem)

    monkeypatch.setitem(SCORES, "picky", score)
    return "picky"


def test_a_failure_is_a_row_and_the_search_goes_on(search, setting, picky):
    _, plan = setting
    batches, seen = search("failing", score=plan.score.model_copy(update={"name": picky})), []
    assert batches.run(Pool(), num_scored=NUM, on_rows=seen.extend) is True
    rows = open_ledger(batches.ledger.folder, {}).rows
    failed = [row for row in rows if row.stem == 16]
    assert failed and all((row.score, row.stage) == (None, "score") for row in failed)
    assert {row.error for row in failed} == {"FloatingPointError: a score of inf"}
    assert all(row.error is None and row.score > 0 for row in rows if row.stem != 16)
    assert batches.ledger.counters["failed"] == len(failed)
    assert [row.key for row in seen] == [row.key for row in rows]
    assert all(candidate.stem != 16 for _, _, candidate in batches.population.ranked)


def test_a_batch_whose_worker_died_is_rows_too(search):
    class Mortal(Pool):
        def results(self, handle, num):
            if handle == 2:
                return [Scored(None, 0.0, 0.0, "score", "the worker died 4 times: killed")] * num
            return super().results(handle, num)

    batches = search("mortal")
    batches.run(Mortal(), num_scored=NUM)
    died = [row for row in batches.ledger.rows if row.error]
    assert [row.batch for row in died] == [2] * 4
    assert {(row.stage, row.error) for row in died} == {("score", "the worker died 4 times: killed")}


def test_too_many_failures_in_a_row_end_the_search_and_keep_the_rows(search, setting, monkeypatch):
    _, plan = setting

    def broken(network, image_px, batch, generator):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(SCORES, "broken", broken)
    batches = search("broken", score=plan.score.model_copy(update={"name": "broken"}), max_failures_in_a_row=10)
    with pytest.raises(UserError) as error:
        batches.run(Pool(), num_scored=NUM)
    rows = open_ledger(batches.ledger.folder, {}).rows
    assert len(rows) == 12  # the third batch made it ten and more
    told_of = ("12 candidates in a row failed", rows[-1].text, "stage 'score'", "RuntimeError: out of memory")
    for word in (*told_of, str(batches.ledger.folder)):
        assert word in str(error.value)


def test_once_mended_a_search_that_failed_too_often_goes_on(search, setting, monkeypatch):
    _, plan = setting

    def fragile(network, image_px, batch, generator):
        if failing:
            raise RuntimeError("out of memory")
        return float(network.stem)

    monkeypatch.setitem(SCORES, "fragile", fragile)
    changes = {"score": plan.score.model_copy(update={"name": "fragile"}), "max_failures_in_a_row": 10}
    failing = True
    with pytest.raises(UserError):
        search("mended", **changes).run(Pool(), num_scored=NUM)
    failing = False
    scored.cache_clear()
    again = search("mended", **changes)
    assert again.run(Pool(), num_scored=NUM) is True
    assert sum(row.error is None for row in again.ledger.rows) == NUM - 12
