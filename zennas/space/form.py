"""Form: what a space fixes of its networks beyond block and genes, where its family leaves a choice."""

from typing import Annotated, Any

import pydantic

from zennas.records import Record, UserError

Stride = Annotated[int, pydantic.Field(ge=1, le=4)]
Stripes = Annotated[int, pydantic.Field(ge=2, le=16)]
LETTERS = {"strides": "s", "stripes": "p"}
APART = "apart"


class Form(Record):
    """What is left out is the family's own.

    >>> form = Form(strides=(1, 2, 2, 1), apart=True)
    >>> form.text, Form.of_text(form.text) == form
    ('s1.2.2.1+apart', True)
    """

    strides: tuple[Stride, ...] = ()  # by how much each stage shrinks its maps, the last stage of a branch among them
    stripes: tuple[Stripes, ...] = ()  # into how many stripes each part branch cuts its last map
    apart: bool = False  # whether the global branch has widths and depths of its own

    @property
    def text(self) -> str:
        """As it stands in the text of a candidate."""
        lists = [f"{letter}{'.'.join(map(str, getattr(self, name)))}" for name, letter in LETTERS.items()]
        return "+".join([word for word in lists if len(word) > 1] + [APART] * self.apart)

    @classmethod
    def of_text(cls, text: str) -> "Form":
        """The Form of a `text`."""
        names, fields = {letter: name for name, letter in LETTERS.items()}, {}
        for word in text.split("+"):
            if word == APART:
                fields["apart"] = True
            else:
                fields[names[word[0]]] = tuple(map(int, word[1:].split(".")))
        return cls(**fields)

    def plain(self) -> dict[str, Any]:
        """The mapping that files hold: what is not the family's own."""
        held = {name: list(getattr(self, name)) for name in LETTERS} | {"apart": self.apart}
        return {name: value for name, value in held.items() if value}

    def only(self, allowed: tuple[str, ...], family: str) -> None:
        """UserError where it says something that a family leaves no choice in."""
        for name in self.plain():
            if name not in allowed:
                choice = f"allowed: {', '.join(allowed)}" if allowed else "it has no such choice"
                raise UserError(f"form: given '{name}', but family '{family}' does not know it; {choice}")
