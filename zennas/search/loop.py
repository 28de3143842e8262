"""The whole path of a search, from a track's name to winners on disk. Read `Run.go` first."""

import contextlib
import time

from zennas.latency.budget import LocalBudget, choose_protocol, keep_network, kept_network
from zennas.latency.protocol import Measurement
from zennas.latency.table import LatencyTable
from zennas.progress import duration
from zennas.provenance import machine_name
from zennas.records import UserError
from zennas.run_folder import lock_folder
from zennas.search.batches import Batches
from zennas.search.budgets import check_possible, other_budgets
from zennas.search.finals import settle_finals
from zennas.search.funnel import Funnel, knows
from zennas.search.ledger import open_ledger
from zennas.search.outcome import publish
from zennas.search.prepare import fill_table, measure_baselines, settle_budget
from zennas.search.store import Store
from zennas.search.winners import correction, diverse_best
from zennas.search.workers import Workers
from zennas.space.candidate import Candidate

EXPORT_S = 5.0  # building, exporting and proving one network; measured 1 s (IR-18) to 8 s ([3,25,88,3])
FINALIST_S = 14.0  # the same for a finalist, with six candidates scored again; measured 12 to 20 s at 120 blocks
PUBLISH_S = 5.0
PART_S = 0.45  # one part of the latency table
EVIDENCE_S = 0.018  # one other score of one block, on a core; measured 0.016 to 0.018 from 24 to 120 blocks
# Of the minutes that the search itself gets, however slow the device is: families score thirty times as many a second.
MIN_SEARCH_SHARE, MIN_FAMILIES_SHARE = 0.2, 0.12


