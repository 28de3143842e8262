"""A cleaning from end to end: embeddings, rounds, a training between two of them, what it leaves behind.
Read `clean` first.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.clean import decisions
from zennas.clean.colour import colour_notice
from zennas.clean.outcome import LABELS, reason_counts, summary_of, write_outcome
from zennas.clean.report import look_page
from zennas.clean.request import Request
from zennas.clean.state import State
from zennas.clean.steps import Bench, clean_round
from zennas.clean.summary import Round, Summary
from zennas.data.content import digest_of_file
from zennas.data.labels import write_labels
from zennas.data.sources import AnySource, open_source
from zennas.embed.cells import threads
from zennas.embed.embeddings import Sidecar, of_source, sidecar_of
from zennas.embed.model import Model, usable_device
from zennas.embed.named import open_named
from zennas.names import shown
from zennas.pool import Pool
from zennas.progress import Progress, silent
from zennas.provenance import num_cores, provenance
from zennas.records import ProcessLostError, UserError, some, suggestion
from zennas.run_folder import kept_run, lock_folder, open_run, same_data, save_run, write_atomically
from zennas.tasks.face.crops import ALIGNED, DETECT, source_of_crops

LOG, STATE, PARTS = "clean.log", "state.npz", "parts"
WORTH_WORKERS = 200_000  # images from which on workers pay for the seconds in which they start


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What is the same for all rounds."""

    request: Request
    source: AnySource
    taken: decisions.TakenBack  # what the user took back
    progress: Progress

    @property
    def label_N(self) -> np.ndarray:
        """The identity that each image stands under in the data."""
        return np.asarray(self.source.label_N, np.int32)

    def folder(self, number: int) -> pathlib.Path:
        """The folder of a round."""
        return self.request.out / f"round-{number}"

    def state_after(self, number: int) -> State:
        """The State that a round left, without what was taken back."""
        return decisions.without(decisions.load_state(self.folder(number) / STATE), self.label_N, self.taken)


class Embedder(NamedTuple):
    """Where embeddings come from: a network, or a file."""

    name: str  # as the user gives it
    fingerprint: str
    model: Model | None = None
    path: pathlib.Path | None = None


def clean(
    request: Request,
    *,
    progress: Progress,
    train_next: Callable[[pathlib.Path, pathlib.Path], str] | None = None,
    taken_back: Sequence[str] = (),
) -> Summary:
    """The Summary of a cleaning. UserError before the first step for what cannot be used.

    train_next(labels, out) -> what --embeddings-from says of the network that was trained on these labels; for several
    rounds. taken_back: entries such as 'image:NAME' and 'identity:NAME'.
    """
    lock = lock_folder(request.out)
    try:
        progress.begin(f"opening {request.data}")
        source = open_source(request.data, progress=progress.counting("images"))
        progress.end()
        # Embeddings of the user's own say nothing of the images: what these are counts where a network looks at them.
        # Nor are crops of whole people looked at, which cameras took: no face is to be aligned there.
        looks = (request.embeddings_from is not None and source.camera_N is None) or request.faces == DETECT
        source = source_of_crops(source, request.faces if looks else ALIGNED, request.data)
        if taken_back:
            kept_run(request.out, what="rounds")
        embedder = _first_embedder(request, source)
        kept, goes_on = open_run(
            request.out,
            request.settings(source, embedder.fingerprint),
            start={"summary": None, "rounds": []},
            resume=request.resume,
            fresh=request.fresh,
        )
        rounds = [Round.parse(entry, f"{request.out}/run.json: rounds") for entry in kept["rounds"]]
        taken, lines = decisions.taken_back(request.out, taken_back, source)
        cleaning = Cleaning(request, source, taken, progress)
        if rounds:
            decisions.check_taken(decisions.load_state(cleaning.folder(len(rounds)) / STATE), taken, source)
        decisions.write_taken_back(request.out, lines)
        progress.log_to(request.out / LOG)
        if kept["summary"] is not None and len(rounds) >= request.rounds and not taken_back:
            progress.say(
                f"{request.out}: this cleaning is done; --fresh cleans again, --take-back changes what it decided"
            )
            return Summary.parse(kept["summary"], f"{request.out}/run.json: summary")
        _announce(cleaning, goes_on=bool(rounds))
        for number in range(len(rounds) + 1, request.rounds + 1):
            if number > 1:
                embedder = _network(train_next(*_training_of(cleaning, number - 1)), request)
            try:
                done = _round(cleaning, embedder, number)
            except UserError as error:
                # Nothing came of it, and the folder is free for what is asked next.
                if not goes_on and not rounds and not isinstance(error, ProcessLostError):
                    shutil.rmtree(request.out, ignore_errors=True)
                raise
            rounds = [*rounds, done]
            # No summary before all of it is written: a run that is killed there goes on there.
            save_run(request.out, kept | {"rounds": _plain(rounds), "summary": None})
            shutil.rmtree(cleaning.folder(number) / PARTS, ignore_errors=True)
        state = cleaning.state_after(len(rounds))
        if len(taken.image_M) or len(taken.number_C):
            identities = "identity" if len(taken.number_C) == 1 else "identities"
            progress.say(f"taken back: {len(taken.image_M)} image(s), {len(taken.number_C)} {identities}")
        summary = summary_of(request, source, state, rounds, taken)
        write_outcome(request, source, state, summary, progress)
        save_run(request.out, kept | {"rounds": _plain(rounds), "summary": summary.plain()})
        return summary
    finally:
        progress.end()  # who made it closes it
        lock.release()


