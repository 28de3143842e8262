"""People or faces in an index; a picture of one of them -> a ranked list."""

from zennas.api import make_callable

make_callable(__name__)
