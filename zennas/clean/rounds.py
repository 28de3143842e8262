"""A cleaning from end to end: embeddings, rounds, a training between two of them, what it leaves behind. Read
`clean` first.
"""

import hashlib
import re
import shutil

import numpy as np

from zennas.clean import decisions
from zennas.clean.colour import colour_notice
from zennas.clean.index import use_threads
from zennas.clean.outcome import LABELS, summary_of, write_outcome
from zennas.clean.report import look_page
from zennas.clean.state import State
from zennas.clean.steps import Bench, clean_round
from zennas.data.labels import write_labels
from zennas.data.sources import open_source
from zennas.embed.embeddings import Sidecar, of_source, sidecar_of
from zennas.embed.model import usable_device
from zennas.embed.named import open_named
from zennas.pool import Pool
from zennas.provenance import num_cores, provenance
from zennas.records import UserError, some, suggestion
from zennas.run_folder import kept_run, lock_folder, open_run, save_run, write_atomically

LOG, STATE, PARTS = "clean.log", "state.npz", "parts"
WORTH_WORKERS = 200_000  # images from which on workers pay for the seconds in which they start


def clean(options, *, progress, train_next=None, taken_back=()):
    """The summary of a cleaning (a plain dict, as run.json keeps it). UserError before the first step for what cannot
    be used.

    train_next(labels, out) -> what --embeddings-from says of the network that was trained on these labels; for several
    rounds. taken_back: entries such as 'image:NAME' and 'identity:NAME'.
    """
    lock = lock_folder(options.out)
    try:
        progress.begin(f"opening {options.data}")
        source = open_source(options.data, progress=progress.counting("images"))
        progress.end()
        if taken_back:
            kept_run(options.out, what="rounds")
        asked = _first(options, source)
        state_of_run, there = open_run(
            options.out,
            options.settings(source, asked.fingerprint),
            start={"summary": None, "rounds": []},
            resume=options.resume,
            fresh=options.fresh,
        )
        rounds = state_of_run["rounds"]
        taken, lines = decisions.taken_back(options.out, taken_back, source)
        if rounds:
            decisions.check_taken(decisions.load_state(options.out / _folder(len(rounds)) / STATE), taken, source)
        decisions.write_taken_back(options.out, lines)
        progress.log_to(options.out / LOG)
        if state_of_run["summary"] is not None and len(rounds) >= options.rounds and not taken_back:
            progress.say(
                f"{options.out}: this cleaning is done; --fresh cleans again, --take-back changes what it decided"
            )
            return state_of_run["summary"]
        _announce(options, source, progress, there=bool(rounds))
        for number in range(len(rounds) + 1, options.rounds + 1):
            if number > 1:
                asked = _named(train_next(*_training_of(options, source, taken, number - 1)), options)
            try:
                entry = _round(options, source, asked, number, taken, progress)
            except UserError:
                if not there and not rounds:  # nothing came of it, and the folder is free for what is asked next
                    shutil.rmtree(options.out, ignore_errors=True)
                raise
            rounds = [*rounds, entry]
            # No summary before all of it is written: a run that is killed there goes on there.
            save_run(options.out, state_of_run | {"rounds": rounds, "summary": None})
            shutil.rmtree(options.out / _folder(number) / PARTS, ignore_errors=True)
        final = _state_after(options, source, taken, len(rounds))
        if len(taken.image_M) or len(taken.number_C):
            numbers = len(taken.image_M), len(taken.number_C)
            progress.say(
                f"taken back: {numbers[0]} image(s), {numbers[1]} {'identity' if numbers[1] == 1 else 'identities'}"
            )
        summary = summary_of(options, source, final, rounds, taken)
        write_outcome(options, source, final, summary, progress)
        save_run(options.out, state_of_run | {"rounds": rounds, "summary": summary})
        return summary
    finally:
        progress.close()
        lock.release()


class _Asked:
    """Where embeddings come from: a network, or a file."""

    def __init__(self, said, fingerprint, *, model=None, path=None):
        self.said, self.fingerprint, self.model, self.path = said, fingerprint, model, path


def _first(options, source):
    if options.embeddings_from is not None:
        return _named(options.embeddings_from, options)
    path = options.embeddings
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
            f"floating "
            f"point numbers for each of the {source.num_images} images of {options.data}, in its order"
        )
    stat = path.stat()
    key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return _Asked(str(path), hashlib.sha256(key.encode()).hexdigest()[:16], path=path)


def _named(text, options):
    model = open_named(text, device=usable_device(options.device), option="--embeddings-from").model
    return _Asked(text, model.fingerprint, model=model)


def _folder(number):
    return f"round-{number}"


def _state_after(options, source, taken, number):
    """The State that round `number` left, without what was taken back."""
    state = decisions.load_state(options.out / _folder(number) / STATE)
    return decisions.without(state, np.asarray(source.label_N, np.int32), taken)