def _plain(rounds):
    return [done.model_dump(mode="json") for done in rounds]


def _first_embedder(request, source):
    """The Embedder of the first round: the network that is named, or the file."""
    if request.embeddings_from is not None:
        return _network(request.embeddings_from, request)
    path = request.embeddings
    try:
        row_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = f": {error.strerror}" if getattr(error, "strerror", None) else ""
        raise UserError(f"--embeddings {path}: cannot be read as an .npy file{why}") from None
    if not isinstance(row_ND, np.ndarray):
        raise UserError(f"--embeddings {path}: holds several arrays (.npz); give one, as an .npy file")
    if row_ND.ndim != 2 or row_ND.dtype.kind != "f" or len(row_ND) != source.num_images:
        raise UserError(
            f"--embeddings {path}: holds {' x '.join(map(str, row_ND.shape))} of {row_ND.dtype}; allowed: one row of "
            f"floating point numbers for each of the {source.num_images} images of {request.data}, in its order"
        )
    stat = path.stat()
    key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return Embedder(str(path), f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}-{digest_of_file(path)}", path=path)


def _network(text, request):
    model = open_named(text, device=usable_device(request.device), option="--embeddings-from").model
    return Embedder(text, model.fingerprint, model=model)


def _training_of(cleaning, number):
    """(labels that the network after round `number` is trained on, the folder of that training)."""
    folder = cleaning.folder(number)
    if not (folder / "trained" / "run.json").is_file():  # a training that was begun goes on with what it began with
        write_labels(folder / LABELS, cleaning.source, cleaning.state_after(number).label_N)
    return folder / LABELS, folder / "trained"


