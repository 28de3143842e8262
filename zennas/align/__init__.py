"""Photographs -> aligned faces: found, moved to ArcFace's template, judged. Read run.py first."""

from zennas.api import make_callable

make_callable(__name__)
