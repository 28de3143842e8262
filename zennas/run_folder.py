"""The folder of a run: one run at a time, the same settings when it is resumed, files that are there whole or not at
all.

run.json holds the settings, who made the run, and whatever else its room keeps there.
"""

import json
import os
import pathlib
import re

import filelock

from zennas.provenance import provenance
from zennas.records import UserError, shortened

DIFFERING = 8  # settings that a message names
FORMAT = 1  # of run.json; raised when an older run could not be read any more


def open_run(
    folder: pathlib.Path | str,
    settings: dict,
    *,
    start: dict,
    resume: bool = False,
    fresh: bool = False,
    seed: int | None = None,
    before: dict | None = None,
) -> tuple[dict, bool]:
    """(state of run.json, whether it was there): the run in the folder if it is of the same `settings`, else a new one
    that begins with the entries of `start`, which a run that lacks one of them begins anew.

    resume: it must be there. fresh: what is there is moved aside to FOLDER.old-N, never deleted.
    before: the state of this run as it is known elsewhere, from which a folder without one begins.
    UserError where the folder holds another run, something else, or cannot be written.
    """
    folder = pathlib.Path(folder)
    with explaining(folder):
        exists, anything = (folder / "run.json").is_file(), folder.exists()
    if fresh and anything:
        _move_aside(folder)
        exists = False
    if exists:
        state = _load_state(folder)
        if differing := _differences(state["settings"], settings):
            raise UserError(
                f"{folder}: holds a run with other settings ({_first_of(differing)}); "
                "choose another --out, or --fresh to move it aside and begin anew"
            )
        return start | state, True
    if before is not None:
        if differing := _differences(before["settings"], settings):
            raise UserError(
                f"the study of {folder.name} in the store is of a run with other settings ({_first_of(differing)}); "
                "choose another --out: its name is the study's"
            )
    elif resume:
        raise UserError(f"{folder}: holds no run to resume; leave --resume out to begin one")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --out takes a folder")
    # Of a process that was killed while it began.
    left_over = {".run.json.tmp"}
    if folder.is_dir() and {path.name for path in folder.iterdir()} - left_over:
        raise UserError(f"{folder}: is not empty and holds no run of zennas; choose another --out")
    state = {"format": FORMAT, "settings": settings, "made_by": provenance(seed=seed).model_dump(), **start} | (
        before or {}
    )
    with explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_run(folder, state)
    return state, False


def cache_folder(name: str) -> pathlib.Path:
    """The folder `name` of what this user keeps between runs: in $ZENNAS_CACHE, or in ~/.cache/zennas.

    UserError where neither can be: a container's user may have no home folder, or / for one.
    """
    if cache := os.environ.get("ZENNAS_CACHE"):
        return pathlib.Path(cache) / name
    folder = home(or_set="ZENNAS_CACHE") / ".cache" / "zennas"
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if nearest != folder and not os.access(nearest, os.W_OK):
        raise UserError(
            f"{folder}: cannot be made, for {nearest} cannot be written; set ZENNAS_CACHE to a folder that can, or HOME"
        )
    return folder / name


def home(*, or_set: str) -> pathlib.Path:
    """The user's home folder; UserError where there is none. or_set: the variable that does without one."""
    try:
        return pathlib.Path.home()
    except RuntimeError:  # no HOME, and no such user in the system's list
        raise UserError(f"this user has no home folder: set HOME, or {or_set}") from None


OF_A_RAY_JOB = (
    "runtime_resources",
    "working_dir_files",
)  # folders above the copy of the working folder that a Ray job gets


def lasting(folder: pathlib.Path | str, *, here: pathlib.Path | str | None = None) -> pathlib.Path:
    """A run's folder where it outlives the process: a Ray job runs in a copy of the working folder that Ray removes,
    and what is relative there is taken from the home of the job's user instead.

    >>> copy = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1"
    >>> lasting("runs/a", here=copy).is_relative_to(pathlib.Path.home())
    True
    >>> lasting("runs/a", here="/somewhere").as_posix()
    'runs/a'
    """
    folder, here = pathlib.Path(folder), pathlib.Path(here or pathlib.Path.cwd())
    copied = all(name in here.parts for name in OF_A_RAY_JOB)
    return home(or_set="an absolute --out") / folder if copied else folder


