"""The walls of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted(path.stem for path in (ROOT / "speech").glob("*.py") if path.stem != "__init__")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_core_imports_without_torch_and_runpod() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'runpod', 'transformers'): sys.modules[name] = None\n"
        + "".join(f"import speech.{name}\n" for name in CORE)
        + "assert not {n.split('.')[0] for n in sys.modules} & {'engines', 'handler', 'config'}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_importing_the_handler_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import threading, os, handler\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert handler.inference.cache_info().currsize == 0\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ENGINE": "nonsense"},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "engines").rglob("*.py")), ids=lambda path: path.name
)
def test_an_engine_imports_no_door_codec_or_delivery(path: Path) -> None:
    forbidden = {
        "handler",
        "server",
        "web",
        "inference",
        "config",
        "speech.codecs",
        "speech.delivery",
    }
    assert not imports(path) & forbidden


@pytest.mark.parametrize("path", sorted((ROOT / "speech").glob("*.py")), ids=lambda path: path.name)
def test_the_core_imports_nothing_above_it(path: Path) -> None:
    above = {"torch", "runpod", "engines", "inference", "handler", "config", "server", "web"}
    assert not {name.split(".")[0] for name in imports(path)} & above


DOORS = [ROOT / "handler.py", ROOT / "server.py", *sorted((ROOT / "web").glob("*.py"))]


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.name)
def test_a_door_imports_no_engine_and_no_other_door(path: Path) -> None:
    above = {"engines", "handler"} if path.name != "server.py" else {"engines", "handler", "runpod"}
    assert not {name.split(".")[0] for name in imports(path)} & above


def test_importing_the_server_starts_nothing(tmp_path: Path) -> None:
    code = "import threading, server\nassert threading.active_count() == 1"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ENGINE": "nonsense"},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []
