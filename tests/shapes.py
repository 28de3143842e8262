"""The shapes that the tests build networks for."""

from zennas.space.shape import Shape


def square(px, embedding_size=512, *, channels=3):
    """The Shape of square images."""
    return Shape(channels=channels, height=px, width=px, embedding_size=embedding_size)


FACE = square(112)  # as ArcFace's networks have it
