"""The commands and their options."""

from typing import Annotated

import typer

from trafficzip.cli.bench import bench
from trafficzip.cli.checkpoint import COMMANDS
from trafficzip.cli.demo import demo
from trafficzip.version import __version__

app = typer.Typer(
    help="Compressed gradient exchange for PyTorch distributed training, and compressed checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
for command in COMMANDS:
    app.command()(command)
app.add_typer(bench, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"trafficzip {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compressed gradient exchange for PyTorch distributed training, and compressed checkpoints."""
