"""Zips that are the same to the last byte whenever they are made, and the folder in which a submission lies."""

import hashlib
import io
import json
import pathlib
import re
import zipfile
from typing import Any

from zennas.records import UserError
from zennas.run_folder import explaining, write_atomically

RECORD = "submission.json"
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def zipped(files: dict[str, bytes]) -> bytes:
    """The bytes of a zip that holds {name: bytes}, in the order of names.

    Stored, not deflated: weights hardly shrink, and what a deflater writes depends on its version.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            member = zipfile.ZipInfo(name, FIRST_DAY)
            member.create_system, member.external_attr = 3, 0o100644 << 16  # a file of Unix, wherever it is made
            archive.writestr(member, content)
    return buffer.getvalue()


def read_again(path: pathlib.Path, files: dict[str, bytes]) -> None:
    """Nothing, where the zip at `path` holds these files and nothing else;
    RuntimeError where a disk or a bug changed them.
    """
    with zipfile.ZipFile(path) as archive:
        same = sorted(archive.namelist()) == sorted(files) and all(archive.read(name) == files[name] for name in files)
    if not same:
        raise RuntimeError(f"{path}: holds something else than what was written")


def check_name(name: str) -> None:
    """UserError for a --name that is no plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        raise UserError(f"--name {name!r}: letters, digits, '.', '_' and '-' are allowed, a letter or digit first")


def earlier_files(out: pathlib.Path) -> dict[str, str]:
    """{path relative to `out`: digest} of what an earlier submission wrote there; empty in a new or empty folder.

    UserError where something else lies there, or what was written has been changed since: it is not overwritten.
    """
    out = pathlib.Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out takes a folder")
    begun = _begun(out / RECORD)  # all that a process leaves that is killed while it writes its first record
    if not out.is_dir() or set(out.iterdir()) <= {begun}:
        return {}
    if not (out / RECORD).is_file():
        raise UserError(f"{out}: is not empty and holds no submission of zennas; choose another --out")
    try:
        files = json.loads((out / RECORD).read_text(encoding="utf-8"))["files"]
        if any(pathlib.Path(name).is_absolute() or ".." in pathlib.Path(name).parts for name in files):
            raise ValueError("a file elsewhere")  # somebody else's record must not have files of ours removed
        wrong = [name for name, digest in files.items() if not _unchanged(out / name, digest)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{out / RECORD}: not a record of zennas submit; choose another --out") from None
    if wrong:
        raise UserError(
            f"{out / wrong[0]}: was changed after zennas submit wrote it, and is not overwritten; choose another --out "
            "(a system that you edited is checked with --system)"
        )
    return files


def write_submission(
    out: pathlib.Path, record: dict[str, Any], *, name: str, files: dict[str, bytes], as_folder: bool
) -> pathlib.Path | None:
    """Write OUT/NAME.zip, and OUT/NAME/ where as_folder, and submission.json; the path of the zip, None without files.

    files: {name in the zip: bytes}. An earlier submission's files are removed first. record: a plain dict; where the
    files are and what they are is added to it.

    Killed anywhere, the folder is one that the same command takes again: the record names each file before it is there
    and until it is gone. Written last, it would leave files of which nobody could say whose they are.
    """
    out = pathlib.Path(out)
    earlier = earlier_files(out)
    wanted = {}
    if files:
        wanted = {f"{name}/{path}": content for path, content in files.items()} if as_folder else {}
        wanted[f"{name}.zip"] = zipped(files)
    strangers = [path for path in wanted if path not in earlier and (out / path).exists()]
    if strangers:
        raise UserError(
            f"{out / strangers[0]}: is no file of zennas submit, and is not overwritten; choose another --name"
        )
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in wanted.items()}
    where = {"zip": f"{name}.zip" if files else None, "folder": name if files and as_folder else None, "files": digests}
    with explaining(out):
        out.mkdir(parents=True, exist_ok=True)
        for path in earlier:
            for leftover in (out / path, _begun(out / path)):
                leftover.unlink(missing_ok=True)
            _remove_empty_parents(out, path)
        write_atomically(out / RECORD, json.dumps(record | where, indent=2) + "\n")
        for path, content in wanted.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out / path, content)
    if files:
        read_again(out / f"{name}.zip", files)
    return out / f"{name}.zip" if files else None


def _begun(path):
    """Where write_atomically begins a file."""
    return path.with_name(f".{path.name}.tmp")


def _unchanged(path, digest):
    """Whether a file is as it was written; one that is gone is nothing to lose."""
    return not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _remove_empty_parents(out, path):
    for parent in (out / path).parents:
        if parent == out or (parent.is_dir() and any(parent.iterdir())):
            return
        if parent.is_dir():  # who was killed may have come to make the upper ones only
            parent.rmdir()
