"""Data moves one way and so do imports: modules import from lower layers and from their own package only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "trafficzip"
LAYERS = [  # a module may import from lower rows, and from its own entry
    {"errors", "version"},
    {"metrics"},
    {"kernels", "wire"},
    {"quantizers", "codecs"},
    {"compressor", "error_feedback"},
    {"presets", "gpu"},
    {"comm", "checkpoint"},
    {"ddp", "fsdp", "local_sgd", "report"},
    {"demo"},
    {"cluster"},
    {"cli"},
]
OWNERS = {  # these packages are imported in these places only
    "numba": "kernels/numba_cpu",
    "llvmlite": "kernels/numba_cpu",
    "triton": ("kernels/triton_gpu", "gpu/__init__"),
    "rich": ("cli", "report"),
    "typer": "cli",
    "jinja2": "report",
    "matplotlib": "report",
    "sklearn": "demo",
    "safetensors": "checkpoint/sources",
    "gguf": "checkpoint/sources",
    "onnx": "checkpoint/sources",
    "ml_dtypes": "checkpoint/tensors",
    "isal": "wire/checksum",
    "zstandard": "checkpoint/coders/general",
}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(ROOT.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    place = path.relative_to(ROOT).as_posix()
    own = place.split("/")[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        for owner in (
            OWNERS.get(top, ()) if isinstance(OWNERS.get(top), tuple) else (OWNERS[top],) if top in OWNERS else ()
        ):
            if place.startswith(owner):
                break
        else:
            assert top not in OWNERS, f"{place} imports {top}"
        if name.startswith("torch.distributed"):
            assert own in ("cluster", "comm", "ddp", "demo", "fsdp", "local_sgd"), f"{place} imports {name}"
        if top == "trafficzip" and rest and rest[0] in LEVEL and own in LEVEL and rest[0] != own:
            assert LEVEL[rest[0]] < LEVEL[own], f"{place} imports {name}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) <= 330


def test_only_cli_prints():
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] == "cli":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path


def test_importing_the_package_loads_no_heavy_module():
    heavy = ("torch", "numba", "triton", "rich", "matplotlib", "jinja2")
    code = f"import sys, trafficzip; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_importing_ddp_compiles_nothing():
    code = "import sys, trafficzip.ddp; print('numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_format_ids_equal_the_tables():
    from trafficzip.codecs import CODECS
    from trafficzip.quantizers import QUANTIZERS

    text = (ROOT / "wire" / "FORMAT.md").read_text()
    rows = {}
    for section, table in (("## 3.", QUANTIZERS), ("## 4.", CODECS)):
        part = (
            text[text.index(section) :].split("\n## ", 1)[0]
            if section == "## 4."
            else text[text.index(section) : text.index("## 4.")]
        )
        ids = {
            int(line.split("|")[1])
            for line in part.splitlines()
            if line.startswith("| ") and line.split("|")[1].strip().isdigit()
        }
        assert ids == set(table)
        rows[section] = ids
        for stage_id, stage in table.items():
            assert stage_id == (stage.codec_id if section == "## 4." else stage.quantizer_id)
    assert all(rows.values())


def test_public_names_exist():
    import trafficzip

    assert all(hasattr(trafficzip, name) for name in trafficzip.__all__)
