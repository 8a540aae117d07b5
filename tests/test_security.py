"""What docs/security.md promises of the code as a whole, and that its tests exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.code_lines import product

ROOT = Path(__file__).resolve().parent.parent

EXECUTES = re.compile(
    r"(c?pickle|dill|marshal|shelve|joblib|yaml|accelerate)\..+"
    r"|eval|exec|compile|__import__|os\.(system|popen)|subprocess\.get\w+|torch\.(load|hub|jit)\b.*"
)
"""Names of calls that run data as code, or read a format that can."""


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Each call in product code: its file, its dotted name, and its node."""
    for path in product():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Call):
                yield str(path), ast.unparse(node.func), node


def test_nothing_that_executes_data_is_called() -> None:
    found = {(file, name) for file, name, _ in calls() if EXECUTES.fullmatch(name)}
    assert found == {
        # Resemblyzer's weights, from a package that is pinned by hash; see the next test.
        ("transcription/speakers.py", "torch.load"),
        # The worker's own program and environment, which Python itself would run and load.
        ("provision/begin.py", "compile"),
        ("provision/begin.py", "exec"),
        ("provision/installed.py", "marshal.loads"),
    }


def test_no_argument_lets_data_execute() -> None:
    for file, name, node in calls():
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert "trust_remote_code" not in given, (file, name)
        assert given.get("shell") is None, (file, name)
        assert given.get("allow_pickle", "False") == "False", (file, name)
        if name == "torch.load":
            assert given["weights_only"] == "True", file
        if name.endswith("from_pretrained"):
            assert given.get("local_files_only") == "True" or "Model" in name, (file, name)


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda p: p.name)
def test_every_package_of_a_requirements_file_is_pinned_by_hash(path: Path) -> None:
    entries = re.split(r"\n(?=[A-Za-z])", path.read_text().strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==[\w.+!-]+( ;[^\n]*)? \\\n", entry), entry[:80]
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", page)
    assert len(named) > 30
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
