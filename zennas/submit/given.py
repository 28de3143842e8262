"""What the user gave: the one ONNX file that a challenge's checker would take from it,
and the images to run a system on.
"""

import collections
import functools
import io
import json
import pathlib
import re
import shlex
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

from zennas.checker import outside_files, parse
from zennas.data.listing import IMAGE_SUFFIXES, is_users_image
from zennas.records import UserError, first_line

MAX_UNPACKED = 4 * 2**30  # bytes, of all members together; the largest model that any track takes has 1 GiB
# Weights shrink by a tenth, an untrained network of zeros by a thousand:
# only what would fill memory is judged by its ratio.
MAX_RATIO, MIN_SUSPECT = 200, 256 * 2**20
ACCEPTED = "an ONNX file, a folder or a zip with one at its top, or a folder that zennas train wrote"
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".pt2")


class Given(NamedTuple):
    """One ONNX file."""

    onnx_bytes: bytes
    where: str  # for people
    others: tuple[str, ...]  # what lay beside it and stays behind


def read_model(path: pathlib.Path | str) -> Given:
    """The Given of --model: the file itself, or the one that the checker takes from a folder or a zip:
    the last by name.

    Nothing is unpacked to disk. UserError where no ONNX file lies there, or a zip is not what it should be.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix in CHECKPOINTS:
        raise UserError(
            f"--model {path}: a checkpoint, which no challenge takes; give the model.onnx beside it, or "
            f"make one: python -m zennas.export --model {shlex.quote(str(path))}"
        )
    content = _read(path)
    if zipfile.is_zipfile(io.BytesIO(content)) and path.suffix != ".onnx":
        return _from_zip(path, content)
    return Given(content, str(path), ())


def read_detector(path: pathlib.Path | str) -> bytes:
    """The bytes of --detector; UserError where they cannot be read, are no network,
    or lack weights that lie outside the file.
    """
    content = _read(pathlib.Path(path), option="--detector")
    try:
        outside = outside_files(parse(content))
    except UserError as error:
        raise UserError(f"--detector {path}: {error}") from None
    if outside:
        raise UserError(
            f"--detector {path}: keeps weights in {', '.join(outside)}, which the zip would lack; "
            "save it with all weights inside"
        )
    return content


def _read(path, option="--model"):
    try:
        return path.read_bytes()
    except OSError as error:
        accepted = ACCEPTED if option == "--model" else "a YuNet ONNX file"
        raise UserError(f"{option} {path}: cannot be read: {error.strerror}; accepted: {accepted}") from None


def _from_folder(path):
    files = sorted(file.name for file in path.iterdir() if file.is_file())
    training = _training_in(path)
    if training and (not training["finished_with"] or "model.onnx" not in files):
        raise UserError(f"--model {path}: a training that has not come to its end; give its command again to go on")
    if path.name.startswith("step-") and any(name.endswith(CHECKPOINTS) for name in files):
        raise UserError(f"--model {path}: a checkpoint, which no challenge takes; give the folder of the training")
    name = "model.onnx" if training else _last_onnx(files, f"--model {path}")
    beside = () if training else tuple(file for file in files if file != name)
    return Given(_read(path / name), str(path / name), beside)


def _training_in(path):
    """What run.json says where zennas train wrote it, else None."""
    try:
        state = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and "finished_with" in state else None


def _from_zip(path, content):
    where = f"--model {path}"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            for member in members:
                _refuse_hostile(member, where)
            _refuse_bomb(members, where)
            names = [member.filename for member in members if not member.is_dir()]
            counts = collections.Counter(names)
            twice = next((name for name in names if counts[name] > 1), None)
            if twice:
                raise UserError(f"{where}: member '{twice}' is there twice, and unzip may take either")
            name = _last_onnx([name for name in names if "/" not in name], where, all_names=names)
            onnx_bytes = archive.read(name)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - of a damaged member each decompressor raises errors of its own
        raise UserError(f"{where}: a damaged zip, or one that nobody can read: {first_line(error)}") from None
    return Given(onnx_bytes, f"{path}, member {name}", tuple(member for member in names if member != name))


def _refuse_hostile(member, where):
    """UserError for a member that could be written elsewhere, be a link, or cannot be read."""
    name = member.orig_filename  # as it stands in the zip: ZipInfo.filename ends at a zero byte
    mode = member.external_attr >> 16
    reasons = {
        "an absolute path": name.startswith(("/", "\\")),
        "a drive letter": re.match(r"[A-Za-z]:", name),
        "a path that leaves the folder": ".." in re.split(r"[/\\]", name),
        "a name that systems read differently": "\\" in name or any(ord(letter) < 32 for letter in name),
        "a link": stat.S_ISLNK(mode),
        "neither a file nor a folder": stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK),
        "encrypted": member.flag_bits & 1,
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise UserError(f"{where}: member {name!r} is {reason}; a zip with model.onnx alone at its root is allowed")


def _refuse_bomb(members, where):
    total = sum(member.file_size for member in members)
    if total > MAX_UNPACKED:
        largest = max(members, key=lambda member: member.file_size)
        raise UserError(
            f"{where}: {total / 2**30:.1f} GiB unpacked, most of it member '{largest.filename}'; "
            f"{MAX_UNPACKED / 2**30:g} GiB are allowed"
        )
    for member in members:
        ratio = member.file_size / max(1, member.compress_size)
        if member.file_size > MIN_SUSPECT and ratio > MAX_RATIO:
            raise UserError(
                f"{where}: member '{member.filename}' unpacks to {ratio:.0f} times its size; "
                f"{MAX_RATIO} times are allowed"
            )


def _last_onnx(names, where, *, all_names=()):
    """The last *.onnx by name, as the checker takes it."""
    networks = sorted(name for name in names if name.endswith(".onnx"))
    if not networks:
        deeper = next((name for name in all_names if name.endswith(".onnx")), None)
        raise UserError(
            f"{where}: holds no *.onnx at its top, where the checker looks"
            + (f"; '{deeper}' lies deeper" if deeper else f"; accepted: {ACCEPTED}")
        )
    return networks[-1]


# --- images


def find_images(sources: Iterable[pathlib.Path | str]) -> list[tuple[str, Callable[[], bytes]]]:
    """[(name for people, function that reads it)] of image files, folders (searched to the bottom) and .tar files;
    UserError where there is none."""
    images = [image for source in sources for image in _images_of(pathlib.Path(source))]
    if not images:
        raise UserError(
            f"--images {' '.join(map(str, sources))}: holds no image; accepted are files, folders and .tar files of "
            + ", ".join(IMAGE_SUFFIXES)
        )
    return images


def copy_images(images: list[tuple[str, Callable[[], bytes]]], folder: pathlib.Path | str, *, most: int) -> list[str]:
    """Copy up to `most` of the images that were found, evenly spread, to folder/0.png, 1.png, ...; their names.

    They are copied as they are: who reads them goes by their content, and the organisers' sample calls them so.
    """
    chosen = [images[number * len(images) // most] for number in range(most)] if len(images) > most else images
    for number, (name, read) in enumerate(chosen):
        try:
            content = read()
        except (OSError, tarfile.TarError) as error:
            raise UserError(f"--images {name}: cannot be read: {first_line(error)}") from None
        (pathlib.Path(folder) / f"{number}.png").write_bytes(content)
    return [name for name, _ in chosen]


def _images_of(path):
    """[(name, function that reads it)]"""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if is_users_image(file.relative_to(path)) and file.is_file())
        return [(str(file), file.read_bytes) for file in files]
    if not path.is_file():
        raise UserError(f"--images {path}: no such file or folder")
    if path.suffix != ".tar":
        return [(str(path), path.read_bytes)]
    try:
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.isreg() and is_users_image(pathlib.PurePath(member.name))]
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"--images {path}: not a tar that can be read: {first_line(error)}") from None
    return [(f"{path}, member {member.name}", functools.partial(_read_member, path, member)) for member in members]


def _read_member(path, member):
    with tarfile.open(path) as tar:
        return tar.extractfile(member).read()
