"""`python -m trafficzip.cli` is the `trafficzip` command."""

from trafficzip.cli import main

main()
