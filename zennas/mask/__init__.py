"""Faces -> masked faces: a mask rendered through a fitted 3-D face. Read render.py first."""

from zennas.api import make_callable

make_callable(__name__)
