"""`trafficzip demo`: the same training twice on this machine, dense and compressed, beside each other."""

import json
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trafficzip.cli import require
from trafficzip.cli.progress import show_progress
from trafficzip.demo.launch import launch
from trafficzip.demo.settings import COMPRESSORS, EXCHANGES, RECIPES, Settings
from trafficzip.demo.summary import footnotes, make_rows, sent_bytes
from trafficzip.errors import ConfigError, TrafficzipError
from trafficzip.report.table import traffic_table
from trafficzip.version import __version__

_WIDTH = 100  # of the table where the output is no terminal


def demo(
    workers: Annotated[int, typer.Option(help="Worker processes on this machine.")] = 2,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Steps of each training [default: {', '.join(f'{r.steps} {n}' for n, r in RECIPES.items())}]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of both trainings.")] = 0,
    compressor: Annotated[str, typer.Option(help=f"One of {', '.join(COMPRESSORS)}.")] = "three_lc_rans",
    multiplier: Annotated[
        float | None, typer.Option(help="Sparsity multiplier, in [0.5, 2): larger sends less [default: 1].")
    ] = None,
    exchange: Annotated[str, typer.Option(help=f"One of {', '.join(EXCHANGES)}.")] = "auto",
    data: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = "digits",
    path: Annotated[Path | None, typer.Option(help="Folder with CIFAR-10's image arrays.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for demo.json, demo.png and demo.log.")] = Path("trafficzip-demo"),
) -> None:
    """Train a small network twice with local workers, dense and compressed, and compare accuracy and traffic."""
    require("matplotlib", "sklearn", extra="demo")  # now, not after the training
    try:
        settings = Settings(
            data=data,
            path=None if path is None else str(path.resolve()),
            workers=workers,
            steps=steps,
            seed=seed,
            compressor=compressor,
            multiplier=multiplier,
            exchange=exchange,
        )
        identical = run_demo(settings, out)
    except ConfigError as error:
        _fail(error, 2)
    except (TrafficzipError, OSError) as error:
        _fail(error, 1)
    if not identical:
        raise typer.Exit(1)


def run_demo(settings: Settings, out: Path) -> bool:
    """Run the workers, write the files and show the table; say whether all ranks ended bit-identical."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    out.mkdir(parents=True, exist_ok=True)
    with closing(launch(settings, out / "demo.log")) as events:
        result = show_progress(events, settings.num_steps, console)
    results = {name: result[name] for name in ("dense", "compressed")}
    title = (
        f"{settings.data}, {results['dense']['num_elements']:,} parameters, {settings.workers} workers, "
        f"{settings.num_steps} steps, {settings.compressor}"
    )
    _write_json(out / "demo.json", settings, result)
    _write_plot(out / "demo.png", results, title)
    console.print()
    console.print(traffic_table(make_rows(results), title=title))
    for note in footnotes(results):
        console.print(note, style="bold red" if note.startswith("WARNING") else "dim", highlight=False)
    console.print(f"\nWritten: {out / 'demo.json'}, {out / 'demo.png'}", highlight=False, soft_wrap=True)
    return all(run["identical"] for run in results.values())


def _write_json(path: Path, settings: Settings, result: dict[str, Any]) -> None:
    results = {name: result[name] for name in ("dense", "compressed")}
    record = {
        "trafficzip": __version__,
        "settings": settings.to_dict() | {"steps": settings.num_steps},
        "recipe": {name: getattr(settings.recipe, name) for name in settings.recipe.__slots__},
        "compressor": settings.make_compressor().to_dict(),
        "environment": result["environment"],
        "rows": {row.name: _plain(row) for row in make_rows(results)},
        "notes": footnotes(results),
        "runs": results,
    }
    path.write_text(json.dumps(_finite(record), indent=1, allow_nan=False) + "\n")


def _write_plot(path: Path, results: dict[str, Any], title: str) -> None:
    from trafficzip.report.plot import Curve, save_plot  # here: importing matplotlib takes a second or two

    curves = [
        Curve(name=name, losses=result["losses"], sent_bytes=sent_bytes(result)) for name, result in results.items()
    ]
    counted = all(result["wire_bytes"] is not None for result in results.values())
    where = "on the loopback interface" if counted else "sent, as computed"
    save_plot(curves, path, title=title, bytes_title=f"cumulative bytes {where}")


def _plain(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold: the losses of a training that diverged."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fail(error: Exception, status: int) -> None:
    print(f"trafficzip demo: {error}", file=sys.stderr)
    raise typer.Exit(status)
