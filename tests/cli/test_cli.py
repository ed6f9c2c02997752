import subprocess
import sys

import pytest

from trafficzip import cli
from trafficzip.version import __version__


def run(*arguments):
    command = [sys.executable, "-m", "trafficzip.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"trafficzip {__version__}\n", "")


def test_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "typer" else True)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "needs typer: pip install 'trafficzip[checkpoint]'" in capsys.readouterr().err


def test_commands_for_checkpoints_need_nothing_of_the_demo(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in ("matplotlib", "sklearn") else True)
    monkeypatch.setattr(sys, "argv", ["trafficzip", "compress", "--help"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    monkeypatch.setattr(sys, "argv", ["trafficzip", "demo"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "needs matplotlib, sklearn: pip install 'trafficzip[demo]'" in capsys.readouterr().err


def test_starting_the_command_imports_no_torch():
    program = (
        "import sys, trafficzip.cli.app; print([m for m in ('torch', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