def _training_of(options, source, taken, number):
    """(labels that the network after round `number` is trained on, the folder of that training)."""
    folder = options.out / _folder(number)
    if not (folder / "trained" / "run.json").is_file():  # a training that was begun goes on with what it began with
        write_labels(folder / LABELS, source, _state_after(options, source, taken, number).label_N)
    return folder / LABELS, folder / "trained"


def _round(options, source, asked, number, taken, progress):
    """What run.json keeps of a round; its State and labels lie in its folder."""
    folder = options.out / _folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    path, notices = asked.path, []
    if asked.model is not None:
        progress.begin(f"round {number}: embedding {source.num_images:,} images by {asked.said}")
        path = of_source(asked.model, source, progress=progress.counting("images"))
        progress.end()
        corrupt = Sidecar.load(sidecar_of(path))
        if num := corrupt.num_corrupt + len(corrupt.unreadable):
            named = [*corrupt.corrupt, *map(source.where, corrupt.unreadable)]
            notices.append(f"{num} images cannot be read and are left out: {some(named, num)}")
        notices += filter(None, [colour_notice(asked.model, source)])
    label_N = np.asarray(source.label_N, np.int32)
    goes_on = options.start == "previous" and number > 1
    state = _state_after(options, source, taken, number - 1) if goes_on else State.of(label_N)
    device = "cuda" if usable_device(options.device) == "cuda" else None
    use_threads(num_cores())  # of this process; a worker has one
    num_workers = wanted_workers(options.workers, source.num_images)
    with Pool(num_workers, address=options.address, num_threads=1, progress=progress) as pool:
        state = clean_round(state, Bench(path, options.plan, pool, folder / PARTS, number=number, device=device))
    if not (state.label_N >= 0).any():
        raise UserError(
            f"{options.data}: nothing is left of {source.num_images} images; the thresholds "
            f"(tau_intra {options.plan.tau_intra}, min_images {options.plan.min_images}) are not for this network's "
            f"cosines"
        )
    write_labels(folder / LABELS, source, state.label_N)
    decisions.save_state(folder / STATE, state)
    for notice in notices:
        progress.say(f"warning: {notice}", style="yellow")
    kept = int((state.label_N >= 0).sum())
    identities = len(np.unique(state.label_N[state.label_N >= 0]))
    progress.say(f"round {number}: {kept:,} of {source.num_images:,} images of {identities:,} identities are kept")
    return {
        "number": number,
        "start": "previous" if goes_on else "raw",
        "embeddings_from": asked.said,
        "kept": kept,
        "identities": identities,
        "notices": notices,
        "counts": {name: int((state.reason_N == place).sum()) for place, name in enumerate(decisions.REASONS) if place},
    }


def wanted_workers(num: int | None, num_images: int) -> int:
    """How many processes are worth their start: all cores where nobody says, and one for what takes seconds."""
    if num is not None:
        return num
    return num_cores() if num_images >= WORTH_WORKERS else 1


def _announce(options, source, progress, *, there):
    count_C = np.bincount(source.label_N, minlength=source.num_identities)
    alone = int((count_C == 1).sum())
    plan = options.plan
    lines = {
        "data": f"{options.data}: {source.num_images:,} images of {int((count_C > 0).sum()):,} identities, "
        f"{alone:,} of one image, the largest of {int(count_C.max()):,}",
        "network": options.embeddings_from or f"none: embeddings of {options.embeddings}",
        "plan": ", ".join(f"{name} {value}" for name, value in plan.model_dump().items()),
        "work": f"{options.rounds} round(s), out {options.out}" + (", going on" if there else ""),
    }
    for name, text in lines.items():
        progress.say(f"{name:>8}  {text}")


def look_at(options, name):
    """Write OUT/look-NAME.html of a finished cleaning; its path."""
    run = kept_run(options.out, what="rounds")
    source, rounds = open_source(options.data), run["rounds"]
    if run["settings"]["data"] != source.fingerprint:
        raise UserError(f"{options.out}: is a cleaning of other data than {options.data}")
    if not rounds:
        raise UserError(f"{options.out}: its first round is not done; give the command without --look to go on")
    names = decisions.names_of(source)
    if name not in names:
        near = suggestion(name, names) if len(names) <= 5000 else ""
        raise UserError(f"--look {name}: {options.data} has no such identity" + (f"; {near[:300]}" if near else ""))
    label_N = np.asarray(source.label_N, np.int32)
    state = _state_after(options, source, decisions.taken_back(options.out, (), source)[0], len(rounds))
    path = options.out / f"look-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.html"
    write_atomically(path, look_page(names.index(name), source.images, names, label_N, state, provenance()))
    return path
