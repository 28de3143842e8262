"""The comprehensive search from end to end: data, trials, the best confirmed, what it leaves behind. Read `run`
first.
"""

import pathlib
from typing import Any

from zennas.progress import Progress, silent
from zennas.records import Record
from zennas.run_folder import lock_folder, open_run, save_run
from zennas.tasks.table import FIRST, task_of, tuning_of
from zennas.trials.engine import workers
from zennas.tune import trials
from zennas.tune.backbone import equal_macs
from zennas.tune.options import Options
from zennas.tune.outcome import summary_of, write_outcome
from zennas.tune.proposal import Proposal, factors_of
from zennas.tune.request import Request, check
from zennas.tune.trial import Setting

LOG = "tune.log"


class Tuned(Record):
    """What `tune` returns: what was found, the same as run.json keeps, and where it lies."""

    summary: dict[str, Any]
    out: pathlib.Path
    task: str = FIRST  # whose words the summary is told in

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial that was run to its end; None where none was."""
        return self.summary["best"]

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return self.summary


def run(options: Options, *, progress: Progress | None = None) -> Tuned:
    """Search the recipe. UserError before the first trial for what cannot be used."""
    progress = progress or silent()
    request = check(options)
    try:
        summary = _search(request, progress)
    except KeyboardInterrupt:
        progress.end()
        progress.say(f"stopped; finished trials are kept in {request.shown_out}: give the same command again to go on")
        raise
    return Tuned(summary=summary, out=request.shown_out, task=request.task)


def _search(request: Request, progress: Progress) -> dict[str, Any]:
    """The summary of a comprehensive search, as run.json keeps it."""
    tuning = tuning_of(request.task)
    lock = lock_folder(request.out)
    try:
        shapes = _shapes(request)
        progress.begin(f"opening {request.data}")
        source = tuning.open_source(request, progress)
        progress.end()
        groups = tuning.split(request, source)
        model = tuning.open_model(request)
        state, _ = open_run(
            request.out,
            request.settings(tuning.settings(source, groups, model)),
            start={"summary": None},
            resume=request.resume,
            fresh=request.fresh,
            seed=request.tune.seed,
        )
        progress.log_to(request.out / LOG)
        if state["summary"] is not None:
            progress.say(f"{request.shown_out}: this search is done; --fresh searches again")
            return state["summary"]
        prepared = tuning.prepare(request, source, model, progress)
        setting = Setting(request, groups, shapes, prepared)
        task_of(request.task).check_plan(
            setting.plan(Proposal(), request.tune.seed), request.name
        )  # a short run of the recipe is a recipe
        _announce(setting, source, progress)
        with workers(request.num_workers, say=progress.say, threads=request.num_threads, address=request.address):
            tried = trials.search(setting, place=progress.place, log=request.out / LOG)
            summary = summary_of(setting, source, tried)
            if summary["best"] is not None and request.tune.confirm_seeds:
                seeds = [request.tune.seed + 1 + number for number in range(request.tune.confirm_seeds)]
                rows = to_confirm(setting.proposal(summary["best"]["knobs"]), request.tune)
                trials.confirm(setting, list(rows.values()), seeds, progress)
                summary = summary_of(setting, source, tried, confirmed=(rows, seeds))
        write_outcome(setting, source, tried, summary)
        save_run(request.out, state | {"summary": summary})
        return summary
    finally:
        progress.close()
        lock.release()


def to_confirm(best: Proposal, plan: Any) -> dict[str, Proposal]:
    """{what it is: Proposal} of all that is trained with other seeds: the recipe, the best, and each of its factors
    alone.
    """
    rows = {"recipe": Proposal()}
    if best != Proposal():
        rows["best"] = best
        if plan.single_factors:
            alone = {name: best.only(knobs) for name, knobs in factors_of(plan).items()}
            rows |= {name: proposal for name, proposal in alone.items() if proposal not in (Proposal(), best)}
    return rows


def _shapes(request):
    """The candidates among which `shape` chooses. UserError where the given one cannot be searched around."""
    if request.tune.backbone is None:
        return (request.candidate,)
    return equal_macs(request.candidate, request.space, request.tune.backbone)


def _announce(setting, source, progress):
    request, plan, tuning = setting.request, setting.request.tune, setting.tuning
    factors = [name for name in factors_of(plan) if getattr(plan, name) is not None]
    shapes = f"; {len(setting.shapes)} shapes of equal multiply-accumulates" if plan.backbone is not None else ""
    asha = f"the worse of them stopped from epoch {plan.asha.grace_epochs} on"
    lines = {
        "track": f"{request.track.name}: {request.track.title}",
        "recipe": f"{request.candidate.text}, {tuning.recipe(request.plan)}",
        "search": f"{', '.join(factors)}{shapes}",
        **tuning.announced(request, setting.groups),
        "work": f"{plan.trials} trials of {plan.epochs} epochs, {asha}; {request.num_workers} at once, "
        f"{request.num_threads} thread(s) each, seed {plan.seed}, out {request.shown_out}",
    }
    for name, text in lines.items():
        progress.say(f"{name:>8}  {text}")
    progress.notices(source.notices)
    for note in tuning.page.notes(tuning.described(plan, setting.groups)):
        progress.say(f"warning: {note}", style="yellow")
