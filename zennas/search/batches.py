"""The hot loop of a search: batches go out to the workers; their scores are taken in the order of the proposals.

A batch is proposed from what the batches up to `lag` before it scored, never from what happened to come in first: the
same seed and the same number of workers propose the same candidates, and a resumed run goes on as if it had never
stopped.
"""

import collections
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zennas.records import UserError
from zennas.score.scores import Scored
from zennas.search.evolution import Population, propose
from zennas.search.funnel import Funnel, Niches
from zennas.search.ledger import Ledger
from zennas.search.scored import Row
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.space import Space
from zennas.track import SearchPlan

if TYPE_CHECKING:  # not at run time: batches need no Ray
    from zennas.search.workers import Workers

# What a kill -9 may cost: a batch of many trunks is written as it comes in, small ones once a second.
FLUSH_EVERY_S, FLUSH_ROWS = 1.0, 256
ALONE = 8  # candidates of a task where they share nothing: a second or two
LAST_WORDS_S = 1.5  # how long Ctrl-C waits for batches in flight; ray job stop kills after three


class Batch(NamedTuple):
    """A batch under way: proposed, not yet taken in."""

    index: int
    candidates: list
    handle: object  # of the workers; None where the ledger has its rows already
    rows: list | None
    counters: collections.Counter


