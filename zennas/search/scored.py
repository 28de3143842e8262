"""The table of scored candidates: columns in memory, a hundred bytes a candidate, and parquet files in a folder.

A file is written once, whole or not at all. Several drivers write into one folder, each its own files. The folder may
be anywhere that fsspec reaches.
"""

# N candidates, G genes

import collections.abc
import contextlib
import io
import json
import os
import pathlib
import uuid
from typing import NamedTuple

import fsspec
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet

from zennas.records import UserError, first_line
from zennas.run_folder import explaining
from zennas.search.storage import shown
from zennas.space.candidate import Candidate
from zennas.space.genes import genes_of_stages, genes_of_vector

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"}  # of fsspec's names


class Row(NamedTuple):
    """One scored candidate."""

    batch: int
    key: str
    text: str
    block: str  # a Candidate's kind
    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    score: float | None
    std: float
    seconds: float
    predicted_ms: float  # by the table, before correction
    params: int
    macs: int
    num_blocks: int
    elapsed_s: float  # search time when the result came in
    stage: str | None  # where it failed
    error: str | None
    island: int = 0  # whose it is

    @property
    def candidate(self) -> Candidate:
        return Candidate.of_kind(self.block, stem=self.stem, widths=tuple(self.widths), depths=tuple(self.depths))

    @property
    def genes(self) -> tuple[int, ...]:
        """The candidate's vector of genes."""
        return self.candidate.genes


