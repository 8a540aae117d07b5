"""Flags: files that tell bootstrap.sh that a start is warm. Each set of settings has its own.

A flag is a manifest that names the environment, the code, the model and the model's files.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from provision.outcome import say
from provision.parts import read_manifest, write_manifest
from provision.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Ready:
    """The folders that the worker runs with, below `base` or elsewhere.

    `model` is None where no model is asked for. `files` are the names of the model's files. `mark`
    is the file that names the parts in use; it counts while it is fresh (see `in_use`).
    """

    base: Path
    venv: Path
    code: Path
    model: Path | None
    files: list[str]
    mark: Path

    @property
    def names(self) -> list[str]:
        return [part.name for part in (self.venv, self.code, self.model) if part]


def raise_flag(wanted: Wanted, ready: Ready) -> None:
    """Writes the flag of these settings, and symbolic links to the parts.

    The links to the parts are for people. `.first_run_complete` links to the newest flag; without
    that link bootstrap.sh accepts no flag.
    """
    base = ready.base
    _link(base, "venv", ready.venv)
    _link(base, "vibevoice", ready.code)
    facts = {
        "venv": wanted.venv.name,
        "code": wanted.code.name,
        "wanted": wanted.model_wanted,
        "model": str(below(ready.model, base)) if ready.model else "",
        "files": ready.files,
    }
    write_manifest(base / wanted.flag, facts)
    _link(base, ".first_run_complete", base / wanted.flag)


def _link(base: Path, name: str, target: Path) -> None:
    place, fresh = base / name, base / f".{name}.link"
    if place.is_dir() and not place.is_symlink():
        say(f"{place} is no link of ours and stays as it is; {target} is used")
        return
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(below(target, base))
    fresh.replace(place)


def below(path: Path, base: Path) -> Path:
    """The path relative to `base` if it lies there: a volume may be mounted elsewhere later."""
    return path.relative_to(base) if path.is_relative_to(base) else path


def model_of(base: Path, flag: str) -> Path | None:
    """The model's folder that a flag names.

    None if one of its files is missing, empty or newer than the flag.
    """
    facts = read_manifest(base / flag)
    if not facts.get("model"):
        return None
    model = base / str(facts["model"])
    files = [model / name for name in facts["files"]]
    return model if all(_is_untouched(file, base / flag) for file in files) else None


def _is_untouched(file: Path, flag: Path) -> bool:
    state = file.stat() if file.is_file() else None
    return state is not None and state.st_size > 0 and state.st_mtime <= flag.stat().st_mtime


def all_flags(base: Path) -> list[Path]:
    return sorted(base.glob(".first_run_complete-*"))


def lower_flags(base: Path, part: str) -> None:
    """Removes all flags that name the part, so that no later warm start finds it."""
    for flag in all_flags(base):
        if os.fsencode(f'{part}"') in flag.read_bytes():
            flag.unlink()