class Run:
    """A search under way, and the resources it holds: the ledger, the workers, the study's store."""

    def __init__(self, options, progress):
        self.options, self.progress = options, progress
        self.track, self.space, self.plan, self.out = options.track, options.space, options.plan, options.out
        self.start = time.monotonic()
        self.factor, self.front, self.note, self.inner_s = 1.0, [], None, 0.0
        self.budget = self.table = self.batches = self.store = self.workers = self.funnel = None

    def go(self):
        """Search to the end; the winners' entries, best first. KeyboardInterrupt leaves everything computed in the ledger."""
        options = self.options
        self.protocol, self.stand_in = choose_protocol(self.track, options.backend)
        most = self.track.limits.max_embedding_size
        if most is not None and self.space.embedding_size > most:
            raise UserError(
                f"space {self.space.name} has embeddings of {self.space.embedding_size} numbers; "
                f"track {self.track.name} allows at most {most}"
            )
        self.others = other_budgets(self.track, self.plan, self.space)
        check_possible(self.others, self.space)
        self.lock = lock_folder(self.out)
        self.ledger = open_ledger(
            self.out, options.settings(self.protocol), resume=options.resume, fresh=options.fresh, seed=self.plan.seed
        )
        self.progress.log_to(self.out / "search.log")
        self.spent_before_s = self.ledger.state["total_s"]
        self.deadline = self.start + 60 * self.plan.minutes - self.spent_before_s
        self._announce()
        if self._finished_before():
            winners = [entry for entry in self.finalists if entry["role"] == "winner"]
            return sorted(winners, key=lambda entry: int(entry["name"].removeprefix("winner-")))
        try:
            self._open_store()
            with self._timed("starting Ray"):
                self.workers = Workers(options.num_workers, address=options.address)
                self.workers.warm_up()
                self.machine = self.workers.on_device(machine_name)
            with self._timed("measuring"):
                self._settle_budget()
                self.table = LatencyTable(self.protocol, machine=self.machine)
                self._say_how_long()
                fill_table(self.table, self.space, self.workers, self.progress, num_runs=self.plan.table_runs)
                self._check_possible(slack=1.2)  # the table is not corrected yet
                measure_baselines(self)
            self._begin_search()
            self.evolve(seconds=self._search_seconds(), num_scored=self.plan.candidates)
            with self._timed("waiting for the study"):
                self.store.drain()  # nothing of ours beside the measurements
            with self._timed("finals"):
                winners = settle_finals(self)
            with self._timed("publishing"):
                winners = publish(self, winners)
            self.ledger.save(finished=True, minutes=self.plan.minutes, num_workers=options.num_workers)
            return winners
        except KeyboardInterrupt:
            self.progress.end()
            self.progress.say("stopping: writing down what is done, ending Ray")
            raise
        finally:
            self._close()

    # --- what the stages call -------------------------------------------------------------------------------------

    @property
    def out_of_time(self):
        return self.plan.candidates is None and time.monotonic() > self.deadline

    @property
    def hurried(self):
        """Whether finals from the beginning would take longer than the minutes."""
        return self.plan.candidates is None and time.monotonic() + self._finals_seconds() > self.deadline

    @property
    def finalists(self):
        """Entries of the candidates measured whole, baselines left out."""
        return [entry for entry in self.ledger.measured.values() if entry["role"] != "baseline"]

    @property
    def baselines(self):
        return [entry for entry in self.ledger.measured.values() if entry["role"] == "baseline"]

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
        if self.predicted_ms(candidate) > self.budget.budget_ms * (1 - self.plan.margin_pct / 100):
            return "over budget"
        return None

    def diverse_best(self, taken, *, num):
        """The best `num` scored candidates that fit and differ enough from `taken`: by measurement where they were measured, by
        prediction elsewhere. Without the baselines themselves, which the search starts from: a winner is new."""
        measured = {entry["key"]: entry["latency"]["within_budget"] for entry in self.finalists}
        measured |= {entry["key"]: False for entry in self.baselines}
        return diverse_best(
            [row for row in self.ledger.rows if row.score is not None],
            taken,
            num=num,
            min_distance=self.plan.min_distance,
            fits=lambda row: measured[row.key] if row.key in measured else self.refusal(row.candidate) is None,
        )

    def fail(self, row, *, stage, error):
        """A scored candidate that failed later: it stays in the ledger, out of the finals, and shows in the study."""
        failed = row._replace(score=None, stage=stage, error=error)
        self.ledger.event(why="failed", key=row.key, stage=stage, error=error, after_batch=-1)
        self.ledger.rows = [failed if known.key == row.key else known for known in self.ledger.rows]
        self.batches.rebuild()
        self.store.add_failed(failed)
        self.progress.say(f"{row.text} failed at stage '{stage}': {error}", style="yellow")

    def correct(self, factor, *, why):
        """Correct the table's predictions from here on; the population is chosen again under it."""
        self.factor = factor
        last_batch = self.batches.next_index - 1 if self.batches else -1
        self.ledger.event(
            why=why, factor=factor, after_batch=last_batch, elapsed_s=round(self.ledger.state["search_s"], 2)
        )
        self._prove()
        if self.batches:
            self.batches.rebuild()

    def _prove(self):
        """The proven optimum under the corrected budget, where the closed form knows the score; said when it changes."""
        if self.funnel is None:
            return
        before = self.funnel.optimum
        self.progress.begin("proving the optimum")
        with self._timed("proving the optimum"):
            self.funnel.set_budget(self.budget.budget_ms / self.factor, margin_pct=self.plan.margin_pct)
        self.progress.end()
        optimum = self.funnel.optimum
        if optimum is None:
            self.progress.say(f"optimum  not proven: {self.funnel.why_not or 'no candidate is within the limits'}")
        elif before is None or before.candidate != optimum.candidate:
            self.progress.say(
                f"optimum  {optimum.candidate.text}: closed form {optimum.score:.2f} at {optimum.costs[0] * self.factor:.2f} ms; "
                "nothing else in the space has more within the budget, as table and closed form have it"
            )

    def evolve(self, *, seconds=None, num_scored=None):
        """Search on, for so many seconds or until so many candidates are scored."""
        if seconds is not None and seconds <= 0:
            return
        self.progress.begin("searching")
        start, total_s = time.monotonic(), seconds
        before = self.batches.num_scored

        def show(batches):
            elapsed_s = max(1e-3, time.monotonic() - start)
            rate = (batches.num_scored - before) / elapsed_s
            left_s = total_s - elapsed_s if num_scored is None else (num_scored - batches.num_scored) / max(rate, 1e-3)
            self.progress.update(self._state_of_search() | {"per second": f"{rate:.1f}", "left": duration(left_s)})

        def taken(rows):
            for row in rows:
                if row.error is not None:
                    self.store.add_failed(row)
            on_front = [row for row in rows if row.error is None and self._on_front(row)]
            for row in on_front:
                if (row.score, row.predicted_ms) in self.front:  # none of its own batch beats it
                    self.store_scored(row)
            show(self.batches)

        try:
            with self._timed("searching"):
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

    def _announce(self):
        """A few lines that say what will be done."""
        plan, track = self.plan, self.track
        done = (
            f"; {len(self.ledger.rows)} scored and {len(self.ledger.measured)} measured before"
            if self.ledger.rows
            else ""
        )
        until = f"{plan.candidates} candidates" if plan.candidates else f"about {plan.minutes:g} minutes in all"
        for name, text in (
            ("track", f"{track.name}: {track.title}"),
            (
                "space",
                f"{self.space.name}: block {self.space.block}, {len(self.space.genes)} genes, "
                f"at most {self.space.limits.max_blocks} blocks",
            ),
            (
                "device",
                f"{machine_name()}, backend {self.protocol.backend}, {self.protocol.threads} thread(s), "
                f"batch {self.protocol.batch}",
            ),
            ("metric", f"of the track, after training: {track.metric}"),
            ("rule", f"value {self.protocol.kth_fastest} of {self.protocol.num_runs} runs, sorted"),
            ("work", f"{self.options.num_workers} worker(s), {until}, seed {plan.seed}, out {self.out}{done}"),
        ):
            self.progress.say(f"{name:>7}  {text}")
        for limit in self.others:
            self.progress.say(f"{'limit':>7}  {limit.text}")
        if self.stand_in:
            self.progress.say(f"   note  {self.stand_in}", style="yellow")

    def _finished_before(self):
        """Whether an earlier run of the same command left nothing to do; says so."""
        state = self.ledger.state
        if not state["finished"]:
            return False
        more = (
            self.plan.candidates > len(self.ledger.rows)
            if self.plan.candidates
            else self.plan.minutes > state["minutes"]
        )
        if more:
            state["finished"] = False
            return False
        self.progress.say(
            "this run is finished: its winners are below; more --minutes or --candidates go on, --fresh begins anew"
        )
        return True

    def _open_store(self):
        storage = self.options.storage or f"sqlite:///{self.out / 'study.db'}"
        with self._timed("opening the study"):
            self.store = Store(
                self.space,
                storage,
                self.out.name,
                run_id=self.ledger.run_id,
                note=f"Search on {self.track.title}: under way.",
                label=self.plan.score.label,
            )

    def _settle_budget(self):
        if self.ledger.state["budget"] is None:
            budget = settle_budget(
                self.track,
                self.protocol,
                self.stand_in,
                self.workers,
                self.progress,
                budget_ms=self.options.budget_ms,
                detector=self.options.detector,
            )
            self.ledger.save(budget=budget.model_dump())
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
            with self._timed("proving the optimum"):
                self.funnel = Funnel(self.space, self.plan, self.table.part_ms, others=self.others)
            self.progress.end()
        factors = [event["factor"] for event in self.ledger.state["events"] if "factor" in event]
        if factors:
            self.factor = factors[-1]
            self._prove()
        else:
            self.correct(correction(self._calibration(), self.budget.budget_ms), why="baselines")
        self._check_possible()
        for row in self.ledger.rows:
            if row.score is not None:
                self._on_front(row)
        lag = self.options.num_workers * self.plan.batches_in_flight
        self.batches = Batches(
            self.space,
            self.plan,
            self.ledger,
            lag=lag,
            refusal=self.refusal,
            predicted_ms=self.table_ms,
            funnel=self.funnel,
        )

    def _check_possible(self, *, slack=1.0):
        """UserError where not even the cheapest candidate fits, its prediction divided by `slack`."""
        cheapest, usable_ms = self.space.cheapest(), self.budget.budget_ms * (1 - self.plan.margin_pct / 100)
        if self.predicted_ms(cheapest) > slack * usable_ms:
            raise UserError(
                f"the budget of {self.budget.budget_ms:.2f} ms is below the cheapest candidate of space {self.space.name}: "
                f"{cheapest.text} takes about {self.predicted_ms(cheapest):.2f} ms here (over budget, with a margin of "
                f"{self.plan.margin_pct:g} %); give more with --budget-ms or another --space"
            )

    def _calibration(self):
        """The baselines as this machine measured them the first time: the same table and the same correction in every run,
        so that the same seed proposes the same candidates."""
        entries = []
        for entry in self.baselines:
            candidate, latency = Candidate(**entry["candidate"]), entry["latency"]
            sizes = {"image_px": self.space.image_px, "embedding_size": self.space.embedding_size}
            kept = kept_network(candidate, self.protocol, machine=self.machine, **sizes)
            if kept is None:
                kept = Measurement(**{name: latency[name] for name in Measurement.model_fields})
                keep_network(candidate, kept, **sizes)
            entries.append({"latency": {"measured_ms": kept.measured_ms, "table_ms": latency["table_ms"]}})
        return entries

    def _search_seconds(self):
        """What is left of the minutes for the search, once the finals have theirs; None when candidates are counted."""
        if self.plan.candidates is not None:
            return None
        return self._left_for_search(self._finals_seconds())

    def _left_for_search(self, others_s):
        """What the search gets of the minutes when everything else that is to come takes `others_s`."""
        share = MIN_FAMILIES_SHARE if knows(self.space, self.plan) else MIN_SEARCH_SHARE
        least_s = 60 * self.plan.minutes * share - self.ledger.state["search_s"]
        return max(least_s, self.deadline - time.monotonic() - others_s)

    @property
    def finalist_seconds(self):
        """What one finalist is expected to take: scored again with others of its slot, exported, measured whole."""
        return FINALIST_S + self.protocol.num_runs * self.budget.budget_ms / 1000

    def _finals_seconds(self):
        """What the finals are expected to take: a network measured whole per winner, and one that is over the budget; then what
        the other scores say of winners and baselines."""
        blocks = [one.num_blocks for one in self.space.baselines.values()]
        deepest = min(self.space.limits.max_blocks, sum(span.high for span in self.space.depths))
        blocks += [deepest] * self.plan.num_winners  # Zen-Score asks for all there are
        evidence_s = EVIDENCE_S * sum(blocks) * len(self.plan.evidence.names) / self.options.num_workers
        return self.finalist_seconds * (self.plan.num_winners + 1) + evidence_s + PUBLISH_S

    def _say_how_long(self):
        """What the run expects to take from here, stage by stage."""
        table_s = PART_S * len(self.table.missing_for(self.space))
        todo = sum(one.key not in self.ledger.measured for one in self.space.baselines.values())
        # Hand-made networks take less than the budget, most of them much less.
        baselines_s = todo * (EXPORT_S + self.protocol.num_runs * self.budget.budget_ms / 2000)
        parts = {"latency table": table_s, "baselines": baselines_s, "finals": self._finals_seconds()}
        if self.plan.candidates is None:
            parts["search"] = self._left_for_search(sum(parts.values()))
        listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds > 0)
        total = duration(sum(parts.values())) + (
            f" and {self.plan.candidates} candidates" if self.plan.candidates else ""
        )
        self.progress.say(f"   time  about {total} from here: {listed}")

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
    def _timed(self, what):
        """Add the seconds spent inside, less those of accounts opened inside, to run.json's account of the wall time."""
        start, outer_s, self.inner_s = time.monotonic(), self.inner_s, 0.0
        try:
            yield
        finally:
            spent_s, wall = time.monotonic() - start, self.ledger.state["wall_s"]
            wall[what] = round(wall.get(what, 0.0) + spent_s - self.inner_s, 3)
            self.inner_s = outer_s + spent_s

    def _close(self):
        if self.store is not None:
            with self._timed("waiting for the study"):
                error = self.store.close(note=self.note)
            if error:
                self.progress.say(f"warning: the study is incomplete: {error}; {self.out} has it all", style="yellow")
            self.ledger.state["wall_s"]["writing the study, beside the search"] = round(self.store.seconds, 3)
        if self.workers is not None:
            with self._timed("stopping Ray"):
                self.workers.close()
        self.ledger.save(total_s=self.spent_before_s + time.monotonic() - self.start)
        self.lock.release()
