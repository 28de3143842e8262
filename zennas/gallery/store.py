"""A gallery on disk: what is known of each picture in SQLite, its vector in a file beside, both whole after any kill.

    gallery.json     Settings: what it holds, and the network that it belongs to
    entries.sqlite   a row for each picture: name, identity, source, digest; how many vectors count; which were deleted
    vectors.f32      unit vectors, float32, one after another: the journal that the index is made of
    cells-N.faiss    the index of a large gallery; made again at any time

A vector is written, and on the disk, before the transaction that lets it count: what a kill leaves behind the last one
that counts is written over. A number of a vector is never given twice, so that who reads meanwhile is not misled.

B pictures that are added together, D embedding size, N vectors
"""

import contextlib
import json
import os
import pathlib
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import filelock
import numpy as np

from zennas.names import shown
from zennas.records import Record, UserError, first_line, suggestion
from zennas.run_folder import explaining, lock_folder, write_atomically

SETTINGS, ENTRIES, VECTORS = "gallery.json", "entries.sqlite", "vectors.f32"
FORMAT: Literal[1] = 1  # of the folder; raised when an older gallery could not be read any more
FULL = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC")  # a disk without room, or a quota
WAIT_S = 30.0  # for another process's transaction
BRING_BACK = "bring back a copy of this folder, or enrol anew into another"
IMAGE, IDENTITY = "image", "identity"
KINDS = (IMAGE, IDENTITY)  # of what can be deleted and looked at
TABLES = """
BEGIN;
CREATE TABLE IF NOT EXISTS sources (id INTEGER PRIMARY KEY, path TEXT NOT NULL, detected INTEGER NOT NULL,
    UNIQUE (path, detected));
CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, source INTEGER NOT NULL, name TEXT NOT NULL,
    identity TEXT NOT NULL, digest BLOB NOT NULL, camera TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_name ON entries (name);
CREATE INDEX IF NOT EXISTS by_identity ON entries (identity);
CREATE INDEX IF NOT EXISTS by_digest ON entries (digest);
CREATE INDEX IF NOT EXISTS by_camera ON entries (camera);
CREATE TABLE IF NOT EXISTS deleted (id INTEGER PRIMARY KEY, wiped INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT NOT NULL);
COMMIT;
"""


class Settings(Record):
    """gallery.json."""

    format: Literal[1] = FORMAT
    holds: Literal["faces", "people"]
    network: str  # its name
    model: str  # how it was named, and where it lay
    fingerprint: str
    embedding_size: int
    input: tuple[int, int]  # height and width of its images
    flip: bool
    made_by: dict[str, Any]


class Cells(Record):
    """What is known of the index of a gallery."""

    number: int  # of its file
    mark: str  # its last bytes (hex), drawn when it was written: no other file, older or another gallery's, has them
    covered: int  # vectors that it was made of, the first ones; those behind are compared one by one
    learned_from: int  # vectors there were when its cells were learned
    cells: int
    probes: int  # cells that a search looks into
    recall: float  # share of the nearest AT, by exact search, that a search finds
    at: int
    asked: int  # pictures by which that was measured


class Entry(NamedTuple):
    """A picture of a gallery."""

    number: int  # of its vector
    name: str  # below its source, as names.shown has it
    identity: str
    source: str  # where its pictures lie
    detected: bool  # whether it is a photograph in which a face was found
    digest: bytes  # of the bytes of the picture
    camera: str = ""  # that took it; "" where none is known


class New(NamedTuple):
    """A picture that is to be added."""

    name: str
    identity: str
    digest: bytes  # of its bytes
    camera: str = ""  # "" where none is known


