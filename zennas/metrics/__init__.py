"""How good, in numbers: pure functions over arrays of similarities and embeddings. Nothing here knows a file or a
network.
"""
