"""The walls of the house: which room may import which."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PURE = ("request", "text", "audio", "voices")
MAY_IMPORT = {
    "request": set(),
    "text": {"request"},
    "audio": {"request"},
    "voices": {"audio", "request"},
    "engines": {*PURE},
    "transcription": {"audio", "text", "request", "engines"},
    "delivery": {"request"},
    "config": {"delivery", "request"},
    "synthesis": {*PURE, "engines", "delivery", "config"},
    "provision": {"request", "engines", "config"},
    "worker": {"request", "audio", "synthesis", "transcription", "delivery", "config", "provision"},
    "api": {*PURE, "synthesis", "transcription", "delivery", "config"},
}
"""Of the other rooms; a room's own modules know each other."""
ROOMS = {*MAY_IMPORT, "inference", "handler", "server"}
FILES = [
    path.relative_to(ROOT)
    for room in MAY_IMPORT
    for path in sorted([*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/**/*.py")])
]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} & ROOMS


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    own = path.parts[0].removesuffix(".py")
    assert rooms(path) - {own} <= MAY_IMPORT[own]


@pytest.mark.parametrize("door", ["handler", "server"])
def test_a_door_imports_no_engine_and_not_the_other_door(door: str) -> None:
    inside, other = ("worker", "api") if door == "handler" else ("api", "worker")
    found = rooms(Path(f"{door}.py"))
    assert inside in found
    assert not found & {"engines", other, "handler", "server"}


def test_no_room_hides_a_package_of_the_same_name() -> None:
    """Rooms come first on the path: one named `requests` would stand in for the HTTP client."""
    assert not ROOMS & (sys.stdlib_module_names | packages_distributions().keys())


def test_the_pure_rooms_import_without_torch_and_runpod() -> None:
    modules = [
        ".".join(path.with_suffix("").parts)
        for path in FILES
        if path.parts[0] in PURE and path.name != "__init__.py"
    ]
    code = (
        "import sys\n"
        "for name in ('torch', 'runpod', 'transformers'): sys.modules[name] = None\n"
        + "".join(f"import {name}\n" for name in modules)
        + "assert not {n.split('.')[0] for n in sys.modules} & {'engines', 'handler', 'config'}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_builds_the_environment_needs_the_standard_library_alone() -> None:
    """But for the module that finds the model: it runs in the environment."""
    for path in FILES:
        if path.parts[0] == "provision" and path.name != "model.py":
            assert {name.split(".")[0] for name in imports(path)} <= {
                *sys.stdlib_module_names, "provision",
            }, path  # fmt: skip


@pytest.mark.parametrize("door", ["handler", "server"])
def test_importing_a_door_starts_nothing(door: str, tmp_path: Path) -> None:
    code = f"import threading, {door}\nassert threading.active_count() == 1, threading.enumerate()"
    if door == "handler":
        code += "\nassert handler.inference.cache_info().currsize == 0"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ENGINE": "nonsense"},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


def test_the_architecture_has_a_line_for_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page.split("```")[1]
    folders: list[str] = []
    listed: set[str] = set()
    for line in tree.splitlines():
        indent = (len(line) - len(line.lstrip())) // 2
        name = line.strip().split(" ")[0]
        del folders[indent:]
        if name.endswith("/"):
            folders.append(name)
        else:
            listed.add("".join([*folders, name]))
    modules = {str(path) for path in FILES if path.name != "__init__.py"} | {
        f"{door}.py" for door in ("handler", "server", "inference")
    }
    assert modules - listed == set()
    assert {name for name in listed if name.endswith(".py")} - modules == set()
