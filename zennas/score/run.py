"""The work of `zennas score`: what a user does first with an idea of their own."""

import csv
import sys
from typing import Any

import torch

from zennas.latency.budget import choose_protocol, local_budget, measure_network, reference_here
from zennas.latency.protocol import Measurement
from zennas.latency.table import LatencyTable
from zennas.progress import Progress, silent
from zennas.records import Record, UserError
from zennas.score.branches import WayScores
from zennas.score.learned import named_score
from zennas.score.options import Options
from zennas.score.scores import SCORES, score_batch, way_scores
from zennas.space.candidate import Candidate, read_candidates
from zennas.space.cost import cost
from zennas.space.families.table import check_known, layout_of
from zennas.space.parts import parts_of
from zennas.space.space import Space
from zennas.track import Experiment, Track, load_experiment, lookup

STANDARD_INPUT = "-"  # among files


class ScoredRow(Record):
    """One candidate: what it is, what it costs, its scores, its latency against the budget."""

    name: str
    key: str
    candidate: dict[str, Any]
    text: str
    scores: dict[str, float | None]
    params: int
    macs: int
    num_blocks: int
    megabytes: float
    outside_space: str | None  # why the track's space does not hold it
    predicted_ms: float | None
    measured_ms: float | None
    spread_pct: float | None
    budget_ms: float | None
    within_budget: bool | None
    stand_in: str | None  # where another kind of device stands in for the track's
    error: str | None
    ways: WayScores | None = None  # of a network of several branches
    latency: Measurement | None = None  # where it was measured whole


class Scores(Record):
    """What `score` returns: a row for each candidate, in the order given."""

    rows: tuple[ScoredRow, ...]

    def plain(self) -> list[dict[str, Any]]:
        """The rows as JSON has them."""
        return [
            row.model_dump(mode="json", exclude={name for name in ("ways", "latency") if getattr(row, name) is None})
            for row in self.rows
        ]

    def print_csv(self) -> None:
        """A table on standard output, one column for each score."""
        rows = [row.model_dump(mode="json", exclude={"candidate", "scores", "ways", "latency"}) for row in self.rows]
        flat = [
            values | {f"score_{name}": value for name, value in row.scores.items()}
            for values, row in zip(rows, self.rows, strict=True)
        ]
        writer = csv.DictWriter(sys.stdout, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)


class Opened(Record):
    """What the options name, loaded."""

    experiment: Experiment
    track: Track
    space: Space
    candidates: tuple[tuple[str, Candidate], ...]  # of baselines and files
    typed_at: int | None  # the place among them of those of standard input; None: it is not read


def check(options: Options) -> Opened:
    """What the options name; UserError for what cannot be used. Nothing is touched: `run` reads standard input."""
    if options.measure and not options.latency:
        raise UserError("--measure and --no-latency exclude each other")
    experiment, track, space = load_experiment(options.track)
    if not (options.files or options.baselines):
        raise UserError("nothing to score: give files of candidates ('-' is standard input), or baselines")
    if options.files.count(STANDARD_INPUT) > 1:
        raise UserError(f"'{STANDARD_INPUT}', standard input, is given more than once; it can be read once")
    if options.baselines and not (options.files or space.baselines):
        raise UserError(f"--baselines: space {space.name} has no hand-made networks; give files of candidates")
    candidates, typed_at = list(space.baselines.items()) if options.baselines else [], None
    for source in options.files:
        if source == STANDARD_INPUT:
            typed_at = len(candidates)
        else:
            candidates += read_candidates(source)
    for name in options.score or ("",):
        named = named_score(name)
        if named["learned"] is None:
            lookup(SCORES, name, "score")
        else:
            named["learned"].check_space(space, f"--score {name}")
    _check_candidates(candidates, space)
    return Opened(experiment=experiment, track=track, space=space, candidates=tuple(candidates), typed_at=typed_at)


def _check_candidates(candidates: list[tuple[str, Candidate]], space: Space) -> None:
    """UserError where this zennas does not know a candidate's block or family, or images of the Space do not fit it."""
    for name, candidate in candidates:
        try:
            check_known(candidate)
            layout_of(candidate, space.shape)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None


def run(options: Options, *, progress: Progress | None = None) -> Scores:
    """Score the candidates, and predict or measure their latency."""
    progress = progress or silent()
    opened = _with_typed(check(options), progress)
    rows = _scored(opened, options, progress)
    if options.latency:
        _add_latency(rows, opened, options, progress)
    return Scores(rows=tuple(ScoredRow(**row) for row in rows))