def lasting_url(url: str | None, *, here: pathlib.Path | str | None = None) -> str | None:
    """`lasting` for a file that is given as a URL: journal:PATH, sqlite:///PATH, or a plain path; others are as they
    were.

    >>> lasting_url("journal:study.log", here="/somewhere"), lasting_url("s3://bucket/table")
    ('journal:study.log', 's3://bucket/table')
    """
    if url is None:
        return None
    scheme, path = re.fullmatch(r"(journal:(?://)?|sqlite(?:\+\w+)?:///|)(.*)", url, re.DOTALL).groups()
    fixed = not path or path == ":memory:" or (not scheme and "://" in path)
    return url if fixed else scheme + lasting(path, here=here).as_posix()


def same_data(before: str, now: str) -> bool:
    """Whether two fingerprints are of the same data. One of a version before 0.2 lacks the part behind the dash, the
    content.

    >>> earlier = "0123456789abcdef"
    >>> same_data(earlier, f"{earlier}-00ff"), same_data(f"{earlier}-00fe", f"{earlier}-00ff")
    (True, False)
    """
    return before == now or (len(before) == 16 and now.startswith(f"{before}-"))


def kept_run(folder: pathlib.Path | str, *, what: str) -> dict:
    """The state of the run in a folder. UserError where there is none, or one that has no `what` (an entry of
    run.json).
    """
    folder = pathlib.Path(folder)
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder}: holds no run; give the command that makes one first")
    state = _load_state(folder)
    if what not in state:
        raise UserError(f"{folder}: holds a run of another command")
    return state


def save_run(folder: pathlib.Path | str, state: dict) -> None:
    """Write run.json."""
    write_atomically(pathlib.Path(folder) / "run.json", json.dumps(state, indent=1))


def lock_folder(
    folder: pathlib.Path | str, *, otherwise: str = "wait for it or choose another --out"
) -> filelock.BaseFileLock:
    """A lock on a run folder (or a file) that ends with this process, however it ends. UserError where another run
    holds it; `otherwise`: what can be done then."""
    folder = pathlib.Path(folder)
    whole = folder.absolute()  # '' and '.' have no name of their own
    with explaining(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(whole.with_name(f".{whole.name}.lock"))
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            if not os.path.exists(lock.lock_file):  # nobody holds what cannot even be made
                raise OSError(None, "no file can be made there") from None
            raise UserError(f"{folder}: another run is under way there; {otherwise}") from None
    return lock


def write_atomically(path: pathlib.Path | str, content: str | bytes) -> None:
    """Write text or bytes to a file that is there whole or not at all. What of a name is no text is escaped, as
    names.shown does it."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with explaining(path.parent):
        temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        os.replace(temporary, path)


class explaining:
    """Turns a full or unwritable disk into one clear message."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, OSError):
            raise UserError(
                f"{self.folder}: cannot be written: {error.strerror or error}; what was computed before is kept; "
                "make room or mend the rights, then give the same command again"
            ) from None


def _load_state(folder):
    try:
        state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UserError(
            f"{folder}/run.json: not valid JSON; choose another --out, or --fresh to move it aside"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}/run.json: cannot be read: {error.strerror}; choose another --out") from None
    if isinstance(state, dict) and state.get("format") != FORMAT:
        raise UserError(
            f"{folder}/run.json: format {state.get('format')}, this version reads {FORMAT}; choose another --out"
        )
    if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
        raise UserError(
            f"{folder}/run.json: holds no run of zennas: its settings are missing; choose another --out, or --fresh to "
            "move it aside"
        )
    return state


def _differences(old, new):
    """What differs, a line for each, by its path in nested mappings: loss.knobs.margin_rad: 0.2, now 0.3."""
    differing = []
    for key in sorted(set(old) | set(new)):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            differing += [f"{key}.{difference}" for difference in _differences(before, now)]
        elif before != now and not (isinstance(before, str) and isinstance(now, str) and same_data(before, now)):
            differing.append(f"{key}: {_short(before)}, now {_short(now)}")
    return differing


def _first_of(differing):
    more = len(differing) - DIFFERING
    return "; ".join(differing[:DIFFERING]) + (f"; and {more} more" if more > 0 else "")


def _short(value):
    return shortened(json.dumps(value), 60)


def _move_aside(folder):
    folder, number = folder.absolute(), 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with explaining(folder.parent):
        os.replace(folder, aside)
