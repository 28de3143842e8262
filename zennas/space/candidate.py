"""Candidate: the architecture of one backbone, as a value."""

import functools
import hashlib
import pathlib
import sys
from typing import Annotated

import pydantic

from zennas.records import Record, UserError, parse_yaml

Width = Annotated[int, pydantic.Field(ge=1)]
Depth = Annotated[int, pydantic.Field(ge=1)]


class Candidate(Record):
    """A stem and some stages of blocks; the first block of every stage halves the image.

    Its YAML is what a user writes by hand: `{block: ir_se, stem: 64, widths: [64, 128, 256, 512], depths: [3, 13, 30, 3]}`.

    >>> ir_se_50 = Candidate(block="ir_se", stem=64, widths=(64, 128, 256, 512), depths=(3, 4, 14, 3))
    >>> ir_se_50.text, ir_se_50.num_blocks
    ('ir_se-64-64x3-128x4-256x14-512x3', 24)
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ignored_types=(functools.cached_property,))

    block: str  # a row of BLOCKS
    stem: Width  # channels
    widths: tuple[Width, ...]  # channels of each stage
    depths: tuple[Depth, ...]  # blocks of each stage

    @pydantic.model_validator(mode="after")
    def _one_depth_per_width(self):
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(
                f"as many depths as widths, at least one; given {len(self.widths)} widths and {len(self.depths)} depths"
            )
        return self

    @functools.cached_property
    def text(self):
        """The canonical form: equal candidates have equal texts, and the text says it all."""
        stages = (f"{width}x{depth}" for width, depth in zip(self.widths, self.depths, strict=True))
        return "-".join([self.block, str(self.stem), *stages])

    @functools.cached_property
    def key(self):
        """A short hash of the canonical form: 16 hexadecimal digits (a clash among a million candidates: 3 in 10^8)."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def num_blocks(self):
        return sum(self.depths)

    def plain(self):
        """The mapping that YAML and JSON hold."""
        return {"block": self.block, "stem": self.stem, "widths": list(self.widths), "depths": list(self.depths)}


def read_candidates(source):
    """[(name, Candidate)] from a file, or from standard input where source is '-'.

    The text is one YAML candidate, a YAML or JSON list of them, a mapping from names to candidates, or one JSON (or YAML
    flow) candidate per line. UserError says which entry of which file is wrong.
    """
    if source == "-":
        text, where = sys.stdin.read(), "standard input"
    else:
        try:
            text, where = pathlib.Path(source).read_text(encoding="utf-8"), source
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()[:1] == "{"]
    if lines and all(line.strip()[:1] in ("{", "#", "") for line in text.splitlines()):
        entries = [(f"{where}, line {number}", parse_yaml(line, f"{where}, line {number}")) for number, line in lines]
    else:
        value = parse_yaml(text, where)
        if isinstance(value, list):
            entries = [(f"{where}, entry {index}", entry) for index, entry in enumerate(value, start=1)]
        elif (
            isinstance(value, dict)
            and "block" not in value
            and all(isinstance(entry, dict) for entry in value.values())
        ):
            entries = [(f"{where}, {name}", entry) for name, entry in value.items()]
        else:
            entries = [(where, value)]
    if not entries or entries == [(where, None)]:
        raise UserError(f"{where}: holds no candidate; one looks like {EXAMPLE}")
    return [(at, Candidate.parse(_unwrapped(entry), at)) for at, entry in entries]


EXAMPLE = "{block: ir_se, stem: 64, widths: [64, 128, 256, 512], depths: [3, 13, 30, 3]}"


def _unwrapped(entry):
    """The candidate inside an entry of winners.json or of `score --json`."""
    return entry["candidate"] if isinstance(entry, dict) and isinstance(entry.get("candidate"), dict) else entry