class Gallery:
    """A gallery as it is at this moment, for who reads it: what is written meanwhile is not seen."""

    def __init__(self, folder: pathlib.Path | str, settings: Settings, database: sqlite3.Connection | None):
        self.folder, self.settings = pathlib.Path(folder), settings
        self._database: Any = database  # None where nothing was ever enrolled
        with _understood(self.folder):
            if database is not None:
                database.execute("BEGIN")  # what is read from here on is of one moment
                if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
                    database.close()  # of a process that was killed while it began
                    self._database = None
            self.num_vectors = int(self._state("num_vectors", 0))
            _check_vectors(self.folder, self.num_vectors, settings.embedding_size)
            cells = self._state("cells", None)
            self.cells = Cells.parse(cells, self.folder / ENTRIES) if cells else None
            ids = [number for (number,) in self._rows("SELECT id FROM deleted ORDER BY id")]
            self.deleted_M = np.array(ids, np.int64)
        self.num_images = self.num_vectors - len(self.deleted_M)

    @classmethod
    def open(cls, folder: pathlib.Path | str) -> Self:
        """The Gallery in a folder. UserError where there is none, or it is damaged."""
        folder = pathlib.Path(folder)
        settings = _settings_of(folder)
        path = folder / ENTRIES
        if not path.is_file():
            if (folder / VECTORS).exists() and (folder / VECTORS).stat().st_size:
                raise UserError(f"{path}: is missing, and without it nobody knows whose the vectors are; {BRING_BACK}")
            return cls(folder, settings, None)
        # Where nothing can be written SQLite reads a file that nobody writes to only if it is told so.
        is_still = not os.access(folder, os.W_OK) and not path.with_name(f"{ENTRIES}-wal").exists()
        place = urllib.parse.quote(os.fsencode(path.absolute()))
        with _understood(folder):
            uri = f"file:{place}?mode=ro{'&immutable=1' if is_still else ''}"
            database = sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None)
        return cls(folder, settings, database)

    def close(self) -> None:
        """Close the files."""
        if self._database is not None:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def num_identities(self) -> int:
        """How many identities have a picture."""
        return next(iter(self._rows("SELECT COUNT(DISTINCT identity) FROM entries")), (0,))[0]

    @property
    def sources(self) -> list[str]:
        """Where pictures were enrolled from."""
        return [path for (path,) in self._rows("SELECT DISTINCT path FROM sources ORDER BY id")]

    @property
    def cameras(self) -> list[str]:
        """The cameras that are known to have taken a picture."""
        return [name for (name,) in self._rows("SELECT DISTINCT camera FROM entries WHERE camera != '' ORDER BY 1")]

    def has_newer_index(self) -> bool:
        """Whether a writer has made another index meanwhile, and removed the file of this one."""
        with Gallery.open(self.folder) as now:
            return now.cells != self.cells

    def taken_by(self, cameras: Iterable[str]) -> np.ndarray:
        """Numbers of the vectors of pictures that these cameras took, in order."""
        ids = [
            number
            for camera in set(cameras)
            for (number,) in self._rows("SELECT id FROM entries WHERE camera = ?", (camera,))
        ]
        return np.sort(np.array(ids, np.int64))

    def vector_ND(self) -> np.ndarray:
        """All vectors, memory-mapped; rows of deleted ones are zeros. UserError where some are missing."""
        return _mapped(self.folder, self.num_vectors, self.settings.embedding_size)

    def entry(self, number: int) -> Entry | None:
        """The Entry of a vector; None of a deleted one."""
        found = self._entries("entries.id = ?", (int(number),))
        return found[0] if found else None

    def entries(self) -> Iterator[Entry]:
        """All of them, in the order in which they were enrolled."""
        return map(_entry, self._rows(SELECT + " ORDER BY entries.id"))

    def named(self, text: str, *, option: str) -> list[Entry]:
        """The entries that image:NAME or identity:NAME says. An image may be named with its source before it, and must
        be where its name stands in several. UserError where there is none.
        """
        kind, colon, name = text.partition(":")
        if not colon or kind not in KINDS or not name:
            raise UserError(f"{option} {text!r}: given no kind, allowed: image:NAME or identity:NAME")
        found = self._entries(f"{'name' if kind == IMAGE else 'identity'} = ?", (shown(name),))
        if kind == IMAGE and not found:
            found = self._entries("path || '/' || name = ?", (shown(name),))
        if not found:
            column = "name" if kind == IMAGE else "identity"
            near = [value for (value,) in self._rows(f"SELECT DISTINCT {column} FROM entries LIMIT 1000")]
            raise UserError(f"{option} {text}: is not in {self.folder}; {suggestion(name, near[:20])}")
        if kind == IMAGE and len(found) > 1:
            places = ", ".join(f"image:{entry.source}/{entry.name}" for entry in found[:3])
            raise UserError(f"{option} {text}: is the name of {len(found)} pictures; say which: {places}")
        return found

    def _entries(self, where, values):
        return [_entry(row) for row in self._rows(f"{SELECT} WHERE {where} ORDER BY entries.id", values)]

    def _rows(self, query, values=()):
        if self._database is not None:
            with _understood(self.folder):
                yield from self._database.execute(query, values)

    def _state(self, key, default):
        found = next(self._rows("SELECT value FROM state WHERE key = ?", (key,)), None)
        return json.loads(found[0]) if found else default