SCHEMA = pyarrow.schema(
    [
        ("batch", pyarrow.int32()),
        ("key", pyarrow.string()),
        ("text", pyarrow.string()),
        ("block", pyarrow.string()),
        ("stem", pyarrow.int32()),
        ("widths", pyarrow.list_(pyarrow.int32())),
        ("depths", pyarrow.list_(pyarrow.int32())),
        ("score", pyarrow.float64()),
        ("std", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
        ("predicted_ms", pyarrow.float64()),
        ("params", pyarrow.int64()),
        ("macs", pyarrow.int64()),
        ("num_blocks", pyarrow.int32()),
        ("elapsed_s", pyarrow.float64()),
        ("stage", pyarrow.string()),
        ("error", pyarrow.string()),
        ("island", pyarrow.int16()),
    ]
)
NUMBERS = ("score", "std", "seconds", "predicted_ms", "elapsed_s")
COUNTS = ("params", "macs", "batch", "island", "num_blocks")


class Rows(collections.abc.Sequence):
    """Rows as columns that grow. Whoever needs all of them takes a column; `rows[i]` is for a few.

    A missing score is NaN in `score_N` and None in a Row.
    """

    def __init__(self):
        self._num, self._columns, self._blocks, self._failures = 0, None, [], {}

    def __len__(self):
        return self._num

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._num))]
        if not -self._num <= index < self._num:
            raise IndexError(index)
        index %= self._num
        column = self._columns
        candidate = Candidate.of_kind(self._blocks[column["block"][index]], **self._fields(index))
        values = {name: float(column[name][index]) for name in NUMBERS}
        values |= {name: int(column[name][index]) for name in COUNTS}
        stage, error = self._failures.get(index, (None, None))
        values["score"] = None if np.isnan(values["score"]) else values["score"]
        return Row(
            key=column["key"][index].decode(),
            text=candidate.text,
            block=candidate.kind,
            stem=candidate.stem,
            widths=candidate.widths,
            depths=candidate.depths,
            stage=stage,
            error=error,
            **values,
        )

    def extend(self, rows: list[Row]) -> None:
        """Take Rows in."""
        if not rows:
            return
        if self._columns is None:
            self._begin(genes_of_stages(len(rows[0].widths)).num)
        self._reserve(len(rows))
        part, column = slice(self._num, self._num + len(rows)), self._columns
        layout = genes_of_stages(len(rows[0].widths))
        column["genes"][part] = [layout.vector(stem=row.stem, widths=row.widths, depths=row.depths) for row in rows]
        column["key"][part] = [row.key.encode() for row in rows]
        column["block"][part] = [self._code(row.block) for row in rows]
        for name in (*NUMBERS, *COUNTS):
            column[name][part] = [np.nan if (value := getattr(row, name)) is None else value for row in rows]
        for at, row in enumerate(rows, start=self._num):
            if row.stage is not None or row.error is not None:
                self._failures[at] = (row.stage, row.error)
        self._num += len(rows)

    def extend_from(self, table: pyarrow.Table) -> None:
        """Take in a pyarrow Table of SCHEMA, column by column."""
        num = table.num_rows
        if not num:
            return
        flat = {name: table[name].combine_chunks() for name in table.column_names}
        stages = len(flat["widths"][0])
        if self._columns is None:
            self._begin(genes_of_stages(stages).num)
        self._reserve(num)
        part, column = slice(self._num, self._num + num), self._columns
        widths, depths = (flat[name].flatten().to_numpy().reshape(num, stages) for name in ("widths", "depths"))
        at_boundaries = np.column_stack([flat["stem"].to_numpy(), widths])
        column["genes"][part] = genes_of_stages(stages).joined(at_boundaries, depths)
        column["key"][part] = np.array(flat["key"].to_pylist(), "S16")
        column["block"][part] = [self._code(block) for block in flat["block"].to_pylist()]
        for name in (*NUMBERS, *COUNTS):
            if name in flat:  # a part that is older than the islands has none
                column[name][part] = flat[name].to_numpy(zero_copy_only=False)
        errors, stages_of = flat["error"].to_pylist(), flat["stage"].to_pylist()
        for at, pair in enumerate(zip(stages_of, errors, strict=True), start=self._num):
            if pair != (None, None):
                self._failures[at] = pair
        self._num += num

    def fail(self, key: str, *, stage: str, error: str) -> None:
        """Mark a scored candidate as failed: its score is gone, its stage and error are kept."""
        for index in np.flatnonzero(self.column("key") == key.encode()):
            self._columns["score"][index] = np.nan
            self._failures[int(index)] = (stage, error)

    def column(self, name: str) -> np.ndarray:
        """A column as an array, by its name in SCHEMA, or `genes`. It is a view: read it only."""
        if self._columns is None:
            return np.zeros((0, 1) if name == "genes" else 0, "S16" if name == "key" else float)
        return self._columns[name][: self._num]

    @property
    def score_N(self) -> np.ndarray:
        return self.column("score")

    @property
    def genes_NG(self) -> np.ndarray:
        return self.column("genes")

    @property
    def keys(self) -> list[str]:
        """The keys, as a list of texts."""
        return [key.decode() for key in self.column("key").tolist()]

    @property
    def failures(self) -> list[int]:
        """Indices of the rows that failed."""
        return sorted(self._failures)

    def frame(self) -> pandas.DataFrame:
        """All rows as a DataFrame with the columns of SCHEMA."""
        columns = {name: self.column(name) for name in (*NUMBERS, *COUNTS)} | {"key": self.keys}
        genes_NG, layout = self.genes_NG, genes_of_vector(self.genes_NG.shape[1])
        columns |= {"stem": genes_NG[:, layout.stem].tolist()}
        columns |= {"widths": genes_NG[:, layout.widths].tolist(), "depths": genes_NG[:, layout.depths].tolist()}
        columns |= {"block": [self._blocks[code] for code in self.column("block").astype(int).tolist()]}
        columns |= {"text": [self._text(index) for index in range(len(self))]}
        failed = [self._failures.get(index, (None, None)) for index in range(len(self))]
        columns |= {"stage": [stage for stage, _ in failed], "error": [error for _, error in failed]}
        return pandas.DataFrame({name: columns[name] for name in SCHEMA.names})

    def _text(self, index):
        """Candidate.text, without a Candidate: a hundred thousand of them take a second."""
        fields = self._fields(index)
        pairs = (f"{width}x{depth}" for width, depth in zip(fields["widths"], fields["depths"], strict=True))
        return "-".join([self._blocks[self._columns["block"][index]], str(fields["stem"]), *pairs])

    def _fields(self, index):
        genes_G = self._columns["genes"][index]
        return genes_of_vector(len(genes_G)).fields(genes_G.tolist())

    def ranked(self, kept_N: np.ndarray | None = None) -> np.ndarray:
        """Indices of the rows that have a score (and are kept), highest first, equal ones by key."""
        has_N = ~np.isnan(self.score_N)
        place_N = np.flatnonzero(has_N if kept_N is None else has_N & kept_N)
        return place_N[np.lexsort((self.column("key")[place_N], -self.score_N[place_N]))]

    def _begin(self, num_genes):
        kinds = {name: np.float64 for name in NUMBERS} | {"params": np.int64, "macs": np.int64, "batch": np.int32}
        kinds |= {"island": np.int16, "num_blocks": np.int32, "block": np.int8, "key": "S16"}
        self._columns = {name: np.zeros(0, kind) for name, kind in kinds.items()}
        self._columns["genes"] = np.zeros((0, num_genes), np.int32)

    def _reserve(self, more):
        room = len(self._columns["key"])
        if self._num + more > room:
            longer = max(1024, room // 2, more)
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros((longer, *column.shape[1:]), column.dtype)])

    def _code(self, block):
        if block not in self._blocks:
            self._blocks.append(block)
        return self._blocks.index(block)


class TornFileError(UserError):
    """A file that holds no table, or half of one."""