def _with_typed(opened: Opened, progress: Progress) -> Opened:
    """The same with the candidates of standard input, where they are asked for."""
    if opened.typed_at is None:
        return opened
    if sys.stdin.isatty():  # someone would wait for an answer without knowing that zennas waits for them
        progress.say("candidates are read from standard input; Ctrl-D ends them")
    typed, at = read_candidates(STANDARD_INPUT), opened.typed_at
    _check_candidates(typed, opened.space)
    candidates = (*opened.candidates[:at], *typed, *opened.candidates[at:])
    return opened.model_copy(update={"candidates": candidates, "typed_at": None})


def _scored(opened: Opened, options: Options, progress: Progress) -> list[dict[str, Any]]:
    """A row per candidate: what it is, what it costs, its scores."""
    space = opened.space
    plan = opened.experiment.search.score.model_copy(update={"repeats": options.repeats})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    progress.begin("scoring")
    count = progress.counting("candidates")
    for index, (name, candidate) in enumerate(opened.candidates):
        spent = cost(candidate, space.shape)
        row: dict[str, Any] = {
            "name": name,
            "key": candidate.key,
            "candidate": candidate.plain(),
            "text": candidate.text,
            "scores": {},
            "params": spent.params,
            "macs": spent.macs,
            "num_blocks": candidate.num_blocks,
            "megabytes": round(spent.megabytes, 2),
            "outside_space": space.violation(candidate),
            **dict.fromkeys(
                (
                    *("predicted_ms", "measured_ms", "spread_pct", "budget_ms", "within_budget", "stand_in"),
                    *("error", "ways"),
                )
            ),
        }
        for score_name in options.score:
            named_plan = plan.model_copy(update=named_score(score_name))
            (scored,) = score_batch([candidate], named_plan, space.shape, seed=options.seed, device=device)
            row["scores"][score_name] = scored.value
            row["error"] = row["error"] or (f"score {score_name}: {scored.error}" if scored.error else None)
            if scored.error is None and row["ways"] is None:
                row["ways"] = way_scores(candidate, named_plan, space.shape, seed=options.seed, device=device)
        rows.append(row)
        count(index + 1, len(opened.candidates))
    progress.end()
    return rows


def _add_latency(rows: list[dict[str, Any]], opened: Opened, options: Options, progress: Progress) -> None:
    """Add the latency of each row, predicted or measured whole, and the track's budget here."""
    candidates = [candidate for _, candidate in opened.candidates]
    track, space, num_runs = opened.track, opened.space, opened.experiment.search.table_runs
    protocol, stand_in = choose_protocol(track, options.backend, images=options.images, batch=options.batch)
    reference = reference_here(track, protocol, progress) if options.budget_ms is None else None
    budget = local_budget(track, reference, stand_in, budget_ms=options.budget_ms, batch=protocol.batch)
    progress.say(f"budget {budget.budget_ms:.2f} ms here: {budget.origin}")
    if stand_in:
        progress.say(stand_in, style="yellow")
    shape = space.shape
    table = LatencyTable(protocol)
    if table.missing_for(space):  # not filled yet: a few candidates need only their own parts
        progress.begin("measuring the blocks of these candidates, once for this machine")
        own = dict.fromkeys(part for candidate in candidates for part in parts_of(candidate, shape))
        table.ensure(own, num_runs=num_runs, progress=progress.counting("blocks"))
        progress.end()
    for row, candidate in zip(rows, candidates, strict=True):
        if not table.covers(candidate, shape):
            table.ensure(parts_of(candidate, shape), num_runs=num_runs)
        row["predicted_ms"] = round(table.predict(candidate, shape), 4)
        if options.measure:
            progress.begin(f"measuring {row['name']} whole")
            progress.update({})
            measurement = measure_network(candidate, protocol, shape)
            progress.end()
            row |= {"measured_ms": measurement.measured_ms, "spread_pct": round(measurement.spread_pct, 2)}
            row["latency"] = measurement.model_dump(mode="json")
            if measurement.warning:
                progress.say(f"{row['name']}: {measurement.warning}", style="yellow")
        counts_ms = row["predicted_ms"] if row["measured_ms"] is None else row["measured_ms"]
        row |= {"budget_ms": budget.budget_ms, "within_budget": counts_ms <= budget.budget_ms, "stand_in": stand_in}
