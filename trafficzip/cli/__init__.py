"""The `trafficzip` command. Its parts need extras; this module only says so where one is missing."""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line."""
    require("rich", "typer", extra="checkpoint")
    from trafficzip.cli.app import app

    app()


def require(*names: str, extra: str) -> None:
    """End the process with a line that names the extra where one of these modules is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        print(f"trafficzip: the command needs {', '.join(missing)}: pip install 'trafficzip[{extra}]'", file=sys.stderr)
        sys.exit(2)
