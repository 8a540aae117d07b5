"""Where VibeVoice's code comes from. What is imported is told by processes of their own."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engines.base import Options
from engines.vibevoice.code import Code, clone_commit, find_code, import_code
from request.errors import EngineError
from tests import vibevoice_fixtures as vibevoice
from tests.vibevoice_fixtures import TEXT, engine, git, plan, samples

pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)
ROOT = Path(__file__).resolve().parent.parent


def test_the_volumes_clone_comes_first_and_its_commit_is_known(tmp_path: Path) -> None:
    commit = vibevoice.make_clone(tmp_path / "vibevoice")
    assert find_code(None, tmp_path) == Code(tmp_path / "vibevoice", f"clone {commit[:12]}")


def test_a_clone_that_is_named_wins_over_the_volumes(tmp_path: Path) -> None:
    vibevoice.make_clone(tmp_path / "vibevoice")
    vibevoice.make_clone(tmp_path / "other")
    assert find_code(tmp_path / "other", tmp_path).folder == tmp_path / "other"


def test_without_a_clone_the_installed_package_is_taken(tmp_path: Path) -> None:
    version = importlib.metadata.version("vibevoice")
    assert find_code(None, tmp_path) == Code(None, f"package {version}")
    assert find_code(None, None) == Code(None, f"package {version}")


def test_a_folder_that_cannot_speak_is_passed_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vibevoice" / "vibevoice" / "modular").mkdir(parents=True)
    assert find_code(None, tmp_path).folder is None
    assert "holds no VibeVoice code that can speak" in caplog.text


def test_a_named_clone_that_cannot_speak_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"VIBEVOICE_CODE .* run `git clone https://"):
        find_code(tmp_path, None)


def test_missing_code_is_one_error_that_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(EngineError, match=r"run `git clone https://\S+ vibevoice` in the worker's"):
        find_code(None, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("checkout", "-q", "--detach"),
        ("pack-refs", "--all"),
        ("checkout", "-q", "-b", "feature/x"),
    ],
    ids=["branch", "detached", "packed", "other branch"],
)
def test_the_commit_is_read_without_git(tmp_path: Path, words: tuple[str, ...]) -> None:
    commit = vibevoice.make_clone(tmp_path / "clone")
    if words:
        git(tmp_path / "clone", *words)
    assert clone_commit(tmp_path / "clone") == commit


def test_the_commit_of_a_worktree_is_read(tmp_path: Path) -> None:
    commit = vibevoice.make_clone(tmp_path / "clone")
    git(tmp_path / "clone", "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    assert clone_commit(tmp_path / "side") == commit


@pytest.mark.parametrize("head", [None, "ref: refs/heads/gone", "../../secret", ""])
def test_a_commit_that_cannot_be_told_is_none(tmp_path: Path, head: str | None) -> None:
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "HEAD").write_text(head)
    assert clone_commit(tmp_path) is None


def test_another_copy_in_one_process_is_an_error(tmp_path: Path) -> None:
    engine()
    before = list(sys.path)
    vibevoice.make_clone(tmp_path / "vibevoice")
    for code in (find_code(None, tmp_path), find_code(None, None)):
        with pytest.raises(EngineError, match=r"already in use: restart the worker"):
            import_code(code)
    assert sys.path == before


def python(script: str, *arguments: object) -> str:
    process = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout.splitlines()[-1]


def test_code_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    clone = tmp_path / "vibevoice"
    vibevoice.make_clone(clone)
    (clone / "vibevoice" / "__init__.py").write_text("import nothing_like_this\n")
    script = """
import sys
from pathlib import Path
from engines.vibevoice.code import find_code, import_code
from request.errors import EngineError
try:
    import_code(find_code(None, Path(sys.argv[1])))
except EngineError as error:
    print(error)
"""
    assert re.fullmatch(
        r"the code of VibeVoice \(clone [0-9a-f]{12}\) cannot be imported"
        r" \(No module named 'nothing_like_this'\): install the worker's requirements\.txt",
        python(script, tmp_path),
    )


SPEAK = """
import sys
from pathlib import Path
from tests import vibevoice_fixtures as vibevoice
from engines.base import Options
from engines.vibevoice.engine import VibeVoiceEngine
checkpoint, code, out = sys.argv[1:]
engine = VibeVoiceEngine(
    checkpoint, code=Path(code) if code else None, device="cpu", runtime="reference"
)
speech = engine.start(
    vibevoice.plan(vibevoice.TEXT, options=Options(steps=2, disable_prefill=True))
)
vibevoice.samples(speech).tofile(out)
print(engine.capabilities.details["code"])
"""


def test_the_installed_package_speaks(tmp_path: Path) -> None:
    version = importlib.metadata.version("vibevoice")
    out = tmp_path / "samples"
    assert python(SPEAK, vibevoice.checkpoint(), "", out) == f"package {version}"
    assert np.array_equal(np.fromfile(out, np.float32), without_prefill())


def test_a_clone_with_the_communitys_way_to_skip_voices_speaks_the_same(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    vibevoice.make_clone(clone)
    shutil.rmtree(clone / ".git")
    source = clone / "vibevoice" / "modular" / "modeling_vibevoice_inference.py"
    text = source.read_text()
    changed = text.replace("        is_prefill = True\n", "").replace(
        "        return_speech: bool = True,\n",
        "        is_prefill: bool = True,\n        return_speech: bool = True,\n",
    )
    assert changed.count("is_prefill") == text.count("is_prefill") > 2
    source.write_text(changed)
    out = tmp_path / "samples"
    assert python(SPEAK, vibevoice.checkpoint(), clone, out) == "clone of unknown commit"
    assert np.array_equal(np.fromfile(out, np.float32), without_prefill())


def without_prefill() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return samples(engine().start(plan(TEXT, options=Options(steps=2, disable_prefill=True))))
