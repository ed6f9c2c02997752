"""What every worker process needs: it tells why it failed, and leaves with the process that started it."""

import os
import platform
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from trafficzip.errors import TrafficzipError


def tell_errors(tell: Callable[[str], None]) -> None:
    """Hand the text of an uncaught error to `tell`; its traceback goes to the log."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        tell(str(error) if issubclass(kind, TrafficzipError) else f"{kind.__name__}: {error}")
        traceback.print_exception(kind, error, trace)

    sys.excepthook = report


def leave_with_parent() -> None:
    """From now on, leave as soon as the launching process closes its end of our standard input, or is gone."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