SELECT = (
    "SELECT entries.id, name, identity, path, detected, digest, camera "
    "FROM entries JOIN sources ON sources.id = entries.source"
)


def _entry(row):
    return Entry(*row[:4], bool(row[4]), *row[5:])


class Writer(Gallery):
    """A gallery for the one process that changes it; a lock beside the folder keeps others out."""

    @classmethod
    def begin(cls, folder: pathlib.Path | str, settings: Settings | None = None) -> Self:
        """The Writer of a folder. settings: of the gallery that is made where there is none, or where nothing was ever
        enrolled. UserError where another process writes there, or something else lies there.
        """
        folder = pathlib.Path(folder)
        if not (folder / SETTINGS).is_file():
            if settings is None:
                _settings_of(folder)  # says why there is none
            _check_free(folder)
        lock = lock_folder(folder, otherwise="wait for it: one process changes a gallery at a time")
        try:
            if not (folder / SETTINGS).is_file():
                _make(folder, settings)
            with _understood(folder), explaining(folder):
                database = sqlite3.connect(folder / ENTRIES, timeout=WAIT_S, isolation_level=None)
                database.execute("PRAGMA journal_mode = WAL")  # who reads does not wait for who writes
                database.execute("PRAGMA synchronous = FULL")  # what is told to be there survives a loss of power
                database.execute("PRAGMA secure_delete = ON")  # names of deleted people are written over
                database.executescript(TABLES)
            writer = cls(folder, _settings_of(folder), database)
            with _understood(folder), explaining(folder):
                (folder / VECTORS).touch()
                database.execute("COMMIT")  # of the moment that a reader stands in
            if settings is not None and not writer.num_vectors:
                _make(folder, settings)
                writer.settings = settings
        except BaseException:
            lock.release()
            raise
        writer._lock = lock
        return writer

    _lock: filelock.BaseFileLock

    def close(self) -> None:
        """Close the files and let others write."""
        try:
            if self._database is not None:
                with contextlib.suppress(sqlite3.Error):
                    # A reader of an earlier moment needs the log: it is not waited for, the next writer empties it.
                    self._database.execute("PRAGMA busy_timeout = 0")
                    self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            super().close()
        finally:
            self._lock.release()

    def source(self, path: str, *, detected: bool) -> int:
        """The number of a place of pictures."""
        with self._changing():
            self._database.execute(
                "INSERT OR IGNORE INTO sources (path, detected) VALUES (?, ?)", (shown(path), int(detected))
            )
        values = (shown(path), int(detected))
        return next(self._rows("SELECT id FROM sources WHERE path = ? AND detected = ?", values))[0]

    def is_there(self, new: New) -> bool:
        """Whether this picture is enrolled as this identity already, under any name."""
        query = "SELECT 1 FROM entries WHERE digest = ? AND identity = ? LIMIT 1"
        return next(self._rows(query, (new.digest, new.identity)), None) is not None

    def append(self, unit_BD: np.ndarray, added: Sequence[New], source: int) -> int:
        """Add pictures; when this returns they are on the disk. How many took the place of one of their name and
        source, whose file or label changed: those are deleted, and wiped by `wipe`.
        """
        first, size = self.num_vectors, self.settings.embedding_size
        unit_BD = np.ascontiguousarray(unit_BD, "<f4")
        assert unit_BD.shape == (len(added), size), (unit_BD.shape, len(added), size)
        with explaining(self.folder), open(self.folder / VECTORS, "r+b") as file:
            file.seek(4 * size * first)
            file.write(unit_BD.tobytes())
            file.flush()
            os.fsync(file.fileno())
        replaced = []
        with self._changing():
            for new in added:
                query = "SELECT id FROM entries WHERE name = ? AND source = ?"
                replaced += [number for (number,) in self._rows(query, (new.name, source))]
            rows = [(first + at, source, *new) for at, new in enumerate(added)]
            self._database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._drop(replaced)
            self._set("num_vectors", first + len(added))
        self.num_vectors += len(added)
        self._forget(replaced)
        return len(replaced)

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete entries: none of them is found any more when this returns. `wipe` takes their vectors off the disk."""
        with self._changing():
            self._drop(numbers)
        self._forget(numbers)

    @property
    def unwiped(self) -> np.ndarray:
        """Numbers of deleted vectors that are still on the disk: after `delete`, or a kill before `wipe`."""
        rows = self._rows("SELECT id FROM deleted WHERE wiped = 0 ORDER BY id")
        return np.array([number for (number,) in rows], np.int64)

    def wipe(self, number_M: np.ndarray) -> None:
        """Write zeros over deleted vectors, and say so. The index must not hold them any more."""
        size = 4 * self.settings.embedding_size
        with explaining(self.folder), open(self.folder / VECTORS, "r+b") as file:
            for number in number_M.tolist():
                file.seek(size * number)
                file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
        with self._changing():
            self._database.executemany("UPDATE deleted SET wiped = 1 WHERE id = ?", [(n,) for n in number_M.tolist()])

    def keep(self, cells: Cells | None) -> None:
        """From here on this is the index; the files of others go."""
        with self._changing():
            self._set("cells", cells.model_dump(mode="json") if cells else None)
        self.cells = cells
        kept = cells_file(self.folder, cells).name if cells else None
        for path in self.folder.glob("*cells-*.faiss*"):
            if path.name != kept:
                path.unlink(missing_ok=True)

    def _drop(self, numbers):
        rows = [(int(number),) for number in numbers]
        self._database.executemany("DELETE FROM entries WHERE id = ?", rows)
        self._database.executemany("INSERT OR IGNORE INTO deleted VALUES (?, 0)", rows)

    def _forget(self, numbers):
        self.deleted_M = np.union1d(self.deleted_M, np.array(numbers, np.int64))
        self.num_images = self.num_vectors - len(self.deleted_M)

    def _set(self, key, value):
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, json.dumps(value)))

    @contextlib.contextmanager
    def _changing(self):
        """A transaction: all of what the block writes, or nothing."""
        with _understood(self.folder):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # on a full disk SQLite may have taken it back by itself
                    self._database.execute("ROLLBACK")
                raise


def cells_file(folder: pathlib.Path, cells: Cells) -> pathlib.Path:
    """The file of an index."""
    return folder / f"cells-{cells.number}.faiss"


def _make(folder, settings):
    with explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SETTINGS, json.dumps(settings.model_dump(mode="json"), indent=1) + "\n")


def _check_free(folder):
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; a gallery is a folder")
    if folder.is_dir() and {path.name for path in folder.iterdir()} - {f".{SETTINGS}.tmp"}:
        raise UserError(f"{folder}: is not empty and holds no gallery; choose another folder")


def _settings_of(folder):
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder}: holds no gallery ({SETTINGS} is not there); --enrol DATA --model FILE makes one")
    settings = Settings.load(path)
    if settings.embedding_size < 1:
        raise UserError(f"{path}: embedding_size: given {settings.embedding_size}, allowed: 1 or more")
    return settings


def _mapped(folder, num, size):
    _check_vectors(folder, num, size)
    if not num:
        return np.zeros((0, size), np.float32)
    return np.memmap(folder / VECTORS, "<f4", mode="r", shape=(num, size))


def _check_vectors(folder, num, size):
    """UserError where fewer than `num` vectors are there: what is written behind a cut would fill it with zeros."""
    if not num:
        return
    path = folder / VECTORS
    try:
        held = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {BRING_BACK}") from None
    if held < 4 * num * size:
        raise UserError(f"{path}: holds {held // (4 * size):,} vectors of {num:,}: it was cut short; {BRING_BACK}")


@contextlib.contextmanager
def _understood(folder):
    """What SQLite says of a damaged or busy file, in one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise UserError(f"{folder / ENTRIES}: another process holds it; wait for it") from None
        if error.sqlite_errorname in FULL:
            raise UserError(
                f"{folder / ENTRIES}: cannot be written: {first_line(error)}; what was enrolled before is kept; make "
                "room, then give the same command again"
            ) from None
        raise UserError(f"{folder / ENTRIES}: cannot be used: {first_line(error)}") from None
    except (sqlite3.DatabaseError, json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{folder / ENTRIES}: is damaged ({first_line(error)}); {BRING_BACK}") from None
