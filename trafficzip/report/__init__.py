"""Tables and plots from measured rows: `table` needs rich, `plot` needs matplotlib."""
