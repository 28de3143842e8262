"""How promising a candidate is, untrained."""
