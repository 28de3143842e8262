"""How good: any network on any set, by the protocol that the set is known for."""

from zennas.api import make_callable

make_callable(__name__)
