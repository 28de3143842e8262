"""Shape: what goes into a network and what comes out of it, as one value."""

from typing import Annotated, Any

import pydantic

from zennas.records import Record

MOST = 2**16  # channels, numbers of an embedding, pixels of a side, blocks: far beyond what is built
Count = Annotated[int, pydantic.Field(ge=1, le=MOST)]
LEAST_PX = 8  # of an image's side, in a file


class Shape(Record):
    """Images of channels x height x width go in, an embedding of so many numbers comes out.

    >>> person = Shape(channels=3, height=384, width=128, embedding_size=512)
    >>> person.image, person.text
    ((3, 384, 128), '384x128 px, 512-d')
    """

    channels: Count  # of an image: 3 are RGB, 1 is grey
    height: Count  # pixels
    width: Count
    embedding_size: Count

    @property
    def image(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.channels, self.height, self.width

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) of an image."""
        return self.height, self.width

    @property
    def text(self) -> str:
        """The shape for people; channels are left out where they are RGB."""
        grey = "" if self.channels == 3 else f"{self.channels} channel{'s' if self.channels > 1 else ''}, "
        return f"{grey}{px_text(self.hw)} px, {self.embedding_size}-d"

    def plain(self) -> dict[str, Any]:
        """The mapping that files hold; those of old say nothing of channels, which were three."""
        sizes = {"image_px": side_or_sides(self.hw), "embedding_size": self.embedding_size}
        return sizes if self.channels == 3 else sizes | {"channels": self.channels}

    def sized(self, hw: tuple[int, int]) -> "Shape":
        """The same Shape for images of another (height, width)."""
        return self.model_copy(update={"height": hw[0], "width": hw[1]})


def side_or_sides(hw: tuple[int, int]) -> int | list[int]:
    """What a file holds for (height, width): the side of a square, else [height, width].

    >>> side_or_sides((112, 112)), side_or_sides((384, 128))
    (112, [384, 128])
    """
    return hw[0] if hw[0] == hw[1] else list(hw)


def px_text(hw: tuple[int, int]) -> str:
    """(height, width) as one word, for people, tables and options: the side of a square, or HEIGHTxWIDTH.

    >>> px_text((112, 112)), px_text((384, 128))
    ('112', '384x128')
    """
    return f"{hw[0]}" if hw[0] == hw[1] else f"{hw[0]}x{hw[1]}"


def sides(hw: tuple[int, int]) -> str:
    """(height, width) in a sentence.

    >>> sides((256, 128))
    '256 x 128'
    """
    return f"{hw[0]} x {hw[1]}"


def px_cell(hw: tuple[int, int]) -> int | str:
    """(height, width) as JSON has it: a number where it is a square, else as `px_text`."""
    return hw[0] if hw[0] == hw[1] else px_text(hw)


def parsed_px(text: str) -> tuple[int, int]:
    """(height, width) of what `px_text` writes; ValueError where it is something else.

    >>> parsed_px("112"), parsed_px("384x128")
    ((112, 112), (384, 128))
    """
    sizes = [int(side) if side.isdecimal() else 0 for side in text.strip().lower().split("x")]
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise ValueError(f"given '{text}', allowed: a whole number, 1 or more, or HEIGHTxWIDTH")
    return sizes[0], sizes[-1]


def height_and_width(px: Any) -> tuple[int, int]:
    """(height, width) of a side, or of two sides.

    >>> height_and_width(112), height_and_width([384, 128])
    ((112, 112), (384, 128))
    """
    height, width = (px, px) if isinstance(px, int) else px
    return height, width


def _image_px(least):
    """A validator of `image_px` in a file: a side, or [height, width]; both `least` or more."""

    def checked(px):
        values = px if isinstance(px, list | tuple) else [px, px]
        if len(values) != 2 or any(type(side) is not int or not least <= side <= MOST for side in values):
            raise ValueError(f"a whole number from {least} to {MOST}, or [height, width] of such numbers")
        return values[0] if len(set(values)) == 1 else tuple(values)

    number = {"type": "integer", "minimum": least, "maximum": MOST}
    pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    return pydantic.PlainValidator(checked, json_schema_input_type=Any), pydantic.WithJsonSchema(
        {"anyOf": [number, pair]}
    )


ImagePx = Annotated[Any, *_image_px(1)]  # pixels: the side of square images, or [height, width]


class Sized(Record):
    """What a file says of a Shape. Its defaults are those of aligned faces, the only shape of the oldest files."""

    image_px: Annotated[Any, *_image_px(LEAST_PX)] = 112  # the side of square images, or [height, width]
    channels: Count = 3
    embedding_size: Count = 512

    @property
    def shape(self) -> Shape:
        """The Shape."""
        height, width = height_and_width(self.image_px)
        return Shape(channels=self.channels, height=height, width=width, embedding_size=self.embedding_size)


def without_defaults(values: dict, record: type[Record], names: Any) -> dict:
    """The values of a dumped record without those of `names` that are its defaults: files of old lack these keys."""
    return {
        key: value for key, value in values.items() if key not in names or value != record.model_fields[key].default
    }


DEFAULT_HW = Sized().shape.hw  # of images where nothing says their size
