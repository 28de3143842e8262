"""Families: what the genes of a candidate are. One row of FAMILIES (table.py) is all that a new family takes."""
