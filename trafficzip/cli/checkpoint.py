"""`trafficzip compress`, `decompress`, `inspect`, `verify`, `diff`: checkpoints on the command line."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trafficzip.cli import require
from trafficzip.errors import ConfigError, TrafficzipError

_WIDTH = 120  # of tables where the output is no terminal
Input = Annotated[Path, typer.Argument(help="safetensors, PyTorch, NumPy, GGUF or ONNX file, or a folder.")]
Compressed = Annotated[Path, typer.Argument(help="Compressed checkpoint.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads [default: one per CPU].")]
BaseFile = Annotated[Path | None, typer.Option("--base", help="Earlier checkpoint that differences are from.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def compress(
    source: Input,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File, or folder for a folder.")] = None,
    recipe: Annotated[
        str, typer.Option(help="lossless, near-lossless, balanced, small, tiny, or a TOML file.")
    ] = "balanced",
    target_bits: Annotated[float | None, typer.Option(help="Bits of the whole file per parameter.")] = None,
    target_size: Annotated[str | None, typer.Option(help="Largest size of the file, such as 8.5MB.")] = None,
    max_error: Annotated[float | None, typer.Option(help="Largest relative error of the quantized weights.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="module:function that gives Gram matrices of inputs, by name of a weight.")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="Most that --evaluate may lose; sets the size.")] = None,
    evaluate: Annotated[
        str | None, typer.Option(help="module:function of tensors by name that gives a number, more being better.")
    ] = None,
    base: BaseFile = None,
    keep_non_finite: Annotated[bool, typer.Option(help="Keep tensors with NaN or Inf losslessly.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Report what would happen to each tensor; write nothing.")] = False,
    threads: Threads = None,
) -> None:
    """Compress a checkpoint."""
    from trafficzip.checkpoint.folder import compress_folder
    from trafficzip.checkpoint.save import plan, save
    from trafficzip.cli.checkpoint_tables import plan_table, summary

    with _failing():
        chosen = _recipe(recipe, target_bits, target_size, max_error, keep_non_finite)
        if dry_run:
            with _waiting("planning"):
                planned = plan(source, chosen, num_threads=threads)
            _console().print(plan_table(*planned))
            return
        if output is None:
            raise ConfigError("no output: expected --output FILE, or --dry-run")
        grams = None if calibrate is None else load_function(calibrate, "--calibrate")()
        if source.is_dir():
            if grams is not None or max_drop is not None or base is not None:
                raise ConfigError("--calibrate, --max-drop and --base are for one file; name the file in the folder")
            with _bar("compressing") as advance:
                saved = compress_folder(source, output, chosen, num_threads=threads, progress=advance)
        else:
            allocation = None
            if max_drop is not None or evaluate is not None:
                allocation = _for_accuracy(source, chosen, evaluate, max_drop, grams, threads)
            with _bar("compressing") as advance:
                saved = save(
                    source,
                    output,
                    chosen,
                    grams=grams,
                    allocation=allocation,
                    base=base,
                    num_threads=threads,
                    progress=advance,
                )
        _console().print(summary(saved, output), highlight=False)


def decompress(
    source: Compressed,
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file, or folder for a folder.")],
    base: BaseFile = None,
    threads: Threads = None,
) -> None:
    """Write the tensors of a compressed checkpoint as safetensors."""
    from trafficzip.checkpoint.folder import decompress_file, decompress_folder

    with _failing(), _bar("decompressing") as advance:
        if source.is_dir():
            decompress_folder(source, output, num_threads=threads, progress=advance)
        else:
            decompress_file(source, output, base=base, num_threads=threads, progress=advance)


def inspect(
    path: Compressed,
    as_json: AsJson = False,
    original: Annotated[Path | None, typer.Option(help="What it was made of, to show errors.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw bits of each tensor into this PNG.")] = None,
) -> None:
    """Show what a compressed checkpoint holds."""
    from trafficzip.checkpoint.inspect import differences
    from trafficzip.checkpoint.inspect import inspect as report_of
    from trafficzip.cli.checkpoint_tables import file_table

    with _failing():
        report = report_of(path)
        errors = {}
        if original is not None:
            errors = {found.name: found for found in differences(original, path)}
        if as_json:
            found = report.to_dict()
            for tensor in found["tensors"]:
                if tensor["name"] in errors:
                    tensor["relative_error"] = _finite(errors[tensor["name"]].relative_error)
            print(json.dumps(found, indent=2, allow_nan=False))
        else:
            _console().print(file_table(report, errors, str(path)))
        if plot is not None:
            require("matplotlib", extra="demo")
            from trafficzip.report.checkpoint_plot import plot_file

            plot_file(report, plot)


def verify(path: Compressed, base: BaseFile = None, threads: Threads = None) -> None:
    """Decode everything in a compressed checkpoint and check it."""
    from trafficzip.checkpoint.open import open_checkpoint

    with _failing(), open_checkpoint(path, base=base, num_threads=threads) as file:
        file.verify()
        _console().print(f"{path}: {len(file)} tensors, {file.size} bytes, all sound", highlight=False)


def diff(
    first: Annotated[Path, typer.Argument(help="Any checkpoint, compressed or not.")],
    second: Annotated[Path, typer.Argument(help="Any checkpoint, compressed or not.")],
    as_json: AsJson = False,
) -> None:
    """Compare the tensors of two checkpoints; exit with 1 where any bit differs."""
    from trafficzip.checkpoint.inspect import differences
    from trafficzip.cli.checkpoint_tables import difference_table

    with _failing():
        found = list(differences(first, second))
    if as_json:
        plain = [{name: _finite(value) for name, value in asdict(d).items()} for d in found]
        print(json.dumps(plain, indent=2, allow_nan=False))
    else:
        _console().print(difference_table(found, str(first), str(second)))
    if not all(d.equal for d in found):
        raise typer.Exit(1)


def _with_extra(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command, which says what to install where the extra is missing."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        require("ml_dtypes", "safetensors", extra="checkpoint")
        command(*arguments, **options)

    return run


COMMANDS = tuple(_with_extra(command) for command in (compress, decompress, inspect, verify, diff))


def _for_accuracy(
    source: Path, recipe: Any, evaluate: str | None, max_drop: float | None, grams: Any, threads: int | None
) -> Any:
    from trafficzip.checkpoint.accuracy import allocate_for_accuracy
    from trafficzip.checkpoint.save import as_source

    if evaluate is None or max_drop is None:
        raise ConfigError("--max-drop and --evaluate are given together")
    console = Console(stderr=True)

    def told(bits: float, drop: float) -> None:
        console.print(f"{bits:.3f} bits per element: lost {drop:.6g}", highlight=False)

    function = load_function(evaluate, "--evaluate")
    with as_source(source) as opened:
        return allocate_for_accuracy(
            opened, recipe, function, max_drop, num_threads=threads or os.cpu_count() or 1, grams=grams, told=told
        )


def load_function(name: str, option: str) -> Callable[..., Any]:
    """Import what module:function names; modules are looked for in the current folder first.

    Raises:
        ConfigError: there is no such function.
    """
    module, _, function = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{option} {name}: {error}; expected module:function") from error
    if not callable(found):
        raise ConfigError(f"{option} {name}: is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


def _recipe(name: str, bits: float | None, size: str | None, error: float | None, keep: bool) -> Any:
    from dataclasses import replace

    from trafficzip.checkpoint.recipe_file import read_recipe
    from trafficzip.checkpoint.save import recipe_of

    recipe = read_recipe(name) if name.endswith(".toml") else recipe_of(name)
    if bits is not None or size is not None or error is not None:
        recipe = replace(recipe, bits=bits, size=None if size is None else _bytes(size), max_error=error)
    return replace(recipe, non_finite="keep") if keep else recipe


def _bytes(text: str) -> int:
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number = text.strip().rstrip("BKMGIbkmgi")
    unit = text.strip()[len(number) :].upper()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise ConfigError(f"size {text!r}: expected a number of bytes, such as 8500000, 8.5MB or 8MiB") from error


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold."""
    return None if isinstance(value, float) and not isfinite(value) else value


@contextmanager
def _failing() -> Iterator[None]:
    """Turn errors of the library into one line and an exit code: 2 for wrong arguments, 1 for damaged files."""
    try:
        yield
    except TrafficzipError as error:
        _say(error)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
    except OSError as error:
        _say(error)
        raise typer.Exit(1) from error


def _say(error: Exception) -> None:
    print(f"trafficzip: {error}", file=sys.stderr)


def _console() -> Console:
    console = Console(markup=False, emoji=False)  # a name may hold [brackets] or :colons:
    return console if console.is_terminal else Console(width=_WIDTH, markup=False, emoji=False)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    with Console(stderr=True).status(what):
        yield


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; the total is not known before the first call, so it shows what is done."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,} elements"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.advance(task, count)
