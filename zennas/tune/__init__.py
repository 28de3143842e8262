"""The comprehensive search over cleaning, loss and backbone: the command `tune`."""

from zennas.api import make_callable

make_callable(__name__)
