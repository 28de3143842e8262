"""The whole path of a search, from a track's name to winners on disk. Read `Run.go` first."""

import contextlib
import time

from zennas.latency.budget import LocalBudget, keep_network, kept_network
from zennas.latency.protocol import Measurement
from zennas.progress import duration
from zennas.records import UserError
from zennas.search.batches import Batches
from zennas.search.budgets import check_possible
from zennas.search.finals import settle_finals
from zennas.search.forecast import finals_seconds, search_seconds
from zennas.search.funnel import Funnel, knows
from zennas.search.measured import Measured
from zennas.search.opening import announce, budget_of, finished_before, open_run, prepare, start
from zennas.search.outcome import publish
from zennas.search.storage import PATIENCE_S
from zennas.search.winners import correction, diverse_best
from zennas.search.workers import MeasuringError
from zennas.space.parts import sums

CLOSE_S = 120.0  # that the end of a run waits for a store that does not answer
LAST_WRITES_S = 1.0  # the same after Ctrl-C: ray job stop kills after three
FAILED_WRITES_S = 10.0  # the same after an error


class Run:
    """A search under way, and the resources it holds: the ledger, the workers, the study's store."""

    def __init__(self, options, progress):
        self.options, self.progress = options, progress
        self.track, self.space, self.plan, self.out = options.track, options.space, options.plan, options.out
        self.start, self.spent_before_s = time.monotonic(), None
        self.factor, self.front, self.note, self.inner_s, self.island = 1.0, [], None, 0.0, 0
        self.budget = self.table = self.batches = self.store = self.workers = self.funnel = self.ledger = self.lock = (
            None
        )
        self.elsewhere, self.sums = (
            [],
            {},
        )  # names of the devices on which finalists are measured, too; Sums of their tables

    def go(self):
        """Search to the end; the winners' entries, best first. KeyboardInterrupt leaves everything computed in the
        ledger.
        """
        finished = interrupted = False
        try:
            open_run(self)
            self.spent_before_s = self.ledger.state["total_s"]
            self.deadline = self.start + 60 * self.plan.minutes - self.spent_before_s
            announce(self)
            if (winners := finished_before(self)) is not None:
                finished = True
                return winners
            start(self)
            with self.timed("measuring"):
                prepare(self)
            self._begin_search()
            self.evolve(seconds=search_seconds(self), num_scored=self.num_asked)
            with self.timed("waiting for the study"):
                self.store.drain(PATIENCE_S)  # nothing of ours beside the measurements
            self.store.check()
            with self.timed("finals"), self.store.turn("finals"):
                self._take_what_others_found()
                winners = settle_finals(self)
                with self.timed("publishing"):
                    winners = publish(self, winners)
                    self.store.drain(PATIENCE_S)
            self.ledger.save(finished=True, minutes=self.plan.minutes, num_workers=self.workers.num_workers)
            finished = True
            return winners
        except MeasuringError as error:
            raise UserError(
                f"{error}; what was computed before is kept; give the same command again to go on"
            ) from None
        except KeyboardInterrupt:
            interrupted = True
            self.progress.end()
            self.progress.say("stopping: writing down what is done, ending Ray")
            raise
        finally:
            self._close(finished=finished, interrupted=interrupted)

    # --- what the stages call -------------------------------------------------------------------------------------

    @property
    def share(self):
        """(This island, how many there are.)"""
        return self.island, self.options.num_islands

    @property
    def num_asked(self):
        """What this island scores of the candidates that were asked for; None where the clock decides."""
        asked = self.plan.candidates
        return asked if asked is None else -(-asked // self.options.num_islands)

    @property
    def out_of_time(self):
        return self.plan.candidates is None and time.monotonic() > self.deadline

    @property
    def hurried(self):
        """Whether finals from the beginning would take longer than the minutes."""
        return self.plan.candidates is None and time.monotonic() + finals_seconds(self) > self.deadline

    def table_ms(self, candidate):
        """The table's uncorrected sum for a candidate, in ms."""
        return self.table.predict(candidate, image_px=self.space.image_px, embedding_size=self.space.embedding_size)

    def predicted_ms(self, candidate):
        return self.table_ms(candidate) * self.factor

    def refusal(self, candidate):
        """Why a candidate of the space is not worth scoring, cheapest question first; None if it is."""
        for budget in self.others:
            if budget.of(candidate, self.space) > budget.most:
                return f"over {budget.most:g} {budget.name}"
        return None if self._fits(self.table_ms(candidate)) else "over budget"

    def _fits(self, table_ms):
        """Whether the budget, less its margin, holds what the table predicts, corrected; of a number or an array."""
        return table_ms * self.factor <= self.budget.budget_ms * (1 - self.plan.margin_pct / 100)

    def fit(self, table_ms_N, genes_NG):
        """fits_N: which candidates of the space keep the budget and those of the further devices, as they are corrected
        now.
        """
        fits_N = self._fits(table_ms_N)
        for budget in self.others:
            if budget.is_measured and len(fits_N):  # the others are never corrected: what was proposed keeps them
                fits_N &= budget.factor * self._sums_of(budget).of(self.space, genes_NG) <= budget.most
        return fits_N

    def _sums_of(self, budget):
        if budget.name not in self.sums:
            self.sums[budget.name] = sums(self.space, budget.of_part)
        return self.sums[budget.name]

    def diverse_best(self, taken, *, num):
        """The best `num` scored candidates that fit and differ enough from `taken`: by measurement where they were
        measured, by prediction elsewhere. Without the baselines themselves, which the search starts from: a winner is
        new.
        """
        rows = self.ledger.rows
        fits_N = self.fit(rows.column("predicted_ms"), rows.genes_NG)
        for entry in self.ledger.measured.values():
            fits_N[rows.column("key") == entry.key.encode()] = not entry.is_baseline and entry.keeps_budgets
        return diverse_best(rows, taken, num=num, min_distance=self.plan.min_distance, fits_N=fits_N)

    def fail(self, row, *, stage, error):
        """A scored candidate that failed later: it stays in the ledger, out of the finals, and shows in the study."""
        failed = row._replace(score=None, stage=stage, error=error)
        self.ledger.event(why="failed", key=row.key, stage=stage, error=error, after_batch=-1)
        self.ledger.rows.fail(row.key, stage=stage, error=error)
        self.batches.rebuild()
        self.store.add_failed(failed)
        self.progress.say(f"{row.text} failed at stage '{stage}': {error}", style="yellow")

    def correct(self, factor, *, why):
        """Correct the table's predictions from here on; the population is chosen again under it."""
        self.factor, self.others = factor, [self._corrected(budget) for budget in self.others]
        last_batch = self.batches.next_index - 1 if self.batches else -1
        self.ledger.event(
            why=why,
            factor=factor,
            factors={one.device: one.factor for one in self.others if one.is_measured},
            after_batch=last_batch,
            elapsed_s=round(self.ledger.state["search_s"], 2),
        )
        self._prove()
        if self.batches:
            self.batches.rebuild()

    def _corrected(self, budget):
        """The Budget of a further device, its table corrected by what was measured there, finalists before
        baselines."""
        for entries in (self.ledger.finalists, self.ledger.baselines):
            latencies = [entry.by_device[budget.device] for entry in entries if budget.device in entry.by_device]
            if timed := [(latency.measured_ms, latency.table_ms) for latency in latencies if latency.table_ms]:
                return budget._replace(factor=correction(timed, budget.most))
        return budget

    def _prove(self):
        """The proven optimum under the corrected budget, where the closed form knows the score; said when it
        changes."""
        if self.funnel is None:
            return
        before = self.funnel.optimum
        self.progress.begin("proving the optimum")
        with self.timed("proving the optimum"):
            most_ms = self.budget.budget_ms / self.factor
            self.funnel.set_budget(most_ms, margin_pct=self.plan.margin_pct, others=self.others)
        self.progress.end()
        optimum = self.funnel.optimum
        if optimum is None:
            self.progress.say(f"optimum  not proven: {self.funnel.why_not or 'no candidate is within the limits'}")
        elif before is None or before.candidate != optimum.candidate:
            self.progress.say(
                f"optimum  {optimum.candidate.text}: closed form {optimum.score:.2f} at "
                f"{optimum.costs[0] * self.factor:.2f} ms; "
                "nothing else in the space has more within the budget, as table and closed form have it"
            )

    def evolve(self, *, seconds=None, num_scored=None):
        """Search on, for so many seconds or until so many candidates are scored."""
        if seconds is not None and seconds <= 0:
            return
        self.progress.begin("searching")
        begun, total_s = time.monotonic(), seconds
        before = self.batches.num_scored

        def show(batches):
            elapsed_s = max(1e-3, time.monotonic() - begun)
            rate = (batches.num_scored - before) / elapsed_s
            left_s = total_s - elapsed_s if num_scored is None else (num_scored - batches.num_scored) / max(rate, 1e-3)
            self.progress.update(self._state_of_search() | {"per second": f"{rate:.1f}", "left": duration(left_s)})

        def taken(rows):
            self.store.check()
            self.batches.take_arrivals(self.store.arrivals())
            for row in rows:
                if row.error is not None:
                    self.store.add_failed(row)
            on_front = [row for row in rows if row.error is None and self._on_front(row)]
            for row in on_front:
                if (row.score, row.predicted_ms) in self.front:  # none of its own batch beats it
                    self.store_scored(row)
            show(self.batches)

        try:
            with self.timed("searching"):
                complete = self.batches.run(
                    self.workers, seconds=seconds, num_scored=num_scored, on_rows=taken, on_wait=show
                )
        finally:
            self.progress.end()
        if not complete:
            self.progress.say(
                "the space holds no more candidates within the budget that were not seen: all of it is searched"
            )
        self.progress.say("searched: " + ", ".join(f"{name} {text}" for name, text in self._state_of_search().items()))
        self.ledger.event(why="drained", after_batch=self.batches.next_index - 1)

    # --- stages ---------------------------------------------------------------------------------------------------

    def settle_budget(self):
        """The budget in milliseconds of the latency device."""
        if self.ledger.state["budget"] is None:
            self.ledger.save(budget=budget_of(self))
        self.budget = LocalBudget.parse(self.ledger.state["budget"], self.out / "run.json")
        self.progress.say(f" budget  {self.budget.budget_ms:.2f} ms here: {self.budget.origin}")
        made_by = self.ledger.state["made_by"]
        self.store.describe(
            {name: made_by[name] for name in ("command", "zennas", "machine", "date")}
            | {"track": self.track.name, "space": self.space.name, "seed": self.plan.seed}
            | {"budget (ms)": self.budget.budget_ms, "stand-in": self.budget.stand_in or "no"}
        )

    def _begin_search(self):
        """Correct the table by the baselines, see that the budget is possible at all, and take up the search."""
        if knows(self.space, self.plan):
            self.progress.begin(f"closed form of the score at {self.plan.score.image_px} px")
            with self.timed("proving the optimum"):
                self.funnel = Funnel(self.space, self.plan, self.table.part_ms, others=self.others, share=self.share)
            self.progress.end()
        corrections = [event for event in self.ledger.state["events"] if "factor" in event]
        if corrections:
            self.factor, factors = corrections[-1]["factor"], corrections[-1].get("factors", {})
            self.others = [one._replace(factor=factors.get(one.device, 1.0)) for one in self.others]
            self._prove()
        else:
            self.correct(correction(self._calibration(), self.budget.budget_ms), why="baselines")
        self.check_possible()
        self._begin_front()
        lag = self.workers.num_workers * self.plan.batches_in_flight
        self.batches = Batches(
            self.space,
            self.plan,
            self.ledger,
            lag=lag,
            refusal=self.refusal,
            fit=self.fit,
            predicted_ms=self.table_ms,
            funnel=self.funnel,
            share=self.share,
        )

    def check_possible(self, *, slack=1.0):
        """UserError where not even the cheapest candidate fits, its prediction divided by `slack`."""
        check_possible(self.others, self.space)
        cheapest, usable_ms = self.space.cheapest(), self.budget.budget_ms * (1 - self.plan.margin_pct / 100)
        if self.predicted_ms(cheapest) > slack * usable_ms:
            raise UserError(
                f"the budget of {self.budget.budget_ms:.2f} ms is below the cheapest candidate of space "
                f"{self.space.name}: "
                f"{cheapest.text} takes about {self.predicted_ms(cheapest):.2f} ms here (over budget, with a margin of "
                f"{self.plan.margin_pct:g} %); give more with --budget-ms or another --space"
            )

    def _calibration(self):
        """[(measured ms, ms by the table)] of the baselines, as this machine measured them the first time: the same
        table and the same correction in every run, so that the same seed proposes the same candidates."""
        timed = []
        for entry in self.ledger.baselines:
            candidate, latency = entry.candidate, entry.latency
            sizes = {"image_px": self.space.image_px, "embedding_size": self.space.embedding_size}
            kept = kept_network(candidate, self.protocol, machine=self.machine, **sizes)
            if kept is None:
                kept = Measurement(**{name: getattr(latency, name) for name in Measurement.model_fields})
                keep_network(candidate, kept, **sizes)
            timed.append((kept.measured_ms, latency.table_ms))
        return timed

    def _state_of_search(self):
        """What the progress display says of the search so far."""
        counters, best = self.ledger.counters, self.batches.population.best
        rejected = {
            name.removeprefix("rejected: "): count for name, count in counters.items() if name.startswith("rejected")
        }
        state = {name: counters[name] for name in ("screened", "seen") if counters[name]}
        state |= {"scored": counters["scored"], "failed": counters["failed"]}
        state |= {f"rejected ({why})": count for why, count in sorted(rejected.items())}
        return state | ({"best": f"{best[0]:.2f}"} if best else {})

    def _begin_front(self):
        """The front of all that is scored: kept by score, highest first, fastest so far."""
        rows, fastest_ms = self.ledger.rows, float("inf")
        predicted_N = rows.column("predicted_ms")
        for at in rows.ranked():
            if predicted_N[at] < fastest_ms:
                fastest_ms = float(predicted_N[at])
                self.front.append((float(rows.score_N[at]), fastest_ms))

    def _take_what_others_found(self):
        """Before the finals: the elites and the measurements of other islands, and of their tables what can be read."""
        if self.options.num_islands == 1:
            return
        self.batches.take_arrivals(self.store.arrivals())
        self.batches.take_rows(self.ledger.refresh())
        for values in self.store.kept_under("measured:").values():
            entry = Measured.parse(values, "the store")
            own = self.ledger.measured.get(entry.key)
            if own is None or own.plain() != values:
                # The store's file of it is in another folder.
                self.ledger.take_measured(entry.changed(onnx=own and own.onnx))
        for island in self.store.driverless():
            self.progress.say(
                f"warning: nobody works on island {island}: its share of the space is searched no further; the same "
                f"command "
                "goes on with it",
                style="yellow",
            )

    def _on_front(self, row):
        """Whether no candidate so far is both better and faster; if so it is on the front from now on."""
        if any(score >= row.score and ms <= row.predicted_ms for score, ms in self.front):
            return False
        self.front = [(s, ms) for s, ms in self.front if not (row.score >= s and row.predicted_ms <= ms)]
        self.front.append((row.score, row.predicted_ms))
        return True

    def store_scored(self, row):
        """A scored candidate into the study, at its corrected prediction."""
        self.store.add_scored(row, latency_ms=row.predicted_ms * self.factor, budget_ms=self.budget.budget_ms)

    @contextlib.contextmanager
    def timed(self, what):
        """Add the seconds spent inside, less those of accounts opened inside, to run.json's account of the wall
        time."""
        begun, outer_s, self.inner_s = time.monotonic(), self.inner_s, 0.0
        try:
            yield
        finally:
            spent_s, wall = time.monotonic() - begun, self.ledger.state["wall_s"] if self.ledger else {}
            wall[what] = round(wall.get(what, 0.0) + spent_s - self.inner_s, 3)
            self.inner_s = outer_s + spent_s

    def _close(self, *, finished, interrupted):
        """Write down what is there and give back what is held; also where the run never came so far as to hold it."""
        if self.ledger is not None and self.spent_before_s is not None:  # while the store still takes it, too
            self.ledger.save(total_s=self.spent_before_s + time.monotonic() - self.start)
        if self.store is not None and self.ledger is not None:
            with self.timed("waiting for the study"):
                # What went wrong may have been the disk of the store, which then is not worth waiting for.
                seconds = CLOSE_S if finished else LAST_WRITES_S if interrupted else FAILED_WRITES_S
                num_scored = int(self.ledger.own_N.sum())
                is_finished = self.ledger.state["finished"]
                error = self.store.close(note=self.note, finished=is_finished, num_scored=num_scored, seconds=seconds)
            if error:
                self.progress.say(f"warning: the study is incomplete: {error}; {self.out} has it all", style="yellow")
            self.ledger.state["wall_s"]["writing the study, beside the search"] = round(self.store.seconds, 3)
            self.ledger.state["store"] = {"writes": self.store.num_writes, "longest_s": round(self.store.longest_s, 3)}
        elif self.store is not None:
            self.store.close(finished=None)
        if self.workers is not None:
            with self.timed("stopping Ray"):
                self.workers.close()
        if self.ledger is not None and self.spent_before_s is not None:
            self.ledger.keep = None  # the store is closed
            self.ledger.save(total_s=self.spent_before_s + time.monotonic() - self.start)
        if self.lock is not None:
            self.lock.release()
