"""Trellis-coded quantization with tables shared by the whole file (FORMAT.md, trellis)."""
