"""The hot loop of a search: batches of proposals go out to the workers, scores come back, in the order of the proposals.

A batch is proposed from what the batches up to `lag` before it scored, never from what happened to come in first: the same
seed and the same number of workers propose the same candidates, and a resumed run goes on as if it had never stopped.
"""

import collections
import time
from typing import NamedTuple

from zennas.records import UserError
from zennas.search.evolution import Population, propose
from zennas.search.funnel import Niches
from zennas.search.ledger import Row
from zennas.space.cost import cost

FLUSH_EVERY_S = 5.0  # what a kill -9 may cost
ALONE = 8  # candidates of a task where they share nothing: a second or two
LAST_WORDS_S = 2.0  # how long Ctrl-C waits for batches in flight; ray job stop kills after three


class Batch(NamedTuple):
    """A batch under way: proposed, not yet taken in."""

    index: int
    candidates: list
    handle: object  # of the workers; None where the ledger has its rows already
    rows: list | None
    counters: collections.Counter


class Batches:
    """The search's state: a population, the keys seen, the batches in flight. Built anew from the ledger at any time."""

    def __init__(self, space, plan, ledger, *, lag, refusal, predicted_ms, funnel=None):
        self.space, self.plan, self.ledger, self.lag, self.funnel = space, plan, ledger, lag, funnel
        self.refusal, self.predicted_ms = refusal, predicted_ms
        self.in_flight = collections.deque()
        self.seen = {row.key for row in ledger.rows}
        self.failures_in_a_row = 0
        self.next_index = ledger.rows[-1].batch + 1 if ledger.rows else 0
        self._replay()

    def rebuild(self):
        """Choose the population again from all rows: after a correction other candidates fit the budget."""
        self.population = (Niches if self.funnel else Population)(self.plan.population)
        waiting = {batch.index for batch in self.in_flight}
        for row in self.ledger.rows:
            if row.batch not in waiting:
                self._admit(row)

    def _replay(self):
        """Hold the ledger's last batches back as if they were still in flight, as they were when the next was proposed."""
        drained = max((event["after_batch"] for event in self.ledger.state["events"]), default=-1)
        first = max(drained, self.next_index - self.lag) + 1
        held = collections.defaultdict(list)
        for row in self.ledger.rows:
            if first <= row.batch < self.next_index:
                held[row.batch].append(row)
        self.in_flight.extend(
            Batch(index, [], None, rows, collections.Counter()) for index, rows in sorted(held.items())
        )
        self.rebuild()

    def _admit(self, row):
        if row.score is not None and self.refusal(row.candidate) is None:
            self.population.add(row.score, row.candidate)

    @property
    def num_scored(self):
        return len(self.ledger.rows)

    def run(self, workers, *, seconds=None, num_scored=None, on_rows=None, on_wait=None):
        """Search for so many seconds, or until so many are scored; True unless the space held nothing more.

        `on_rows(rows)` learns what came in; `on_wait(self)` is called some times a second. UserError after too many
        failures in a row. Whatever ends it, batches in flight are taken in and the ledger is flushed.
        """
        start, last_flush = time.monotonic(), time.monotonic()
        before_s = self.ledger.state["search_s"]
        exhausted = False

        def over():
            if num_scored is not None:
                return self.num_scored + self.num_under_way >= num_scored
            return time.monotonic() - start >= seconds

        try:
            while True:
                while len(self.in_flight) < self.lag and not exhausted and not over():
                    exhausted = not self._send(workers, num_scored)
                if not self.in_flight:
                    return not exhausted
                batch = self.in_flight[0]
                while batch.handle is not None and not workers.ready(batch.handle):
                    workers.wait(batch.handle, 0.25)
                    if on_wait:
                        on_wait(self)
                self.ledger.state["search_s"] = before_s + time.monotonic() - start
                rows = self._take(workers)
                if on_rows:
                    on_rows(rows)
                if time.monotonic() - last_flush > FLUSH_EVERY_S:
                    self.ledger.flush()
                    last_flush = time.monotonic()
        except KeyboardInterrupt:
            self._last_words(workers)
            raise
        finally:
            self.ledger.state["search_s"] = before_s + time.monotonic() - start
            self.ledger.flush()

    @property
    def num_under_way(self):
        return sum(len(batch.candidates) for batch in self.in_flight)

    def _send(self, workers, num_scored):
        counters = collections.Counter()
        size = self.plan.batch_size
        if num_scored is not None:
            size = min(size, num_scored - self.num_scored - self.num_under_way)
        known = {"batch": self.next_index, "seen": self.seen, "counters": counters}
        candidates = self.funnel.propose(self.population, most=size, **known) if self.funnel else []
        # Where the families are used up, or there are none, candidates come one by one.
        candidates = candidates or propose(
            self.space,
            self.population,
            min(size, ALONE),
            seed=self.plan.seed,
            refusal=self.refusal,
            **known,
        )
        if not candidates:
            return False
        handle = workers.submit(candidates, self.plan.score, seed=self.plan.seed)
        self.in_flight.append(Batch(self.next_index, candidates, handle, None, counters))
        self.next_index += 1
        return True

    def _take(self, workers):
        """Take the oldest batch in flight in: its rows, new in the ledger."""
        batch = self.in_flight[0]
        rows = batch.rows
        if rows is None:
            rows = [
                self._row(batch.index, *pair)
                for pair in zip(batch.candidates, workers.results(batch.handle, len(batch.candidates)), strict=True)
            ]
            counters = self.ledger.counters + batch.counters
            counters.update(
                scored=sum(row.score is not None for row in rows), failed=sum(row.score is None for row in rows)
            )
        self.in_flight.popleft()  # before the ledger has it, so that a Ctrl-C in between cannot take the batch in twice
        if batch.rows is None:
            self.ledger.state["counters"] = {name: count for name, count in counters.items() if count}
            self.ledger.append(rows)
        for row in rows:
            self._admit(row)
            if batch.rows is None:  # those of an earlier session do not count: what ailed them may be mended
                self.failures_in_a_row = 0 if row.error is None else self.failures_in_a_row + 1
        if self.failures_in_a_row >= self.plan.max_failures_in_a_row:
            raise UserError(
                f"{self.failures_in_a_row} candidates in a row failed, the last one, {rows[-1].text}, at stage "
                f"'{rows[-1].stage}': {rows[-1].error}; what was scored before is kept in {self.ledger.folder}"
            )
        return rows if batch.rows is None else []

    def _row(self, index, candidate, scored):
        spent = cost(candidate, image_px=self.space.image_px, embedding_size=self.space.embedding_size)
        return Row(
            batch=index,
            key=candidate.key,
            text=candidate.text,
            block=candidate.block,
            stem=candidate.stem,
            widths=candidate.widths,
            depths=candidate.depths,
            score=scored.value,
            std=scored.std,
            seconds=round(scored.seconds, 5),
            predicted_ms=self.predicted_ms(candidate),
            params=spent.params,
            macs=spent.macs,
            num_blocks=candidate.num_blocks,
            elapsed_s=round(self.ledger.state["search_s"], 3),
            stage=scored.stage,
            error=scored.error,
        )

    def _last_words(self, workers):
        """After Ctrl-C: take in what is ready within a moment, in order; the rest will be proposed again."""
        deadline = time.monotonic() + LAST_WORDS_S
        while self.in_flight and time.monotonic() < deadline:
            batch = self.in_flight[0]
            if batch.handle is not None and not workers.ready(batch.handle):
                workers.wait(batch.handle, deadline - time.monotonic())
                if not workers.ready(batch.handle):
                    return
            self._take(workers)
