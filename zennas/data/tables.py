"""Tables with a header, read as text: what is wrong in one is said with its line."""

# N rows

import csv
import pathlib
from collections.abc import Sequence

import numpy as np

from zennas.records import UserError, shortened, suggestion


def read_table(
    path: pathlib.Path | str, *, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(line_N, of the file; {column: values_N, text}) of a table whose header names the `required` columns, `image` and
    `label` among them, and perhaps `optional` ones.

    Columns are parted by commas, tabs where the file ends in .tsv. UserError for columns that are missing or unknown,
    rows without an image or a label, and a table without rows.
    """
    path = pathlib.Path(path)
    line_N, table = _table(path)
    known = (*required, *optional)
    if missing := [name for name in required if name not in table]:
        raise UserError(
            f"{path}, line 1: columns {shortened(', '.join(table), 120)}; missing: {', '.join(missing)}; "
            "commas part them, in a .tsv tabs"
        )
    if unknown := [name for name in table if name not in known]:
        raise UserError(
            f"{path}, line 1: column '{shortened(unknown[0], 120)}' is not known; {suggestion(unknown[0], list(known))}"
        )
    if not len(line_N):
        raise UserError(f"{path}: names no image")
    for name in ("image", "label"):
        if len(empty := np.flatnonzero(table[name] == "")):
            raise UserError(f"{path}, line {line_N[empty[0]]}: no {name} ({len(empty)} such lines)")
    return line_N, table


def _table(path):
    """(line_N, {column: values_N}) of a table with a header; lines without anything in them are passed over.

    Not by pandas, which takes the first column for a name of the rows where a line is longer than the header, and fills
    up lines that are shorter.
    """
    rows, lines = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
            end = 0
            for row in reader:
                start, end = end + 1, reader.line_num  # a value in quotes may go over several lines
                if any(map(str.strip, row)):
                    rows.append([value.strip() for value in row])
                    lines.append(start)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a table with a header: {error}") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {end + 1}: not a table with a header: {error}") from None
    if not rows:
        raise UserError(f"{path}: is empty; expected a table with a header")
    header = [name.lower() for name in rows[0]]
    if "\0" in "".join(header):
        raise UserError(f"{path}: not a table with a header: it holds no text")
    if len(set(header)) < len(header):
        raise UserError(f"{path}, line {lines[0]}: a column stands twice: {shortened(', '.join(header), 120)}")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} values; the header has {len(header)} columns")
        if "\0" in row[0]:
            raise UserError(f"{path}, line {line}: not a table with a header: it holds no text")
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(header)
    return np.array(lines[1:], np.int64), {
        name: np.array(values, object) for name, values in zip(header, columns, strict=True)
    }
