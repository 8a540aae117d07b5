"""Finds and imports upstream's code, from a clone or an installed package.

A process imports one copy of it and keeps it.
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from request.errors import EngineError

REPOSITORY = "https://github.com/vibevoice-community/VibeVoice"
_MODEL_FILE = Path("vibevoice", "modular", "modeling_vibevoice_inference.py")
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")

_in_use: dict[str, Path | None] = {}

log = logging.getLogger("vibevoice")


@dataclass(frozen=True, slots=True)
class Code:
    """A copy of upstream's code: a clone's folder, or None for the installed package."""

    folder: Path | None
    version: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """Upstream's classes that we use. They are `Any`, because upstream has no types."""

    Config: Any
    Model: Any
    Tokenizer: Any
    AudioNormalizer: Any


def find_code(override: Path | None, volume: Path | None) -> Code:
    """The clone `override`, else the clone in `volume`, else the installed package. Raises
    `EngineError` where there is none."""
    if override is not None:
        if not (override / _MODEL_FILE).is_file():
            raise EngineError(
                "VIBEVOICE_CODE does not point to a clone of VibeVoice that can speak: run"
                f" `git clone {REPOSITORY}` and set it to that folder"
            )
        return _clone(override)
    clone = volume / "vibevoice" if volume is not None else None
    if clone is not None and (clone / _MODEL_FILE).is_file():
        return _clone(clone)
    if clone is not None and clone.exists():
        log.warning("%s holds no VibeVoice code that can speak (%s)", clone, _MODEL_FILE)
    try:
        return Code(None, f"package {importlib.metadata.version('vibevoice')}")
    except importlib.metadata.PackageNotFoundError:
        raise EngineError(
            f"the code of VibeVoice is missing: run `git clone {REPOSITORY} vibevoice` in the"
            " worker's volume, or set VIBEVOICE_CODE to a clone"
        ) from None


def _clone(folder: Path) -> Code:
    commit = clone_commit(folder)
    return Code(folder, f"clone {commit[:12]}" if commit else "clone of unknown commit")


def clone_commit(folder: Path) -> str | None:
    """The commit that is checked out in a clone, or None where it cannot be found.

    It is read from git's files, so git need not be installed.
    """
    try:
        git = folder / ".git"
        if git.is_file():  # in a worktree or a submodule `.git` is a file
            git = folder / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            common = git / "commondir"
            shared = git / common.read_text().strip() if common.is_file() else git
            head = _resolved(shared, head.removeprefix("ref: "))
    except OSError:
        return None
    return head if _COMMIT.fullmatch(head) else None


def _resolved(git: Path, ref: str) -> str:
    if (git / ref).is_file():
        return (git / ref).read_text().strip()
    for line in (git / "packed-refs").read_text().splitlines():
        commit, _, name = line.partition(" ")
        if name == ref:
            return commit
    return ""


def import_code(code: Code) -> Upstream:
    """Puts a clone first on `sys.path` and imports upstream's classes.

    Raises `EngineError` if that fails, or if the process has imported another copy already.
    """
    if code.folder != _in_use.setdefault("folder", code.folder):
        raise _another_copy(code)
    if code.folder is not None and str(code.folder) not in sys.path:
        sys.path.insert(0, str(code.folder))
        importlib.invalidate_caches()
    try:
        model = importlib.import_module("vibevoice.modular.modeling_vibevoice_inference")
        config = importlib.import_module("vibevoice.modular.configuration_vibevoice")
        tokens = importlib.import_module("vibevoice.modular.modular_vibevoice_text_tokenizer")
        audio = importlib.import_module("vibevoice.processor.vibevoice_tokenizer_processor")
    except (ImportError, ValueError) as problem:  # newer transformers raise ValueError
        raise EngineError(
            f"the code of VibeVoice ({code.version}) cannot be imported"
            f" ({_first_line(problem)}): install the worker's requirements.txt"
        ) from problem
    if code.folder is not None and not _lies_in(model.__file__, code.folder):
        raise _another_copy(code)
    return Upstream(
        Config=config.VibeVoiceConfig,
        Model=model.VibeVoiceForConditionalGenerationInference,
        Tokenizer=tokens.VibeVoiceTextTokenizerFast,
        AudioNormalizer=audio.AudioNormalizer,
    )


def _another_copy(code: Code) -> EngineError:
    return EngineError(
        f"another copy of VibeVoice's code than the {code.version} is already in use: restart the"
        " worker, and if that does not help, run `pip uninstall vibevoice`"
    )


def _lies_in(file: str | None, folder: Path) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(folder.resolve())


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0][:200] if lines else type(problem).__name__