class Batches:
    """The state of a search: a population, the keys seen, the batches in flight. The ledger alone makes it anew."""

    def __init__(
        self,
        space: Space,
        plan: SearchPlan,
        ledger: Ledger,
        *,
        lag: int,
        refusal: Callable[[Candidate], str | None],
        fit: Callable[[np.ndarray, np.ndarray], np.ndarray],
        predicted_ms: Callable[[Candidate], float],
        funnel: Funnel | None = None,
        share: tuple[int, int] = (0, 1),
    ):
        """refusal(candidate): why it is not worth scoring, or None; fit(predicted_ms_N, genes_NG): fits_N, whether what
        was scored is within the budgets now; share: (island, number of islands)."""
        self.share = share
        self.space, self.plan, self.ledger, self.lag, self.funnel = space, plan, ledger, lag, funnel
        self.refusal, self.fit, self.predicted_ms = refusal, fit, predicted_ms
        self.in_flight = collections.deque()
        self.seen = set(ledger.rows.keys)
        self.failures_in_a_row = 0
        own_N = ledger.own_N
        self.num_scored = int(own_N.sum())  # by this island
        self.next_index = int(ledger.rows.column("batch")[own_N].max(initial=-1)) + 1
        self._replay()

    def rebuild(self) -> None:
        """Choose the population again from all rows: after a correction other candidates fit the budget."""
        size = self.plan.population
        self.population = Niches(size, self.funnel.bands) if self.funnel else Population(size)
        rows = self.ledger.rows
        waiting_N = self.ledger.own_N & np.isin(rows.column("batch"), [batch.index for batch in self.in_flight])
        self.population.fill(rows, self.fit(rows.column("predicted_ms"), rows.genes_NG) & ~waiting_N)

    def _replay(self):
        """Hold the ledger's last batches back as if in flight, as they were when the next batch was proposed."""
        drained = max((event["after_batch"] for event in self.ledger.state["events"]), default=-1)
        first = max(drained, self.next_index - self.lag) + 1
        batch_N, held = self.ledger.rows.column("batch"), collections.defaultdict(list)
        for at in np.flatnonzero(self.ledger.own_N & (batch_N >= first) & (batch_N < self.next_index)):
            held[int(batch_N[at])].append(self.ledger.rows[int(at)])
        self.in_flight.extend(
            Batch(index, [], None, rows, collections.Counter()) for index, rows in sorted(held.items())
        )
        self.rebuild()

    def _admit(self, rows):
        rows = [row for row in rows if row.score is not None]
        genes_NG = np.array([row.genes for row in rows], int).reshape(len(rows), len(self.space.genes))
        fits_N = self.fit(np.array([row.predicted_ms for row in rows]), genes_NG)
        for row, fits in zip(rows, fits_N, strict=True):
            if fits:
                self.population.add(row.score, row.candidate)

    def take_arrivals(self, arrivals: Iterable[tuple]) -> int:
        """Take in what other islands scored: [(genes, score, table's ms, island)]. The number of new ones."""
        rows = []
        for genes, score, predicted_ms, island in arrivals:
            candidate = self.space.candidate(genes)
            if candidate.key not in self.seen:
                self.seen.add(candidate.key)
                scored = Scored(score, 0.0, 0.0)
                costs = (predicted_ms, *self._costs_of([candidate])[0][1:])
                rows.append(self._row(-1, candidate, scored, costs)._replace(island=island))
        self.ledger.take_foreign(rows)
        self._admit(rows)
        return len(rows)

    def take_rows(self, num: int) -> None:
        """Take in the last `num` rows of the ledger, which another island wrote."""
        if num:
            self.seen |= set(self.ledger.rows.keys[-num:])
            self.rebuild()

    def run(
        self,
        workers: "Workers",
        *,
        seconds: float | None = None,
        num_scored: int | None = None,
        on_rows: Callable[[list[Row]], None] | None = None,
        on_wait: "Callable[[Batches], None] | None" = None,
    ) -> bool:
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
                    last_flush = self._flush(last_flush)
                    if on_wait:
                        on_wait(self)
                self.ledger.set_search_s(before_s + time.monotonic() - start)
                rows = self._take(workers)
                if on_rows:
                    on_rows(rows)
                last_flush = self._flush(last_flush)
        except KeyboardInterrupt:
            self._last_words(workers)
            raise
        finally:
            self.ledger.set_search_s(before_s + time.monotonic() - start)
            self.ledger.flush()

    def _flush(self, last_flush):
        """Write what came in, if it is much or the last write is long ago. The time of the last write."""
        if len(self.ledger.unwritten) < FLUSH_ROWS and time.monotonic() - last_flush < FLUSH_EVERY_S:
            return last_flush
        self.ledger.flush()
        return time.monotonic()

    @property
    def num_under_way(self) -> int:
        return sum(len(batch.candidates) for batch in self.in_flight)

    def _send(self, workers, num_scored):
        counters = collections.Counter()
        size = self.plan.batch_size
        if num_scored is not None:
            size = min(size, num_scored - self.num_scored - self.num_under_way)
        known = {"batch": self.next_index, "seen": self.seen, "counters": counters}
        candidates = self.funnel.propose(self.population, most=size, **known) if self.funnel else []
        # Where the trunks are used up, or there are none, candidates come one by one.
        candidates = candidates or propose(
            self.space,
            self.population,
            min(size, ALONE),
            seed=self.plan.seed,
            refusal=self.refusal,
            share=self.share,
            **known,
        )
        if not candidates:
            return False
        handle = workers.submit(candidates, self.plan.score, shape=self.space.shape, seed=self.plan.seed)
        self.in_flight.append(Batch(self.next_index, candidates, handle, None, counters))
        self.next_index += 1
        return True

    def _take(self, workers):
        """Take the oldest batch in flight in. Its rows, which are new in the ledger."""
        batch = self.in_flight[0]
        rows = batch.rows
        if rows is None:
            scored = workers.results(batch.handle, len(batch.candidates))
            costs = self._costs_of(batch.candidates)
            rows = [self._row(batch.index, *each) for each in zip(batch.candidates, scored, costs, strict=True)]
            counters = self.ledger.counters + batch.counters
            counters.update(
                scored=sum(row.score is not None for row in rows), failed=sum(row.score is None for row in rows)
            )
        self.in_flight.popleft()  # before the ledger has it, so that a Ctrl-C in between cannot take the batch in twice
        if batch.rows is None:
            self.ledger.set_counters(counters)
            self.ledger.append(rows)
            self.num_scored += len(rows)
        self._admit(rows)
        for row in rows:
            if batch.rows is None:  # those of an earlier session do not count: what ailed them may be mended
                self.failures_in_a_row = 0 if row.error is None else self.failures_in_a_row + 1
        if self.failures_in_a_row >= self.plan.max_failures_in_a_row:
            raise UserError(
                f"{self.failures_in_a_row} candidates in a row failed, the last one, {rows[-1].text}, at stage "
                f"'{rows[-1].stage}': {rows[-1].error}; what was scored before is kept in {self.ledger.folder}"
            )
        return rows if batch.rows is None else []

    def _costs_of(self, candidates):
        """[(the table's ms, parameters, multiply-accumulates)]."""
        if self.funnel:
            return self.funnel.costs_of(candidates)
        spent = [cost(candidate, self.space.shape) for candidate in candidates]
        return [
            (self.predicted_ms(candidate), cost_of.params, cost_of.macs)
            for candidate, cost_of in zip(candidates, spent, strict=True)
        ]

    def _row(self, index, candidate, scored, costs):
        predicted_ms, params, macs = costs
        return Row(
            batch=index,
            key=candidate.key,
            text=candidate.text,
            block=candidate.kind,
            stem=candidate.stem,
            widths=candidate.widths,
            depths=candidate.depths,
            score=scored.value,
            std=scored.std,
            seconds=round(scored.seconds, 5),
            predicted_ms=predicted_ms,
            params=params,
            macs=macs,
            num_blocks=candidate.num_blocks,
            elapsed_s=round(self.ledger.state["search_s"], 3),
            stage=scored.stage,
            error=scored.error,
            island=self.ledger.island,
        )

    def _last_words(self, workers):
        """After Ctrl-C: take in, in order, what is ready within a moment. The rest is proposed again next time."""
        deadline = time.monotonic() + LAST_WORDS_S
        while self.in_flight and time.monotonic() < deadline:
            batch = self.in_flight[0]
            if batch.handle is not None and not workers.ready(batch.handle):
                workers.wait(batch.handle, deadline - time.monotonic())
                if not workers.ready(batch.handle):
                    return
            self._take(workers)
