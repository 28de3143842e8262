"""Faces -> embeddings, by a trained network of any origin; asked once per image, and kept."""
