"""Faces -> masked faces: a mask rendered through a fitted 3-D face. Read render.py first."""
