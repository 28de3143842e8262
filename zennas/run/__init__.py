"""The whole way without hands: a search, then its best winner trained: the command `run`."""

from zennas.api import make_callable

make_callable(__name__)
