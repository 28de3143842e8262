"""How good, in numbers: pure functions over arrays of similarities and embeddings, without files or networks."""
