"""Checkpoints: everything a training needs to go on, whole or not at all, on any number of ranks.

A checkpoint is a folder step-N: `common.pt` (network, optimizer, schedule position, what all ranks share) and a file
from every rank with its rows of what a head shares out over ranks. It is written under another name and renamed once
all ranks have written, so a kill at any moment leaves the last whole one. Read with weights_only: a checkpoint from a
stranger runs nothing.
"""

import os
import pathlib
import re
import shutil

import torch

from zennas.names import text_path
from zennas.ranks import EveryRankError, Ranks
from zennas.records import UserError, first_line
from zennas.tasks.task import Head

# The first head that shared rows out was one of class centres: its file keeps the name, so that old checkpoints go on.
COMMON, ROWS, WRITING = "common.pt", "centres-{rank}-of-{num_ranks}.pt", ".writing-"
FORMAT = 1  # raised when a reader of today could not read it


def save(folder: pathlib.Path | str, step: int, *, common: dict, head: Head, ranks: Ranks, keep: int) -> None:
    """Write checkpoint `step` under `folder` and drop all but the last `keep`. Called on every rank; `common` counts on
    the first. UserError where it cannot be written; earlier checkpoints stay."""
    folder = pathlib.Path(folder)
    partial, final = folder / f"{WRITING}step-{step:09d}", folder / f"step-{step:09d}"
    problem, state = None, head.state()
    try:
        partial.mkdir(parents=True, exist_ok=True)
        rows = {"first": state.first, "per_class": state.rows}
        _write(partial / ROWS.format(rank=ranks.rank, num_ranks=ranks.num_ranks), rows)
        if ranks.is_first:
            whole = {"format": FORMAT, "step": step, "num_ranks": ranks.num_ranks}
            _write(partial / COMMON, common | state.shared | whole)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError when a disk is full
        problem = f"{partial}: the checkpoint cannot be written: {first_line(error)}"
    _raise_together(ranks, problem, partial)
    _raise_together(ranks, _incomplete(partial, ranks) if ranks.is_first else None, partial)
    if ranks.is_first:
        _sync_folder(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(folder)
        for old in checkpoints_in(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    ranks.barrier()


def _raise_together(ranks, problem, partial):
    """UserError on all ranks if one has a problem; what was written is removed."""
    problems = [text for text in ranks.objects(problem) if text]
    if problems:
        if ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise EveryRankError(f"{problems[0]}; earlier checkpoints are kept in {partial.parent}")


def _incomplete(partial, ranks):
    """Why the checkpoint is not whole: a rank wrote into a folder that this node does not see. None where it is."""
    for rank in range(ranks.num_ranks):
        path = partial / ROWS.format(rank=rank, num_ranks=ranks.num_ranks)
        if not path.is_file():
            return f"{path}: rank {rank} wrote it, and it is not here: --out must be a folder that every node sees"
    return None


def checkpoints_in(folder: pathlib.Path | str) -> list[pathlib.Path]:
    """The whole checkpoints in a folder, oldest first."""
    named = [path for path in pathlib.Path(folder).glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted((path for path in named if (path / COMMON).is_file()), key=lambda path: int(path.name[5:]))


def clean(folder: pathlib.Path | str) -> None:
    """Remove what a killed process left half written."""
    for path in pathlib.Path(folder).glob(f"{WRITING}*"):
        shutil.rmtree(path, ignore_errors=True)


def load(path: pathlib.Path | str) -> tuple[dict, "Rows"]:
    """(common, Rows) of a checkpoint. UserError where it is damaged, foreign or of a later zennas."""
    path = pathlib.Path(path)
    common = _read(path / COMMON)
    if not isinstance(common, dict) or "format" not in common:
        raise UserError(f"{path / COMMON}: not a checkpoint of zennas train")
    if common["format"] != FORMAT:
        raise UserError(f"{path}: a checkpoint of format {common['format']}; this version reads {FORMAT}")
    return common, Rows(path, common["num_ranks"])


class Rows:
    """What of a checkpoint is shared out over ranks, whichever wrote it: `read(name, first, last)` cuts any range."""

    def __init__(self, path: pathlib.Path, num_ranks: int):
        self.shards = []
        for rank in range(num_ranks):
            shard = _read(path / ROWS.format(rank=rank, num_ranks=num_ranks), mmap=True)
            self.shards.append((shard["first"], shard["per_class"]))

    def read(self, name: str, first: int, last: int) -> torch.Tensor:
        """The rows first..last-1. UserError where the checkpoint has not all of them."""
        if any(name not in per_class for _, per_class in self.shards):
            raise UserError(f"the checkpoint has no '{name}' of its head: another optimizer wrote it")
        parts = []
        for start, per_class in self.shards:
            low, high = max(first, start), min(last, start + len(per_class[name]))
            if low < high:
                parts.append(per_class[name][low - start : high - start])
        rows = torch.cat(parts) if len(parts) != 1 else parts[0]
        if len(rows) != last - first:
            raise UserError(f"the checkpoint has {len(rows)} of the rows {first} to {last - 1}: other data wrote it")
        return rows


def _write(path, value):
    with open(path, "wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())


def _read(path, **options):
    try:
        return torch.load(text_path(path), map_location="cpu", weights_only=True, **options)
    except Exception as error:  # noqa: BLE001 - torch's reader raises whatever the damage leads it to
        raise UserError(f"{path}: cannot be read as a checkpoint: {first_line(error)}") from None


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
