"""The table of decisions: of every image what became of it and why; and taking a decision back.

N images, C identities, P pairs
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zennas.clean.grouping import joined
from zennas.clean.state import DROP, KEPT, MERGED, MOVED, NONE, REASONS, TAKEN_BACK, UNUSABLE, Merges, State
from zennas.data.labels import DROPPED
from zennas.data.sources import AnySource
from zennas.names import shown, text_path, unshown
from zennas.records import UserError, suggestion
from zennas.run_folder import explaining, write_atomically

TABLE, LIST_OF_TAKEN_BACK = "decisions.parquet", "taken-back.txt"
ROWS = 1_000_000  # of the table at a time
AS_MERGED = "merged"
DECISIONS = (KEPT, AS_MERGED, MOVED, DROP)


class TakenBack(NamedTuple):
    """What a user does not agree with: images that stay, and identities that are nobody else."""

    image_M: np.ndarray
    number_C: np.ndarray


def decision_N(state: State) -> np.ndarray:
    """For each image its place in DECISIONS."""
    kept_N = state.label_N >= 0
    place_N = np.full(len(kept_N), DECISIONS.index(KEPT), np.uint8)
    place_N[state.reason_N == MERGED] = DECISIONS.index(AS_MERGED)
    place_N[state.moved_N >= 0] = DECISIONS.index(MOVED)
    place_N[~kept_N] = DECISIONS.index(DROP)
    return place_N


def check_taken(state: State, taken: TakenBack, source: AnySource) -> None:
    """UserError where an image is taken back that has no embedding: nothing can be learnt from it."""
    without_N = state.reason_N == UNUSABLE
    if lost := [image for image in taken.image_M.tolist() if without_N[image]]:
        raise UserError(
            f"--take-back image:{lost[0]}: {source.where(lost[0])} has no embedding: it cannot be read, or the "
            "network gave none"
        )


def without(state: State, label_N: np.ndarray, taken: TakenBack) -> State:
    """The State in which some decisions are taken back. label_N: whom the images were said to show. taken: a TakenBack.

    An identity that is taken back is nobody else: pairs with it are forgotten, and what a chain joined by them comes
    apart. An image that is taken back counts as the identity it was given under, or as what that became.
    """
    if not len(taken.image_M) and not len(taken.number_C):
        return state
    merges = state.merges
    stays_P = ~(np.isin(merges.one_P, taken.number_C) | np.isin(merges.other_P, taken.number_C))
    merges = Merges(*(column[stays_P] for column in merges))
    num = int(max(label_N.max(initial=0), state.moved_N.max(initial=0))) + 1
    group_C = joined(num, merges.one_P, merges.other_P)
    back_N = np.zeros(len(label_N), bool)
    back_N[taken.image_M] = True
    reason_N, round_N = state.reason_N.copy(), state.round_N.copy()
    moved_N = np.where(back_N, -1, state.moved_N).astype(np.int32)
    # Of a decision that stands, only the identity may be another one by now.
    given_N = np.where(moved_N >= 0, moved_N, label_N)
    label_new_N = np.where((state.label_N >= 0) | back_N, group_C[np.maximum(given_N, 0)], DROPPED).astype(np.int32)
    label_new_N[label_N < 0] = DROPPED
    reason_N[back_N], round_N[back_N] = TAKEN_BACK, 0
    in_identity_N = (label_new_N >= 0) & np.isin(reason_N, (NONE, MERGED)) & (moved_N < 0)
    reason_N[in_identity_N] = np.where(label_new_N != label_N, MERGED, NONE)[in_identity_N]
    round_N[reason_N == NONE] = 0
    return state._replace(label_N=label_new_N, reason_N=reason_N, round_N=round_N, moved_N=moved_N, merges=merges)


def parsed(lines: Iterable[str], source: AnySource) -> TakenBack:
    """The TakenBack of lines such as `image Ada/Ada_0003.jpg`, `image 17` and `identity Ada`.
    UserError for what is not there.
    """
    wanted = {"image": [], "identity": []}
    for line in filter(None, (line.strip() for line in lines)):
        kind, _, name = line.replace(":", " ", 1).partition(" ")
        if kind not in wanted or not name.strip():
            raise UserError(
                f"--take-back '{line}': allowed: 'image:NAME', 'image:NUMBER' (its number in {TABLE}) or "
                "'identity:NAME'"
            )
        wanted[kind].append(name.strip())
    numbers = {kind: [] for kind in wanted}
    if wanted["identity"]:
        number_of = {name: number for number, name in enumerate(names_of(source))}
        numbers["identity"] = [_known(shown(name), number_of, "identity", source) for name in wanted["identity"]]
    if wanted["image"]:
        named = [name for name in wanted["image"] if not name.isdecimal()]
        place_of = {}
        if named:
            asked = set(map(unshown, named))
            place_of = {name: image for image in range(source.num_images) if (name := source.name(image)) in asked}
        for name in wanted["image"]:
            if name.isdecimal() and int(name) < source.num_images:
                numbers["image"].append(int(name))
            else:
                numbers["image"].append(_known(unshown(name), place_of, "image", source))
    return TakenBack(*(np.unique(np.array(numbers[kind], np.int64)) for kind in ("image", "identity")))


def names_of(source: AnySource) -> list[str]:
    """What the identities of a Source are called, as text: names, or their numbers."""
    if source.identity_names is not None:
        return list(map(shown, source.identity_names))
    return [str(number) for number in range(source.num_identities)]


def taken_back(out: pathlib.Path | str, entries: Iterable[str], source: AnySource) -> tuple[TakenBack, list[str]]:
    """(TakenBack of what stands in the folder's list and of these entries, the lines of that list)."""
    path = pathlib.Path(out) / LIST_OF_TAKEN_BACK
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lines = list(dict.fromkeys([*before, *entries]))
    return parsed(lines, source), lines


def write_taken_back(out: pathlib.Path | str, lines: Sequence[str]) -> None:
    """Write the folder's list."""
    if lines:
        write_atomically(pathlib.Path(out) / LIST_OF_TAKEN_BACK, "\n".join(lines) + "\n")


def write_table(path: pathlib.Path | str, state: State, source: AnySource, label_N: np.ndarray) -> None:
    """Write decisions.parquet, a row an image, in the source's order; whole or not at all."""
    path = pathlib.Path(path)
    names = pa.array(names_of(source), pa.string())
    decisions, reasons = pa.array(DECISIONS), pa.array(REASONS)
    decided_N = decision_N(state)
    temporary = path.with_name(f".{path.name}.tmp")
    with explaining(path.parent):
        writer = None
        for start in range(0, len(label_N), ROWS):
            stop = min(start + ROWS, len(label_N))
            image_B = np.arange(start, stop)
            part = slice(start, stop)
            table = pa.table(
                {
                    "image": pa.array(image_B),
                    "name": pa.array(
                        [shown(source.name(int(image)) or source.where(int(image))) for image in image_B], pa.string()
                    ),
                    "identity": _named(label_N[part], names),
                    "new_identity": _named(state.label_N[part], names),
                    "label": pa.array(state.label_N[part]),
                    "decision": _named(decided_N[part].astype(np.int32), decisions),
                    "reason": _named(state.reason_N[part].astype(np.int32), reasons),
                    "round": pa.array(state.round_N[part]),
                    "own_cosine": _or_null(state.own_N[part]),
                    "other_cosine": _or_null(state.other_N[part]),
                    "other_identity": _named(state.nearest_N[part], names),
                    "duplicate_of": pa.array(state.twin_N[part], mask=state.twin_N[part] < 0),
                }
            )
            writer = writer or pq.ParquetWriter(text_path(temporary), table.schema)
            writer.write_table(table)
        writer.close()
        os.replace(temporary, path)


def _named(number_B, names):
    """A column of names by their numbers; null where the number is below 0. Not as a dictionary of all names, which
    every part of the file would repeat."""
    return names.take(pa.array(number_B, pa.int32(), mask=number_B < 0))


def _or_null(value_B):
    return pa.array(value_B, mask=~np.isfinite(value_B))


def _known(name, place_of, kind, source):
    if name not in place_of:
        near = suggestion(name, list(place_of)) if kind == "identity" and len(place_of) <= 20 else ""
        raise UserError(f"--take-back {kind}:{name}: {source.path} has no such {kind}" + (f"; {near}" if near else ""))
    return place_of[name]


def save_state(path: pathlib.Path | str, state: State) -> None:
    """Write a State to an .npz that is there whole or not at all."""
    path = pathlib.Path(path)
    columns = {name: value for name, value in state._asdict().items() if name != "merges"}
    columns |= {f"merges_{name}": value for name, value in state.merges._asdict().items()}
    temporary = path.with_name(f".{path.name}.tmp")
    with explaining(path.parent):
        with open(temporary, "wb") as file:
            np.savez(file, **columns)
        os.replace(temporary, path)


def load_state(path: pathlib.Path | str) -> State:
    """What `save_state` wrote."""
    with np.load(path) as file:
        merges = Merges(*(file[f"merges_{name}"] for name in Merges._fields))
        return State(*(file[name] for name in State._fields if name != "merges"), merges)
