"""The coders of checkpoint tensors."""
