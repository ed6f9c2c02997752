"""Shows the workers' events while they run: a live bar on a terminal, a few plain lines elsewhere."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def show_progress(events: Iterable[dict[str, Any]], num_steps: int, console: Console) -> dict[str, Any]:
    """Follow the events of `launch` to their end; give the result event."""
    return (_show_bars if console.is_terminal else _show_lines)(events, num_steps, console)


def _show_bars(events: Iterable[dict[str, Any]], num_steps: int, console: Console) -> dict[str, Any]:
    result: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:>8}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[phase]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {
            run: progress.add_task(run, total=num_steps, start=False, loss="-", phase="")
            for run in ("dense", "compressed")
        }
        running = "dense"
        progress.update(tasks[running], phase="starting workers")
        for event in events:
            if event["event"] == "phase":
                training = event["text"].startswith("training")
                running = "compressed" if "codec" in event["text"] else running
                progress.update(tasks[running], phase="" if training else event["text"])
                if training:
                    progress.start_task(tasks[running])
            elif event["event"] == "step":
                progress.update(tasks[event["run"]], completed=event["step"], loss=f"{event['loss']:.4f}")
                if event["step"] == num_steps:
                    progress.stop_task(tasks[event["run"]])
            else:
                result = event
    return result


def _show_lines(events: Iterable[dict[str, Any]], num_steps: int, console: Console) -> dict[str, Any]:
    result: dict[str, Any] = {}
    shown = 0
    console.print("starting workers")
    for event in events:
        if event["event"] == "phase":
            console.print(event["text"], highlight=False)
            shown = 0
        elif event["event"] == "step":
            quarter = 4 * event["step"] // num_steps
            if quarter > shown:
                shown = quarter
                console.print(f"  step {event['step']}/{num_steps}, loss {event['loss']:.4f}", highlight=False)
        else:
            result = event
    return result
