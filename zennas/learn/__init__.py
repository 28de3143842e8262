"""What each gene is worth on a user's own data, learned from a few trainings: the command `learn`."""

from zennas.api import make_callable

make_callable(__name__)
