"""Who has the turn on a folder, and what each step of building needs."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provision.lock import Lock
from provision.outcome import NoRoom, Refused, is_full, reason, say
from provision.wanted import Wanted
from provision.work import CommandFailed, Guardian

_QUIET = {
    "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1", "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip


def unfit(folder: Path, wanted: Wanted) -> str:
    """Makes the folder and tries to write there. Why that does not work; empty where it does."""
    if not folder.parent.is_dir() and folder != wanted.disk:
        return f"there is no {folder.parent}: no network volume is attached"
    probe = folder / f".probe-{wanted.worker}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b" " * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as problem:
        return f"{folder} cannot be written to ({problem.strerror})"
    return ""


@dataclass(frozen=True, slots=True)
class Builder:
    """`base` is what is filled: the volume's folder or the container disk's."""

    wanted: Wanted
    base: Path
    lock: Lock
    guardian: Guardian

    def doing(self, what: str) -> None:
        """For the log and for those who wait."""
        say(what)
        self.lock.doing(what)

    def run(self, *command: str | Path, **env: str) -> None:
        """See `Guardian.run`."""
        self.guardian.run(*command, env=os.environ | _QUIET | env)

    def assert_ours(self) -> None:
        """Before anything is published: a worker that was frozen may have lost its turn."""
        if not self.lock.is_ours():
            say("another worker took the lock over")
            sys.exit(143)

    def room_for(self, what: str, needed_mb: int) -> None:
        """By what the system says, which is more than a quota's. Raises `NoRoom`."""
        usage = shutil.disk_usage(self.base)
        # RunPod replaces workers whose container disk is fuller than nine tenths.
        is_kept = self.base == self.wanted.disk and not self.wanted.prefetch
        free, kept = usage.free >> 20, (usage.total >> 20) // 10 if is_kept else 0
        if free - kept < needed_mb:
            raise NoRoom(
                f"no space in {self.base}: {what} needs {needed_mb} MB; {free} MB are free, of"
                f" which {kept} MB have to stay so"
            )

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Makes of whatever fails a sentence: `NoRoom` if it was that, else `Refused`."""
        try:
            yield
        except (CommandFailed, OSError) as problem:
            output = problem.output if isinstance(problem, CommandFailed) else str(problem)
            if is_full(output) or unfit(self.base, self.wanted):
                raise NoRoom(f"no space in {self.base} for {what}") from problem
            why = reason(output, self.wanted.ref) or problem
            raise Refused(f"{what} could not be had: {why}") from problem
