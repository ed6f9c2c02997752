"""Transports and exchanges: how ranks turn their values into one mean."""
