"""How promising a candidate is, untrained."""

from zennas.api import make_callable

make_callable(__name__)
