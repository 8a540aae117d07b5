"""Flags: what a warm start compares. One for each set of settings, as the parts are."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision import manifest
from provision.outcome import say
from provision.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Ready:
    """What the worker runs with. `model`: its folder, None where none is asked for; `files` are the
    names of its files. `mark` names what it uses, for as long as it is fresh."""

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
    """Last of all comes the link that says that there is any; it is the newest one's."""
    base = ready.base
    _link(base, "venv", ready.venv)
    _link(base, "vibevoice", ready.code)
    facts = {
        "venv": wanted.venv.name,
        "code": wanted.code.name,
        "wanted": wanted.model_wanted,
        "model": str(_below(ready.model, base)) if ready.model else "",
        "files": ready.files,
    }
    manifest.write(base / wanted.flag, facts)
    _link(base, ".first_run_complete", base / wanted.flag)


def _link(base: Path, name: str, target: Path) -> None:
    """For people."""
    place, fresh = base / name, base / f".{name}.link"
    if place.is_dir() and not place.is_symlink():
        say(f"{place} is no link of ours and stays as it is; {target} is used")
        return
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(_below(target, base))
    fresh.replace(place)


def _below(path: Path, base: Path) -> Path:
    """Relative where it can be: a volume may be mounted elsewhere tomorrow."""
    return path.relative_to(base) if path.is_relative_to(base) else path


def model_of(base: Path, flag: str) -> Path | None:
    """The model that a flag names, if none of its files is missing, empty or newer than the flag."""
    facts: dict[str, Any] = manifest.read(base / flag)
    if not facts.get("model"):
        return None
    raised, model = (base / flag).stat().st_mtime, base / facts["model"]
    for name in facts["files"]:
        file = model / name
        if not file.is_file() or not file.stat().st_size or file.stat().st_mtime > raised:
            return None
    return model


def all_flags(base: Path) -> list[Path]:
    return sorted(base.glob(".first_run_complete-*"))


def lower_flags(base: Path, part: str) -> None:
    """Those that name the part, so that no warm start finds it from now on."""
    for flag in all_flags(base):
        if f'{part}"'.encode() in flag.read_bytes():
            flag.unlink()
