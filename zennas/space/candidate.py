"""Candidate: the architecture of one backbone, as a value."""

import functools
import hashlib
from typing import Annotated

import pydantic

from zennas.records import Record

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
            raise ValueError(f"as many depths as widths, at least one; given {len(self.widths)} widths and {len(self.depths)} depths")
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
