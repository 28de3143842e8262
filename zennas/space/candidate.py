"""Candidate: the architecture of one backbone, as a value."""

import functools
import hashlib
import pathlib
import shlex
import sys
from typing import Any

import pydantic

from zennas.records import Record, UserError, parse_yaml
from zennas.space.form import Form
from zennas.space.genes import genes_of_stages
from zennas.space.shape import Count, without_defaults

Width = Depth = Count


class Candidate(Record):
    """A stem and some stages of blocks; the first block of every stage shrinks its maps, by its family's stride.

    A user writes it as YAML by hand:
    `{block: ir_se, stem: 64, widths: [64, 128, 256, 512], depths: [3, 13, 30, 3]}`.

    >>> ir_se_50 = Candidate(block="ir_se", stem=64, widths=(64, 128, 256, 512), depths=(3, 4, 14, 3))
    >>> ir_se_50.text, ir_se_50.num_blocks
    ('ir_se-64-64x3-128x4-256x14-512x3', 24)
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ignored_types=(functools.cached_property,))

    family: str = "chain"  # a row of FAMILIES
    form: Form | None = None  # what the family leaves a choice in; None: the family's own
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

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(self, handler):
        held = without_defaults(handler(self), type(self), ("family", "form"))
        return held if self.form is None else held | {"form": self.form.plain()}

    @pydantic.field_validator("form")
    @classmethod
    def _one_way_to_say_it(cls, form):
        return form if form is not None and form.plain() else None

    def model_copy(self, *, update: dict | None = None, deep: bool = False) -> "Candidate":
        """A changed copy, with a text and a key of its own; pydantic's would carry the cached ones along."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | (update or {}))

    @functools.cached_property
    def text(self) -> str:
        """The canonical form: equal candidates have equal texts, and the text says it all."""
        stages = (f"{width}x{depth}" for width, depth in zip(self.widths, self.depths, strict=True))
        return "-".join([self.kind, str(self.stem), *stages])

    @property
    def kind(self) -> str:
        """Its block, behind its family and form where that is no chain: `ir_se`, `mgn/ir_se`, `mgn+p2.4/ir_se`."""
        return kind_of(self.family, self.block, self.form)

    @classmethod
    def of_kind(cls, kind: str, **fields: Any) -> "Candidate":
        """The Candidate of a `kind` with these fields."""
        whole, _, block = kind.rpartition("/")
        family, _, form = whole.partition("+")
        return cls(family=family or "chain", form=Form.of_text(form) if form else None, block=block, **fields)

    @functools.cached_property
    def key(self) -> str:
        """A short hash of the canonical form: 16 hexadecimal digits (a clash among a million candidates: 3 in 10^8)."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def genes(self) -> tuple[int, ...]:
        """The vector of its numbers, in the order of Space.genes."""
        return genes_of_stages(len(self.widths)).vector(stem=self.stem, widths=self.widths, depths=self.depths)

    @property
    def trunk(self) -> tuple[int, ...]:
        """What it has in common with those that differ in the last width and the last two depths alone."""
        return genes_of_stages(len(self.widths)).trunk(self.genes)

    @property
    def num_blocks(self) -> int:
        return sum(self.depths)

    def plain(self) -> dict:
        """The mapping that YAML and JSON hold."""
        fields = {"block": self.block, "stem": self.stem, "widths": list(self.widths), "depths": list(self.depths)}
        form = {} if self.form is None else {"form": self.form.plain()}
        return form | fields if self.family == "chain" else {"family": self.family} | form | fields


def kind_of(family: str, block: str, form: Form | None = None) -> str:
    """A block behind its family and form, but where that is the chain.

    >>> kind_of("chain", "ir_se"), kind_of("mgn", "bottleneck")
    ('ir_se', 'mgn/bottleneck')
    """
    whole = family if form is None else f"{family}+{form.text}"
    return block if whole == "chain" else f"{whole}/{block}"


def read_candidates(source: str) -> "list[tuple[str, Candidate]]":
    """[(name, Candidate)] from a file, or from standard input where source is '-'.

    The text is one YAML candidate, a YAML or JSON list of them, a mapping from names to candidates, or one JSON (or
    YAML flow) candidate per line. UserError says which entry of which file is wrong.
    """
    if source == "-":
        text, where = sys.stdin.read(), "standard input"
    else:
        try:
            text, where = pathlib.Path(source).read_text(encoding="utf-8"), source
        except OSError as error:
            raise UserError(f"{source}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UserError(
                f"{source}: is no text; a candidate is YAML or JSON, such as {EXAMPLE}; that of a network's weights is "
                f"written by: python -m zennas.export --model {shlex.quote(str(source))}"
            ) from None
    lines = {
        number: line for number, line in enumerate(text.splitlines(), start=1) if line.strip()[:1] not in ("", "#")
    }
    if len(lines) > 1 and all(line.strip()[0] == "{" for line in lines.values()):
        values = [
            (f"{where}, line {number}", parse_yaml(line, f"{where}, line {number}")) for number, line in lines.items()
        ]
    else:
        values = [(where, parse_yaml(text, where))]
    entries = [entry for at, value in values for entry in _entries(at, value)]
    if not entries:
        raise UserError(f"{where}: holds no candidate; one looks like {EXAMPLE}")
    return [(at, Candidate.parse(entry, at)) for at, entry in entries]


EXAMPLE = "{block: ir_se, stem: 64, widths: [64, 128, 256, 512], depths: [3, 13, 30, 3]}"


def _entries(at, value):
    """[(where, mapping of one candidate)] in a value: one candidate, a list, or a mapping from names."""
    if value is None:
        return []
    if isinstance(value, list):
        return [entry for index, item in enumerate(value, start=1) for entry in _entries(f"{at}, entry {index}", item)]
    if isinstance(value, dict) and isinstance(value.get("candidate"), dict):  # of winners.json or of `score --json`
        return [(at, value["candidate"])]
    if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        return [entry for name, item in value.items() for entry in _entries(f"{at}, {name}", item)]
    return [(at, value)]
