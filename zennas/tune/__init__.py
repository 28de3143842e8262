"""The comprehensive search of a recipe: the command `tune`."""

from zennas.api import make_callable

make_callable(__name__)
