"""Would the challenge accept it? Every rule with its measured value and verdict, then the zip: the command `submit`."""

from zennas.api import make_callable

make_callable(__name__)
