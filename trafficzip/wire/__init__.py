"""The wire format: frames to bytes and back; FORMAT.md is its definition."""
