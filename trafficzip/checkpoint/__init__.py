"""Compressed checkpoints: quantized, entropy-coded files of a model's tensors."""
