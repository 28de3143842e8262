"""Lists of pairs in the forms that people have them: LFW's, a table of two paths, CALFW's, CFP's folder Protocol.

Here they are read as text alone; pairs.py finds their images.
"""

# P pairs

import csv
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from zennas.data.named_images import from_its_folder
from zennas.records import Line, UserError, read_lines, shortened

SAME = ("1", "1.0", "true", "yes", "same", "match", "genuine")
DIFFERENT = ("0", "0.0", "-1", "-1.0", "false", "no", "different", "diff", "mismatch", "impostor")
SAME_COLUMNS = ("same", "is_same", "issame", "same_person", "label", "match", "target", "genuine")
FOLD_COLUMNS = ("fold", "split")
SEPARATORS = ("\t", ",", ";")  # words part a line that has none of them
LOOKED_AT = 1000  # lines that tell the form of a list
PEOPLE, PATHS, TWO_LINES = "people", "paths", "two lines"  # forms of a list
FORMS = (
    "known are LFW's lines (Name n m, Name n Other m), two paths and 1 or 0, CALFW's two lines a pair (file and "
    "number), CFP's folder Protocol"
)
PROTOCOL_LISTS = {"F": "Pair_list_F.txt", "P": "Pair_list_P.txt"}  # of frontal and of profile faces
PROTOCOL_SETS = {"FF": "FF", "FP": "FP"}  # folder of Split -> the list of the first image and of the second


class ListedPairs(NamedTuple):
    """The pairs of a list. An image is a path, or in LFW's form (name, number)."""

    first_P: list[Any]
    second_P: list[Any]
    same_P: list[bool]
    fold_P: list[int] | None  # None: the list says none


def list_lines(path: pathlib.Path | str) -> list[Line]:
    """The Lines of a list; UserError where it cannot be read or holds no text."""
    lines = read_lines(path)
    if any("\0" in line.text for line in lines):
        raise UserError(f"{path}: not a list of pairs: it holds no text; {FORMS}")
    if not lines:
        raise UserError(f"{path}: is empty; expected pairs: {FORMS}")
    return lines


def form_of(lines: Sequence[Line]) -> str:
    """PEOPLE for LFW's form, PATHS for a table of paths, TWO_LINES for CALFW's.

    >>> [form_of([Line(1, text)]) for text in ("Ada 1 2", "Ada 1 Bo 2", "a.jpg b.jpg 1", "a.jpg,b.jpg,0", "a.jpg 3")]
    ['people', 'people', 'paths', 'paths', 'two lines']
    """
    if _head_of(lines[0]):
        return PEOPLE
    lines = lines[:LOOKED_AT]
    if _has_header(lines[0]):
        return PATHS
    rows = [fields_of(line.text) for line in lines]
    if all(len(row) == 2 and row[1].isdecimal() and not row[0].isdecimal() for row in rows):
        return TWO_LINES
    numbers = [row for row in rows[1:] or rows if len(row) == 3 and all(map(str.isdecimal, row))]
    if len(numbers) == len(rows[1:] or rows):  # numbers of records, and whether they are the same, or LFW's numbers
        return PATHS if any(all(row[place] in "01" for row in numbers) for place in (0, 2)) else PEOPLE
    readable = [bool(readings(line.text)) for line in lines]
    tables = [len(row) >= 3 and _has_label(row) for row in rows]
    only_people = sum(person and not table for person, table in zip(readable, tables, strict=True))
    only_paths = sum(table and not person for person, table in zip(readable, tables, strict=True))
    return PATHS if only_paths > only_people or not any(readable) else PEOPLE


def fields_of(text: str) -> list[str]:
    """The fields of a line: parted by tabs, commas or semicolons where it has them, else by blanks.

    >>> fields_of("Ada L,1,4,"), fields_of("a.jpg  b.jpg 1")
    (['Ada L', '1', '4'], ['a.jpg', 'b.jpg', '1'])
    """
    separator = next((mark for mark in SEPARATORS if mark in text), None)
    fields = [field.strip() for field in text.split(separator)]
    while fields and not fields[-1]:  # a comma at the end
        fields.pop()
    return fields


# --- LFW's form ------------------------------------------------------------------------------------------------------


