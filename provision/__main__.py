"""The command line: the start where bootstrap.sh found something missing, and its other options.

    PYTHON -m provision start [ARGUMENT ...]
    PYTHON -m provision check|verify

bootstrap.sh execs it and passes its variables in the environment (see `wanted`). `start` execs the
worker at its end. With `--prefetch` and `--repair` it exits once everything is there.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from provision.begin import beside
from provision.check import check
from provision.flags import Ready
from provision.outcome import ENDING, NO_ROOM, NoRoom, Refused, say
from provision.start import make_ready
from provision.wanted import Wanted


def main() -> None:
    command, *arguments = sys.argv[1:]
    wanted = Wanted.take_from(os.environ)
    if command != "start":
        sys.exit(not check(wanted, "hashes" if command == "verify" else "sizes"))
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup makes it
            signal.signal(number, _end)
    try:
        ready = make_ready(wanted)
    except (Refused, NoRoom) as problem:
        if str(problem):
            say(str(problem))
        sys.exit(NO_ROOM if isinstance(problem, NoRoom) else 1)
    if not wanted.prefetch:
        become_the_worker(wanted, ready, arguments)
    say(f"everything is in place in {ready.base}")


def _end(number: int, _: FrameType | None) -> NoReturn:
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
    sys.exit(130 if number == signal.SIGINT else 143)


def become_the_worker(wanted: Wanted, ready: Ready, arguments: list[str]) -> NoReturn:
    """Execs the worker's program, as bootstrap.sh does after a warm start."""
    os.environ |= {
        "VIBEVOICE_VOLUME": str(ready.base),
        "VIBEVOICE_CODE": str(ready.code),
        "VIBEVOICE_IN_USE": str(ready.mark),
        "VIBEVOICE_FAILED": str(ready.base / beside(wanted.flag, "failed")),
        **wanted.hub_folders(ready.base),
    }
    if ready.model:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    python = str(ready.venv / "bin" / "python")
    os.execv(python, [python, "-u", "provision/begin.py", wanted.door, *arguments])  # noqa: S606


if __name__ == "__main__":
    main()
