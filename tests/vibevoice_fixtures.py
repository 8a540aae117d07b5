"""A volume for VibeVoice's tests: a git clone of its code, a tiny checkpoint, recordings.

Made once in a test run, since a process keeps the first copy of upstream's code that it imports.
Importing this module skips the importing tests where torch or upstream's package is missing.
"""

import functools
import importlib.metadata
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines.base import Frame, Options, Plan, PlannedChunk, Samples, Speech, Turn, Voice
from engines.vibevoice.engine import RuntimeName, VibeVoiceEngine
from tests.tiny_checkpoint import tiny_checkpoint

if TYPE_CHECKING:
    from engines.vibevoice.model import Model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
try:
    _PACKAGE = Path(str(importlib.metadata.distribution("vibevoice").locate_file("vibevoice")))
except importlib.metadata.PackageNotFoundError:
    pytest.skip("needs the package vibevoice", allow_module_level=True)

torch.set_num_threads(1)
_FOLDER = tempfile.TemporaryDirectory(prefix="vibevoice-tests-")

TEXT = "Hello there, how are you today? I am fine."


@functools.cache
def volume() -> Path:
    """Holds `vibevoice` (a clone), `models/tiny` and `demo/voices/en-Alice_woman.wav`."""
    root = Path(_FOLDER.name, "volume")
    make_clone(root / "vibevoice")
    tiny_checkpoint(root / "models" / "tiny", root / "vibevoice")
    return root


def make_clone(folder: Path) -> str:
    """Clones a repository with upstream's files to `folder`; gives its commit."""
    origin = Path(_FOLDER.name, "origin")
    if not origin.exists():
        shutil.copytree(
            _PACKAGE, origin / "vibevoice", ignore=shutil.ignore_patterns("__pycache__")
        )
        for words in ("init -q -b main", "add .", "commit -q -m upstream"):
            git(origin, *words.split())
    git(origin.parent, "clone", "-q", str(origin), str(folder))
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *words: str) -> str:
    names = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    command = ["git", *names, *words]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def checkpoint() -> Path:
    return volume() / "models" / "tiny"


@functools.cache
def engine(runtime: RuntimeName = "reference") -> VibeVoiceEngine:
    """A loaded engine that tests share. None may leave it changed."""
    made = VibeVoiceEngine(str(checkpoint()), volume=volume(), device="cpu", runtime=runtime)
    made.load()
    return made


def model() -> "Model":
    """Upstream's, as the shared reference engine has loaded it."""
    return model_of(engine())


def model_of(engine: VibeVoiceEngine) -> "Model":
    from engines.vibevoice.model import Model
    from engines.vibevoice.reference import Reference

    runtime = engine._loaded()
    assert isinstance(runtime, Reference)
    assert isinstance(runtime.model, Model)
    return runtime.model


def recording(pitch: float = 110, seconds: float = 1.5) -> Samples:
    """Something with a pitch: a row of decaying pulses."""
    time = np.arange(int(24_000 * seconds)) / 24_000
    phase = time * pitch % 1
    return (0.4 * np.exp(-8 * phase) * np.sin(2 * np.pi * 5 * phase)).astype(np.float32)


def voice(pitch: float = 110, seconds: float = 1.5) -> Voice:
    return Voice(f"pitch {pitch}", recording(pitch, seconds), f"{pitch} {seconds}")


def plan(
    *chunks: str | tuple[Turn, ...],
    voices: tuple[Voice, ...] | None = None,
    seed: int = 7,
    attempt: int = 1,
    options: Options | None = None,
) -> Plan:
    """A plan of one speaker's texts or of turns, quick by default."""
    turns = [(Turn(0, chunk),) if isinstance(chunk, str) else chunk for chunk in chunks]
    return Plan(
        tuple(PlannedChunk(chunk, seed, attempt) for chunk in turns),
        (voice(),) if voices is None else voices,
        options or Options(steps=2),
    )


def samples(speech: Speech) -> Samples:
    """All that is spoken, in one piece."""
    frames = [event.samples for event in speech if isinstance(event, Frame)]
    return np.concatenate(frames) if frames else np.zeros(0, np.float32)