def read_people(lines: Sequence[Line], path: pathlib.Path, known: Collection[str]) -> ListedPairs:
    """The ListedPairs of LFW's form: "Name n m" is a pair of the same identity, "Name n Other m" of two.

    The first line may say folds and pairs of each kind in a fold ("10 300"), or pairs of each kind ("300"), or be a
    header; without folds there are none. Names may hold blanks and digits, or be numbers: where a line can be read in
    two ways, the names that are `known` decide. UserError for lines that are no pairs, a wrong number of them, and
    lines that stay open.
    """
    head = _head_of(lines[0])
    has_header = (
        not head
        and len(lines) > 1
        and not readings(lines[0].text)
        and not any(field.isdecimal() for field in fields_of(lines[0].text))
    )
    body = lines[1:] if head or has_header else lines
    num_folds, per_kind = head if len(head) == 2 else (1, *head) if head else (1, 0)
    announced = num_folds * 2 * per_kind
    if head and len(body) != announced:
        raise UserError(
            f"{path}: {len(body)} pairs; line {lines[0].number} announces {num_folds} folds of 2 x {per_kind}: "
            f"{announced}"
        )
    pairs = [_read_as(line, path, known) for line in body]
    return ListedPairs(
        [first for first, _ in pairs],
        [second for _, second in pairs],
        [first[0] == second[0] for first, second in pairs],
        [pair // (2 * per_kind) for pair in range(len(pairs))] if num_folds > 1 else None,
    )


def readings(text: str) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """What a line of LFW's may mean, ((name, number), (name, number)) each; the likeliest first.

    >>> readings("Louis 14 1 2")
    [(('Louis', 14), ('1', 2)), (('Louis 14', 1), ('Louis 14', 2))]
    """
    fields = fields_of(text)
    if any(mark in text for mark in SEPARATORS):
        if len(fields) == 3:
            fields = [fields[0], fields[1], fields[0], fields[2]]
        if len(fields) != 4 or not all(fields) or not (fields[1].isdecimal() and fields[3].isdecimal()):
            return []
        return [((fields[0], int(fields[1])), (fields[2], int(fields[3])))]
    if len(fields) < 3 or not fields[-1].isdecimal():
        return []
    means = [
        ((" ".join(fields[:place]), int(fields[place])), (" ".join(fields[place + 1 : -1]), int(fields[-1])))
        for place in range(1, len(fields) - 2)
        if fields[place].isdecimal()
    ]
    if fields[-2].isdecimal():
        name = " ".join(fields[:-2])
        means.append(((name, int(fields[-2])), (name, int(fields[-1]))))
    return means


def _read_as(line, path, known):
    """The reading of a line whose names are known; where there is none, the likeliest."""
    possible = readings(line.text)
    if not possible:
        raise UserError(
            f"{path}, line {line.number}: expected Name n m or Name n Other m, got {shortened(line.text, 80)!r}"
        )
    if len(possible) > 1:
        fitting = [pair for pair in possible if all(name in known for name, _ in pair)]
        if len(fitting) > 1:
            raise UserError(
                f"{path}, line {line.number}: {shortened(line.text, 80)!r} can be read in {len(fitting)} ways; "
                "part its columns by tabs"
            )
        possible = fitting or possible
    return possible[0]


def _head_of(line):
    """The one or two numbers above 0 that a first line consists of, or ()."""
    words = line.text.split()
    is_head = len(words) <= 2 and all(word.isdecimal() and int(word) for word in words)
    return tuple(map(int, words)) if is_head else ()


# --- tables of paths -------------------------------------------------------------------------------------------------


def read_paths(lines: Sequence[Line], path: pathlib.Path) -> ListedPairs:
    """The ListedPairs of a table: two paths and whether they are the same person, first or last in all lines.

    Columns are parted by tabs, commas, semicolons or blanks. A header may name them: the column of SAME_COLUMNS, one of
    FOLD_COLUMNS if there is one, and the two of the images. A column without a name (pandas' numbers of rows) is passed
    over. UserError with the line of what is wrong.
    """
    rows, width = _rows(lines, path), 3
    if _has_header(lines[0]):
        (line, header), *rows = rows
        first, second, label, fold = _columns(header, f"{path}, line {line}")
        width = len(header)
        if not rows:
            raise UserError(f"{path}: a header and no pair below it")
    else:
        _check_no_header(rows, path)
        at_start, at_end = (all(_is_same(row[place]) is not None for _, row in rows) for place in (0, -1))
        # Numbers of records may be 0 and 1, too: the label is at the end where it can be.
        first, second, label, fold = (1, 2, 0, None) if at_start and not at_end else (0, 1, 2, None)
    for line, row in rows:
        _check_row(row, width, (first, second, label), f"{path}, line {line}")
    return ListedPairs(
        [from_its_folder(row[first]) for _, row in rows],
        [from_its_folder(row[second]) for _, row in rows],
        [bool(_is_same(row[label])) for _, row in rows],
        None if fold is None else _numbered([row[fold] for _, row in rows]),
    )


def _check_no_header(rows, path):
    """UserError where the first line names columns, and none of them says who is the same person."""
    (line, first), *below = rows
    if below and not _has_label(first) and _has_label(below[0][1]):
        raise UserError(
            f"{path}, line {line}: a header ({shortened(', '.join(first), 120)}) in which no "
            f"column says who is the same person; name it {SAME_COLUMNS[0]}, "
            "with 1 for the same person and 0 for different ones"
        )


def _check_row(row, width, places, where):
    """UserError for a line that is no pair. places: of the first image, the second and the label."""
    if len(row) != width:
        raise UserError(
            f"{where}: {len(row)} columns, expected {width}: two paths and 1 or 0 (a header may name more: "
            f"{FOLD_COLUMNS[0]}); commas or tabs part paths that hold blanks"
        )
    *images, label = (row[place] for place in places)
    if _is_same(label) is None:
        raise UserError(f"{where}: given {shortened(label, 80)!r}, allowed: 1, true, same or 0, false, different")
    if not all(images):
        raise UserError(f"{where}: a path is missing")


def _rows(lines, path):
    """(number of the line, its fields) of a table's lines; quotes hold what parts the columns."""
    separator = next((mark for mark in SEPARATORS if mark in lines[0].text), None)
    if separator is None:
        return [(line.number, line.text.split()) for line in lines]
    rows = []
    try:
        for line in lines:
            ((*row,),) = csv.reader([line.text], delimiter=separator, strict=True)
            rows.append((line.number, [field.strip() for field in row]))
    except csv.Error as error:
        raise UserError(f"{path}, line {line.number}: {error}") from None
    return rows


def _has_header(line):
    """Whether a line names the column of the label. `same` may be a label, too: of a line that holds a path it is."""
    fields = {field.strip('"').lower() for field in fields_of(line.text)}
    known = fields & set(SAME_COLUMNS)
    return bool(known - set(SAME)) or (bool(known) and not any(mark in field for field in fields for mark in "/."))


def _has_label(row):
    return bool(row) and (_is_same(row[0]) is not None or _is_same(row[-1]) is not None)


def _columns(header, where):
    """Places of the first image, the second, the label and the fold (or None) in a header."""
    names = [name.lower() for name in header]
    labels, folds = (
        [place for place, name in enumerate(names) if name in known] for known in (SAME_COLUMNS, FOLD_COLUMNS)
    )
    images = [place for place, name in enumerate(names) if name and place not in (*labels, *folds)]
    if len(labels) != 1 or len(folds) > 1 or len(images) != 2:
        raise UserError(
            f"{where}: columns {shortened(', '.join(names), 120)}; expected two of images, one of "
            f"{', '.join(SAME_COLUMNS)}, and perhaps fold"
        )
    return *images, labels[0], folds[0] if folds else None


def _is_same(word):
    """Whether a label says the same person; None where it is no label."""
    word = word.lower()
    return True if word in SAME else False if word in DIFFERENT else None


def _numbered(fold_P):
    """Folds by number, in the order of their names."""
    numbers = {name: number for number, name in enumerate(sorted(set(fold_P)))}
    return [numbers[name] for name in fold_P] if len(numbers) > 1 else None


# --- CALFW's and CPLFW's form ----------------------------------------------------------------------------------------


def read_two_lines(lines: Sequence[Line], path: pathlib.Path) -> ListedPairs:
    """The ListedPairs of two lines each, "FILE NUMBER": 0 for different people, any other number for the same.

    The number of a pair of the same person is its fold in CALFW; of the others the list says none, so there are none.
    """
    rows = [fields_of(line.text) for line in lines]
    for line, row in zip(lines, rows, strict=True):
        if len(row) != 2 or not row[1].isdecimal():
            raise UserError(f"{path}, line {line.number}: expected FILE and a number, got {shortened(line.text, 80)!r}")
    if len(rows) % 2:
        raise UserError(f"{path}: {len(rows)} lines; two lines are a pair, and the last one has no other")
    for line, (_, first), (_, second) in zip(lines[1::2], rows[0::2], rows[1::2], strict=True):
        if int(first) != int(second):
            raise UserError(f"{path}, line {line.number}: {second}, and {first} in the line before it; a pair has one")
    files = [from_its_folder(file) for file, _ in rows]
    return ListedPairs(files[0::2], files[1::2], [int(number) > 0 for _, number in rows[0::2]], None)


# --- CFP's folder Protocol -------------------------------------------------------------------------------------------


def protocol_sets(path: pathlib.Path | str) -> list[pathlib.Path]:
    """The folders of sets (Split/FF, Split/FP) that a path to CFP's Protocol, or to one of them, means; or none.

    The folder that holds Protocol means Protocol.
    """
    path = pathlib.Path(path)
    if path.name in PROTOCOL_SETS and _is_protocol(path.absolute().parent.parent):
        return [path]
    for protocol in (path, path / "Protocol"):
        if _is_protocol(protocol):
            return [protocol / "Split" / name for name in PROTOCOL_SETS if (protocol / "Split" / name).is_dir()]
    return []


def _is_protocol(folder):
    return (folder / PROTOCOL_LISTS["F"]).is_file() and (folder / "Split").is_dir()


def read_protocol(folder: pathlib.Path) -> ListedPairs:
    """The ListedPairs of Split/FF (frontal against frontal faces) or Split/FP (frontal against profile ones) of CFP.

    A fold is a folder with same.txt and diff.txt, lines "a,b": numbers of the images in Pair_list_F.txt and, of the
    second image in FP, in Pair_list_P.txt. Source: the README of CFP (Sengupta et al. 2016). UserError for files that
    are missing, and with the line of what is no pair.
    """
    protocol = folder.absolute().parent.parent
    lists = [_protocol_list(protocol / PROTOCOL_LISTS[kind]) for kind in PROTOCOL_SETS[folder.name]]
    folds = sorted(fold for fold in folder.iterdir() if fold.is_dir() and not fold.name.startswith("."))
    if not folds:
        raise UserError(f"{folder}: holds no folds; expected folders 01, 02, ... with same.txt and diff.txt")
    listed = ListedPairs([], [], [], [])
    for number, fold in enumerate(folds):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            for line in list_lines(fold / name):
                first, second = _protocol_pair(line, lists, fold / name)
                for column, value in zip(listed, (first, second, same, number), strict=True):
                    column.append(value)
    return listed


def _protocol_list(path):
    """{number: path of the image} of a Pair_list."""
    images = {}
    for line in list_lines(path):
        words = line.text.split(maxsplit=1)
        if len(words) != 2 or not words[0].isdecimal():
            raise UserError(
                f"{path}, line {line.number}: expected a number and a path, got {shortened(line.text, 80)!r}"
            )
        images[int(words[0])] = from_its_folder(words[1].strip())
    return images


def _protocol_pair(line, lists, path):
    fields = fields_of(line.text)
    if len(fields) != 2 or not all(map(str.isdecimal, fields)):
        raise UserError(f"{path}, line {line.number}: expected two numbers (17,42), got {shortened(line.text, 80)!r}")
    numbers = list(map(int, fields))
    for number, images in zip(numbers, lists, strict=True):
        if number not in images:
            raise UserError(f"{path}, line {line.number}: there is no image {number}; the list has {len(images)}")
    return [images[number] for number, images in zip(numbers, lists, strict=True)]
