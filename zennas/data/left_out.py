"""What of a data set is not used: counted by reason, the first of each named, told in one line."""

import collections
import os
from collections.abc import Collection

# Names that programs and systems leave beside a user's files; compared in lower case.
OF_OTHERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
# What our own commands write beside the images that they make: there it is nobody's data either.
RUN = "run.json"
OF_OURS = frozenset({RUN, "report.html", "passed-over.csv", "identities.txt"})
NAMED = 3  # of what is left out for one reason
# The reasons, as the line says them.
HIDDEN = "hidden or system files"
NO_IMAGE = "files without an image's suffix"
EMPTY = "empty files"
DEAD_LINK = "links that lead to no image"
LOOSE = "images in no identity's folder"
DEEPER = "images deeper than the identities' folders"
UNREADABLE = "files that cannot be read"
REPLACED = "members that a later one of the same name replaces"
NO_IMAGE_RECORD = "records without an image"
BESIDE = "files and folders beside what is read"
UNLISTED = "records that the .idx does not list"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data: it begins with a dot, or a system left it there.

    >>> is_hidden("._Zoe_0001.jpg"), is_hidden("__MACOSX"), is_hidden(".."), is_hidden("Zoe")
    (True, True, False, False)
    """
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in OF_OTHERS


def is_of_a_run(name: str, names: Collection[str]) -> bool:
    """Whether a file beside others of these names is what a run of our own wrote there.

    >>> [is_of_a_run("align.log", names) for names in (("align.log", "run.json"), ("align.log",))]
    [True, False]
    """
    return RUN in names and (name in OF_OURS or name.endswith((".log", ".parquet")))


class LeftOut:
    """Counts what is not used; `plain` is what an index keeps, `line_of` what a command says."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}
        self._suffixes: collections.Counter[str] = collections.Counter()

    def add(self, reason: str, name: str, num: int = 1) -> None:
        """Count `num` more for this reason, such as the one called `name`."""
        self._counts[reason] = self._counts.get(reason, 0) + num
        if reason == NO_IMAGE:
            self._suffixes[os.path.splitext(name)[1].lower() or "no suffix"] += num
        elif len(names := self._names.setdefault(reason, [])) < NAMED:
            names.append(name)

    def plain(self) -> dict[str, list]:
        """{reason: [how many, the first of them]}; of names that are no image's, their suffixes with their counts."""
        suffixes = sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0]))
        names = self._names | {NO_IMAGE: [f"{suffix} {num:,}" for suffix, num in suffixes]}
        return {reason: [num, names[reason]] for reason, num in self._counts.items()}

    def aside(self) -> str:
        """`line_of` in brackets, for an error; nothing where nothing was left out."""
        line = line_of(self.plain())
        return f" ({line})" if line else ""


def line_of(plain: dict[str, list]) -> str | None:
    """What LeftOut.plain holds, in one line; None where nothing was left out.

    >>> line_of({EMPTY: [2, ["Ada/1.jpg", "Ada/2.jpg"]], NO_IMAGE: [1, [".txt 1"]]})
    "not used: 2 empty files (Ada/1.jpg, Ada/2.jpg); 1 files without an image's suffix (.txt 1)"
    >>> line_of({}) is None
    True
    """
    told = []
    for reason, (num, names) in plain.items():
        more = f" and {num - len(names):,} more" if reason != NO_IMAGE and num > len(names) else ""
        told.append(f"{num:,} {reason} ({', '.join(names)}{more})")
    return "not used: " + "; ".join(told) if told else None
