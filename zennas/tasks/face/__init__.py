"""Faces of people: margin losses over class centres, distillation, verification by pairs."""