def _round(cleaning, embedder, number):
    """The Round of this number, done; its State and labels lie in its folder."""
    request, source, progress = cleaning.request, cleaning.source, cleaning.progress
    folder = cleaning.folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    path, notices = _embeddings(cleaning, embedder, number)
    goes_on = request.start == "previous" and number > 1
    state = cleaning.state_after(number - 1) if goes_on else State.of(cleaning.label_N)
    device = "cuda" if usable_device(request.device) == "cuda" else None
    num_workers = wanted_workers(request.workers, source.num_images)
    with (
        threads(num_cores()),  # of this process; a worker has one
        Pool(num_workers, address=request.address, num_threads=1, progress=progress) as pool,
    ):
        state = clean_round(state, Bench(path, request.plan, pool, folder / PARTS, number=number, device=device))
    if not (state.label_N >= 0).any():
        raise UserError(
            f"{request.data}: nothing is left of {source.num_images} images; the thresholds "
            f"(tau_intra {request.plan.tau_intra}, min_images {request.plan.min_images}) "
            "are not for this network's cosines"
        )
    write_labels(folder / LABELS, source, state.label_N)
    decisions.save_state(folder / STATE, state)
    for notice in notices:
        progress.say(f"warning: {notice}", style="yellow")
    done = Round(
        number=number,
        start="previous" if goes_on else "raw",
        embeddings_from=embedder.name,
        kept=int((state.label_N >= 0).sum()),
        identities=len(np.unique(state.label_N[state.label_N >= 0])),
        notices=notices,
        counts=reason_counts(state),
    )
    progress.say(
        f"round {number}: {done.kept:,} of {source.num_images:,} images of {done.identities:,} identities are kept"
    )
    return done


def _embeddings(cleaning, embedder, number):
    """(the file of a round's embeddings, sentences about them)."""
    if embedder.model is None:
        return embedder.path, []
    source, progress = cleaning.source, cleaning.progress
    progress.begin(f"round {number}: embedding {source.num_images:,} images by {embedder.name}")
    path = of_source(embedder.model, source, progress=progress.counting("images"))
    progress.end()
    sidecar, notices = Sidecar.load(sidecar_of(path)), []
    if num := sidecar.num_corrupt + len(sidecar.unreadable):
        named = [*sidecar.corrupt, *map(source.where, sidecar.unreadable)]
        notices.append(f"{num} images cannot be read and are left out: {some(named, num)}")
    return path, notices + list(filter(None, [colour_notice(embedder.model, source)]))


def wanted_workers(num: int | None, num_images: int) -> int:
    """How many processes are worth their start: all cores where nobody says, and one for what takes seconds."""
    if num is not None:
        return num
    return num_cores() if num_images >= WORTH_WORKERS else 1


def _announce(cleaning, *, goes_on):
    request, source = cleaning.request, cleaning.source
    count_C = np.bincount(source.label_N, minlength=source.num_identities)
    alone = int((count_C == 1).sum())
    lines = {
        "data": f"{request.data}: {source.num_images:,} images of {int((count_C > 0).sum()):,} identities, "
        f"{alone:,} of one image, the largest of {int(count_C.max()):,}",
        "network": request.embeddings_from or f"none: embeddings of {request.embeddings}",
        "plan": ", ".join(f"{name} {value}" for name, value in request.plan),
        "work": f"{request.rounds} round(s), out {request.out}" + (", going on" if goes_on else ""),
    }
    for name, text in lines.items():
        cleaning.progress.say(f"{name:>8}  {text}")
    cleaning.progress.notices(source.notices)


def look_at(request: Request, name: str) -> pathlib.Path:
    """Write OUT/look-NAME.html of a finished cleaning; its path."""
    kept = kept_run(request.out, what="rounds")
    source, num_rounds = open_source(request.data), len(kept["rounds"])
    source = source_of_crops(source, DETECT if request.faces == DETECT else ALIGNED, request.data)
    if not same_data(kept["settings"]["data"], source.images.fingerprint):
        raise UserError(f"{request.out}: is a cleaning of other data than {request.data}")
    if not num_rounds:
        raise UserError(f"{request.out}: its first round is not done; give the command without --look to go on")
    names, name = decisions.names_of(source), shown(name)
    if name not in names:
        near = f"; {suggestion(name, names)}" if len(names) <= 5000 else ""  # the nearest of a million takes minutes
        raise UserError(f"--look {name}: {request.data} has no such identity{near}")
    cleaning = Cleaning(request, source, decisions.taken_back(request.out, (), source)[0], silent())
    state = cleaning.state_after(num_rounds)
    path = request.out / f"look-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.html"
    page = look_page(names.index(name), source.images, names, cleaning.label_N, state, provenance())
    write_atomically(path, page)
    return path
