"""Runs a door, and leaves word on the volume where it dies before its engine has worked.

    VENV/bin/python provision/begin.py handler.py [ARGUMENT ...]

A damaged file ends Python by a signal or an ImportError before anything else can tell. Word is left
in the file VIBEVOICE_FAILED, of these settings, by the process that dies, so nobody has to guess by
a clock whether another worker lives. The next start then looks for damage (see `start`). A kill
leaves no word.
"""

# Every warm start waits for this module: with runpy, pathlib, json and dataclasses it takes 35 ms.
import faulthandler
import os
import sys
from io import TextIOWrapper
from types import ModuleType

_NAME = "VIBEVOICE_FAILED"


def beside(flag: str, kind: str) -> str:
    """The name of a note on the starts with the settings of a flag, by its kind.

    `failed`: one failed. `repaired`: damage was looked for after that, and none succeeded since.
    """
    return f".{kind}-{flag.rpartition('-')[2]}"


def up() -> None:
    """Says that this worker's engine works. What ends it from now on is no damage."""
    if path := os.environ.pop(_NAME, None):
        faulthandler.enable()  # to stderr again
        for note in (path, _neighbour(path, "repaired")):
            try:
                os.unlink(note)  # noqa: PTH108
            except OSError:  # it is not there, or the volume takes no change
                continue


def main() -> None:
    sys.argv = sys.argv[1:]
    sys.path[0] = os.getcwd()  # noqa: PTH109 - Python has put the folder of this file there
    if note := _opened(os.environ.get(_NAME)):
        _refuse_damaged_model(note)
        faulthandler.enable(note, all_threads=False)
    try:
        _run(sys.argv[0])
    except Exception as problem:
        if note and _NAME in os.environ:
            _leave_word(note, f"{type(problem).__name__}: {problem}")
        raise


def _run(door: str) -> None:
    """Runs a program as Python would, in a module `__main__` of its own."""
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__file__ = door
    exec(compile(_read(door), door, "exec"), module.__dict__)  # noqa: S102


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def _neighbour(path: str, kind: str) -> str:
    return f"{os.path.dirname(path)}/{beside(path, kind)}"  # noqa: PTH120


def _opened(path: str | None) -> TextIOWrapper | None:
    try:
        return open(path, "a", encoding="utf-8", errors="replace") if path else None  # noqa: PTH123
    except OSError:
        return None  # the volume takes no files


def _refuse_damaged_model(note: TextIOWrapper) -> None:
    flag = _neighbour(note.name, "first_run_complete")
    if not os.path.exists(flag) or b'"model": ""' in _read(flag):  # noqa: PTH110
        return
    from pathlib import Path

    from provision.flags import damaged_model_files

    if damaged := damaged_model_files(Path(flag)):
        _leave_word(note, f"the model's {damaged[0]} has another size than it had")
        sys.exit(1)


def _leave_word(note: TextIOWrapper, text: str) -> None:
    from provision.outcome import say

    line = " ".join(text.split())[:300]
    note.write(f"{line}\n")
    note.flush()
    say(f"the start failed ({line}); the next one looks for damage and repairs it")


if __name__ == "__main__":
    main()
