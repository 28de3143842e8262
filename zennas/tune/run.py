"""The comprehensive search from end to end: embeddings, trials, the best confirmed, what it leaves behind. Read `run`
first.
"""

import pathlib
from typing import Any

import numpy as np

from zennas.data.sources import open_source
from zennas.embed.embeddings import of_source
from zennas.embed.model import usable_device
from zennas.embed.named import open_named
from zennas.progress import Progress, silent
from zennas.records import Record
from zennas.run_folder import lock_folder, open_run, save_run
from zennas.tasks.table import task_of
from zennas.tune import trials
from zennas.tune.backbone import equal_macs
from zennas.tune.options import Options
from zennas.tune.outcome import summary_of, write_outcome
from zennas.tune.people import few_pairs, split
from zennas.tune.proposal import FACTORS, Proposal
from zennas.tune.request import Request, check
from zennas.tune.trial import Setting

LOG = "tune.log"


class Tuned(Record):
    """What `tune` returns: what was found, the same as run.json keeps, and where it lies."""

    summary: dict[str, Any]
    out: pathlib.Path

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
    return Tuned(summary=summary, out=request.shown_out)


def _search(request: Request, progress: Progress) -> dict[str, Any]:
    """The summary of a comprehensive search, as run.json keeps it."""
    lock = lock_folder(request.out)
    try:
        shapes = _shapes(request)
        progress.begin(f"opening {request.data}")
        source = open_source(request.data, progress=progress.counting("images"))
        progress.end()
        plan = request.tune.reward
        people = split(source, plan, seed=request.tune.seed, held_out=request.held_out, test=request.test)
        model = _model(request)
        state, _ = open_run(
            request.out,
            request.settings(source, people, model and model.fingerprint),
            start={"summary": None},
            resume=request.resume,
            fresh=request.fresh,
            seed=request.tune.seed,
        )
        progress.log_to(request.out / LOG)
        if state["summary"] is not None:
            progress.say(f"{request.shown_out}: this search is done; --fresh searches again")
            return state["summary"]
        embeddings = _embeddings(model, source, request, progress)
        setting = Setting(request, people, shapes, embeddings, request.num_threads)
        task_of(request.task).check_plan(
            setting.plan(Proposal(), request.tune.seed), request.name
        )  # a short run of the recipe is a recipe
        _announce(setting, source, progress)
        with trials.workers(
            request.num_workers, say=progress.say, threads=request.num_threads, address=request.address
        ):
            tried = trials.search(setting, place=progress.place, log=request.out / LOG)
            summary = summary_of(setting, tried)
            if summary["best"] is not None and request.tune.confirm_seeds:
                seeds = [request.tune.seed + 1 + number for number in range(request.tune.confirm_seeds)]
                rows = to_confirm(Proposal(**summary["best"]["knobs"]), request.tune)
                trials.confirm(setting, list(rows.values()), seeds, progress)
                summary = summary_of(setting, tried, confirmed=(rows, seeds))
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
            rows |= {name: alone for name in FACTORS if (alone := best.only(name)) not in (Proposal(), best)}
    return rows


def _shapes(request):
    """The candidates among which `shape` chooses. UserError where the given one cannot be searched around."""
    if request.tune.backbone is None:
        return (request.candidate,)
    return equal_macs(request.candidate, request.space, request.tune.backbone)


def _model(request):
    """The Model of --embeddings-from, or None."""
    if request.embeddings_from is None:
        return None
    return open_named(request.embeddings_from, device=usable_device(request.device), option="--embeddings-from").model


def _embeddings(model, source, request, progress):
    """The path of the embeddings of all images; None without a model."""
    if model is None:
        return None
    progress.begin(f"embedding {source.num_images:,} images by {request.embeddings_from}")
    path = of_source(model, source, dtype=np.float32, progress=progress.counting("images"))
    progress.end()
    return path


def _announce(setting, source, progress):
    request, plan, people = setting.request, setting.request.tune, setting.people
    trained_N = people.label_N[people.label_N >= 0]
    factors = [name for name in FACTORS if getattr(plan, name) is not None]
    shapes = f"; {len(setting.shapes)} shapes of equal multiply-accumulates" if plan.backbone is not None else ""
    asha = f"the worse of them stopped from epoch {plan.asha.grace_epochs} on"
    lines = {
        "track": f"{request.track.name}: {request.track.title}",
        "recipe": f"{request.candidate.text}, loss {request.plan.loss.name} {dict(request.plan.loss.knobs)}",
        "search": f"{', '.join(factors)}{shapes}",
        "train": f"{len(trained_N):,} images of {len(np.unique(trained_N)):,} identities of {request.data}",
        "reward": f"{_told(people.held_out)}: TPR at FPR {', '.join(f'{fpr:g}' for fpr in plan.reward.fprs)}, "
        f"weighted {', '.join(f'{weight:g}' for weight in plan.reward.weights)}",
        "test": "nobody" if people.test is None else f"{_told(people.test)}, when the search is over",
        "work": f"{plan.trials} trials of {plan.epochs} epochs, {asha}; {request.num_workers} at once, "
        f"{setting.num_threads} thread(s) each, seed {plan.seed}, out {request.shown_out}",
    }
    for name, text in lines.items():
        progress.say(f"{name:>8}  {text}")
    for note in few_pairs(people.held_out, plan.reward):
        progress.say(f"warning: {note}", style="yellow")


def _told(group):
    same, different = group.num_pairs
    return (
        f"{len(group.index_M):,} images of {group.num_identities:,} others, "
        f"{same:,} pairs of one person, {different:,} of two"
    )
