"""Noisy identities -> clean identities: merged, cleaned between each other and within,
by a network that trains the next one.
"""

from zennas.api import make_callable

make_callable(__name__)
