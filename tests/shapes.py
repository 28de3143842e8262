"""The shapes that the tests build networks for."""

from zennas.space.candidate import Candidate
from zennas.space.families.table import divisor_of
from zennas.space.shape import Shape


def divisor(block, num_stages):
    """By how much a chain of a block shrinks each side of an image before its neck."""
    return divisor_of(Candidate(block=block, stem=8, widths=(8,) * num_stages, depths=(1,) * num_stages))


def square(px, embedding_size=512, *, channels=3):
    """The Shape of square images."""
    return Shape(channels=channels, height=px, width=px, embedding_size=embedding_size)


FACE = square(112)  # as ArcFace's networks have it
