"""Runs a door, and leaves word on the volume where it dies before its engine has worked.

    VENV/bin/python -m provision.begin handler.py [ARGUMENT ...]

A damaged file ends Python by a signal or an ImportError before anything else can tell. Word is left
in the file VIBEVOICE_FAILED, of these settings, by the process that dies, so nobody has to guess by
a clock whether another worker lives. The next start then looks for damage (see `start`). A kill
leaves no word.
"""

import faulthandler
import os
import runpy
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from provision.flags import beside, damaged_model_files
from provision.outcome import say

_NAME = "VIBEVOICE_FAILED"


def up() -> None:
    """Says that this worker's engine works. What ends it from now on is no damage."""
    if path := os.environ.pop(_NAME, None):
        faulthandler.enable()  # to stderr again
        for note in (Path(path), beside(Path(path), "repaired")):
            with suppress(OSError):
                note.unlink(missing_ok=True)


def main() -> None:
    sys.argv = sys.argv[1:]
    if note := _opened(os.environ.get(_NAME)):
        _refuse_damaged_model(note)
        faulthandler.enable(note, all_threads=False)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except Exception as problem:
        if note and _NAME in os.environ:
            _leave_word(note, f"{type(problem).__name__}: {problem}")
        raise


def _opened(path: str | None) -> IO[str] | None:
    try:
        return Path(path).open("a", encoding="utf-8", errors="replace") if path else None
    except OSError:
        return None  # the volume takes no files


def _refuse_damaged_model(note: IO[str]) -> None:
    flag = beside(Path(note.name), "first_run_complete")
    if damaged := damaged_model_files(flag):
        _leave_word(note, f"the model's {damaged[0]} has another size than it had")
        sys.exit(1)


def _leave_word(note: IO[str], text: str) -> None:
    line = " ".join(text.split())[:300]
    note.write(f"{line}\n")
    note.flush()
    say(f"the start failed ({line}); the next one looks for damage and repairs it")


if __name__ == "__main__":
    main()