class ParquetFolder:
    """A folder of parquet files, anywhere that fsspec reaches."""

    def __init__(self, where: str | pathlib.Path, *, island: int = 0):
        """where: a folder, or a URL of fsspec, such as s3://bucket/folder. UserError where nothing here reaches it."""
        self.where, self.island = str(where), island
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.where)
        except Exception as error:  # noqa: BLE001 - a file system's driver raises what it likes
            raise UserError(f"--table {where}: cannot be reached: {first_line(error)}") from None
        self.root = self.root.rstrip("/")
        self.local = "file" in _protocols(self.fs)

    def make_folder(self) -> None:
        """Make the folder, and try to write. UserError where nothing can be written: now, not after minutes."""
        with self._reaching():
            self.fs.makedirs(self.root, exist_ok=True)
            probe = f"{self.root}/.probe-{uuid.uuid4().hex}"
            self.fs.pipe_file(probe, b"zennas")
            self.fs.rm_file(probe)

    def is_in(self, folder: str | pathlib.Path) -> bool:
        """Whether this folder lies in the given one."""
        return self.local and pathlib.Path(self.root).resolve().is_relative_to(pathlib.Path(folder).resolve())

    def write(self, rows: list[Row], *, metadata: dict) -> str:
        """Write Rows of one island as one more file. Its name; `metadata` (JSON) travels in it."""
        table = pyarrow.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA)
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table.replace_schema_metadata({"zennas": json.dumps(metadata)}), buffer)
        name = f"part-{rows[0].batch:07d}{_of_island(self.island)}.parquet"
        if self.local:
            folder = pathlib.Path(self.root)
            with explaining(folder):
                folder.mkdir(parents=True, exist_ok=True)
                temporary = folder / f".{name}.tmp"
                temporary.write_bytes(buffer.getbuffer())
                os.replace(temporary, folder / name)
            return name
        with self._reaching():
            self.fs.makedirs(self.root, exist_ok=True)
            # An object is there whole or not at all; a file elsewhere is under another name until it is.
            whole = bool(OBJECT_STORES & set(_protocols(self.fs)))
            written = name if whole else f".{name}.tmp"
            self.fs.pipe_file(f"{self.root}/{written}", buffer.getvalue())
            if not whole:
                self.fs.mv(f"{self.root}/{written}", f"{self.root}/{name}")
        return name

    def names(self) -> list[str]:
        """The names of the files, by batch and island."""
        with self._reaching():
            self.fs.invalidate_cache()
            paths = self.fs.ls(self.root, detail=False) if self.fs.exists(self.root) else []
        names = (str(path).rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if name.startswith("part-") and name.endswith(".parquet"))

    def read(self, name: str) -> tuple[pyarrow.Table, dict]:
        """(pyarrow Table, its metadata) of a file. UserError where it cannot be read."""
        path = f"{self.root}/{name}"
        with self._reaching():
            content = self.fs.cat_file(path)
        try:
            table = pyarrow.parquet.read_table(io.BytesIO(content))
            return table, json.loads(table.schema.metadata[b"zennas"])
        except (OSError, pyarrow.ArrowInvalid, TypeError, KeyError, ValueError) as error:
            raise TornFileError(
                f"{path}: cannot be read ({first_line(error)}); move it away to score its candidates again"
            ) from None

    def is_of(self, name: str) -> bool:
        """Whether a file is of this island."""
        return name.removesuffix(".parquet")[len("part-0000000") :] == _of_island(self.island)

    @contextlib.contextmanager
    def _reaching(self):
        """One clear message for what a file system raises, which is not always an OSError."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            raise UserError(
                f"{self.where}: {type(error).__name__}: {first_line(error)}; what was computed before is kept; give "
                "the same command again when it can be reached"
            ) from None


def checked_table(text: str | None) -> str | None:
    """The place of the table, as a user gave it. UserError for an empty one, and for a secret in the open."""
    if text is not None and not text.strip():
        raise UserError(
            f"--table: given '{text}', allowed: a folder or a URL that fsspec knows; leave it out for "
            f"OUT/scored.parquet"
        )
    scheme, colon, rest = (text or "").partition("://")
    host, query = rest.partition("/")[0], rest.partition("?")[2]
    asked = f"{scheme}://{host}/?{query}"  # what may hold one; names of folders may look like it
    if colon and shown(asked) != asked:
        raise UserError(
            f"--table {shown(asked)}: has a secret, and everyone on the machine can read a command line; give it to "
            "the file system by its own means: ~/.aws/credentials and the like, or ~/.config/fsspec/conf.json"
        )
    return text


def _protocols(fs):
    return fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)


def _of_island(island):
    return f".island-{island}" if island else ""
