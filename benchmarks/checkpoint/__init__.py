"""Compressed checkpoints beside other formats: models, what they are worth after decoding, peers."""
