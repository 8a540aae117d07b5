"""Flags: files that tell bootstrap.sh that a start is warm. Each set of settings has its own.

A flag is a manifest that names the environment, the code, the model and the model's files with
their sizes. Beside it may lie a note of a start that failed, and one of the repair after it.
"""

import itertools
import os
import shlex
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

    @property
    def model_files(self) -> list[Path]:
        return [self.model / name for name in self.files] if self.model else []


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
        "sizes": [file.stat().st_size for file in ready.model_files],
    }
    flag = base / wanted.flag
    write_manifest(flag, facts)
    # A file may come from the future, by the clock of who copied it. bash compares times alone.
    newest = max(_changed(file) for file in (flag, *ready.model_files))
    os.utime(flag, ns=(newest, newest))
    _link(base, ".first_run_complete", flag)


def _link(base: Path, name: str, target: Path) -> None:
    place, fresh = base / name, base / f".{name}.link"
    if place.is_dir() and not place.is_symlink():
        what = "an environment of another worker" if (place / "pyvenv.cfg").exists() else "a folder"
        say(
            f"{place}, {what}, is no link of ours and stays as it is; {target} is used."
            f" Where nothing else uses it: rm -rf {shlex.quote(str(place))}"
        )
        return
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(below(target, base))
    fresh.replace(place)


def below(path: Path, base: Path) -> Path:
    """The path relative to `base` if it lies there: a volume may be mounted elsewhere later."""
    return path.relative_to(base) if path.is_relative_to(base) else path


def model_of(flag: Path) -> Path | None:
    """The model's folder that a flag names, or None."""
    model = read_manifest(flag).get("model")
    return flag.parent / str(model) if model else None


def damaged_model_files(flag: Path) -> list[str]:
    """The files of the model that have another size than the flag keeps."""
    facts, model = read_manifest(flag), model_of(flag)
    if model is None:
        return []
    files, sizes = facts.get("files", ()), facts.get("sizes", ())  # an early flag has no sizes
    return [
        name
        for name, size in itertools.zip_longest(files, sizes)
        if not (have := _size(model / name)) or size not in (None, have)
    ]


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _changed(file: Path) -> int:
    return file.stat().st_mtime_ns


def failure(note: Path) -> str:
    """What a note says, in a line; empty where no start failed."""
    lines = note.read_text(errors="replace").splitlines() if note.is_file() else []
    # faulthandler's lines name the files inside out.
    place = next((line.strip() for line in lines if line.startswith('  File "/')), "")
    return ", ".join(
        each.removeprefix("Fatal Python error: ") for each in (*lines[:1], place) if each
    )


def all_flags(base: Path) -> list[Path]:
    return sorted(base.glob(".first_run_complete-*"))


def lower_flags(base: Path, part: str) -> None:
    """Removes all flags that name the part, so that no later warm start finds it."""
    for flag in all_flags(base):
        if os.fsencode(f'{part}"') in flag.read_bytes():
            flag.unlink()
