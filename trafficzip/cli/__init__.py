"""The `trafficzip` command. Its parts need the `demo` extra; this module only says so where it is missing."""

import sys
from importlib.util import find_spec

_NEEDED = ("matplotlib", "rich", "sklearn", "typer")


def main() -> None:
    """Run the command line."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"trafficzip: the command line needs {', '.join(missing)}: pip install 'trafficzip[demo]'", file=sys.stderr
        )
        sys.exit(2)
    from trafficzip.cli.app import app

    app()
