"""Removal of parts that nobody has used for a day.

Removal first removes the flags that name a part, then looks for marks of use. A start
(bootstrap.sh) first writes its mark, then looks whether its flag still exists. So at least one of
the two sees the other, and a part in use is not even renamed.
"""

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provision.flags import Ready, all_flags, lower_flags
from provision.outcome import say

_DAY = 24 * 3600
_MONTH = 30 * _DAY


def remove_old(base: Path, ready: Ready) -> None:
    """Removes the parts below `base` that nobody used for a day, except those in `ready`.

    A part that cannot be removed is logged and left to the next start. It fails no start.
    """
    with _said():
        _remove(base, ready.model, ready.names)


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        say(f"old parts could not be removed: {problem}")


def _remove(base: Path, model: Path | None, used: Sequence[str]) -> None:
    parts = [*base.glob("venv-*"), *base.glob("vibevoice-*")]
    # Only other revisions of this model are removed: another endpoint may share this volume.
    if model and model.match("models--*/snapshots/*") and model.is_relative_to(base / "hf_cache"):
        parts += model.parent.iterdir()
        _remove_abandoned_downloads(model.parent.parent)
    for mark in _marks(base):
        if _is_old(mark):
            mark.unlink()
    # Removes month-old flags, since each start reads all. A start rewrites its own within a second.
    for note in (*all_flags(base), *base.glob(".failed-*"), *base.glob(".repaired-*")):
        if _is_old(note, _MONTH):
            note.unlink()
    for left in (*base.glob(".building-*"), *base.glob(".trash-*")):
        with _said():
            _delete(left)
    for part in parts:
        with _said():
            _remove_part(base, part, used)


def _remove_part(base: Path, part: Path, used: Sequence[str]) -> None:
    name = part.name
    if not re.search(r"(^|-)[0-9a-f]{12,}$", name) or part.is_symlink() or not part.is_dir():
        return  # whatever has another name, or is no folder, is the user's
    if name in used or not _is_old(part) or _is_in_use(base, name):
        return
    lower_flags(base, name)
    if _is_in_use(base, name):  # a worker wrote its mark before the flags were removed
        return
    say(f"removing {name}, which nobody has used for a day")
    trash = base / f".trash-{name}"
    part.rename(trash)
    shutil.rmtree(trash)


def _is_in_use(base: Path, name: str) -> bool:
    return any(os.fsencode(name) in mark.read_bytes().split(b"\n") for mark in _marks(base))


def _marks(base: Path) -> Iterator[Path]:
    """The marks of use. What is no file is none, and stops no removal."""
    return (mark for mark in (base / ".in-use").iterdir() if mark.is_file())


def _remove_abandoned_downloads(repository: Path) -> None:
    for part in repository.glob(".*.part"):
        if re.fullmatch(r"\.[0-9a-f]{40}\.part", part.name) and _all_old((part, *part.rglob("*"))):
            say(f"removing a download that nobody has gone on with for a day: {part.name}")
            shutil.rmtree(part)


def _all_old(paths: Iterable[Path]) -> bool:
    return all(map(_is_old, paths))


def _is_old(path: Path, age: float = _DAY) -> bool:
    return time.time() - path.lstat().st_mtime > age


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
