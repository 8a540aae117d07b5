"""Word of a damaged package, left where a model cannot be loaded or checked because of it.

The engines import torch and others late, so their errors never reach `provision.begin`. While a
start is young, the variable VIBEVOICE_FAILED names the file for the word; see there.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("vibevoice")


@contextmanager
def leaving_word() -> Iterator[None]:
    """Leaves word where the block fails by an import, and raises the error all the same."""
    try:
        yield
    except Exception as error:
        path, damage = os.environ.get("VIBEVOICE_FAILED"), _failed_import(error)
        if path and damage:
            _leave_word(Path(path), damage)
        raise


def _failed_import(error: BaseException | None) -> BaseException | None:
    """The error of an import that caused this one."""
    while error is not None and not _is_of_import(error):
        error = error.__cause__
    return error


def _is_of_import(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is None  # the dynamic linker's
    return isinstance(error, ImportError | SyntaxError | EOFError)


def _leave_word(note: Path, damage: BaseException) -> None:
    line = " ".join(f"{type(damage).__name__}: {damage}".split())[:300]
    log.error("the start failed (%s); the next one looks for damage and repairs it", line)
    with suppress(OSError), note.open("a", encoding="utf-8", errors="replace") as file:
        file.write(f"{line}\n")
