"""Winners -> trained networks: the command `train`."""

from zennas.api import make_callable

make_callable(__name__)
