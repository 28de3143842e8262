"""Faces as the rooms below share them: where they lie, how they are decoded and augmented, streamed and paired."""
