"""How fast, measured: protocols, backends, the table of block latencies, and budgets that travel between machines."""

from zennas.api import make_callable

make_callable(__name__)
