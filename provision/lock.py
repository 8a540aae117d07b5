"""A distributed lock: one builder at a time on a volume.

`.lock/` holds a folder for each turn, named by its number. The highest number is the current turn.
mkdir is atomic, so only one worker can create the folder of the next number. It may do so once the
current turn is over: the owner has written `released`, or a waiter saw no change of `beat` for
`Pace.stale` seconds. No clock is compared with another machine's. An owner that dies at any point
loses the turn.
"""

import math
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, Self

from provision.outcome import Refused, say


class Clock(Protocol):
    """The module `time`, or a test's."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals in seconds: between an owner's beats, between a waiter's looks, until an owner
    counts as dead (`stale`), and between a waiter's log lines."""

    beat: float = 5
    look: float = 0.5
    stale: float = 60
    report: float = 15

    @classmethod
    def from_env(cls) -> Self:
        given = {each.name: os.environ.get(f"LOCK_{each.name.upper()}_SEC") for each in fields(cls)}
        return cls(**{name: float(value) for name, value in given.items() if value})


@dataclass(slots=True)
class Lock:
    """One worker's side of the lock. `turn` is the number of its own turn, 0 while it has none."""

    folder: Path
    worker: str
    pace: Pace = Pace()
    clock: Clock = time
    turn: int = 0

    def take(self, init_timeout: float = math.inf) -> None:
        """Waits for the next turn. Raises `Refused` at nine tenths of `init_timeout` seconds, and
        `OSError` where the volume takes no folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start = said = self.clock.monotonic()
        seen, idle = (-1, ""), 0.0
        while True:
            latest = self.latest()
            state = (latest, self._read(latest, "beat"))
            # Counts looks and not clock time: a waiter that was frozen saw nothing meanwhile.
            seen, idle = state, idle + self.pace.look if state == seen else 0.0
            owner = self._read(latest, "owner") or "a worker unknown"
            is_over = self.is_over(latest)
            if (is_over or idle >= self.pace.stale) and self.begin(latest + 1):
                if not is_over:
                    say(f"took over from {owner}, not heard of for {self.pace.stale:g} s")
                return
            waited = self.clock.monotonic() - start
            what = f"{self.folder.parent} ({self._read(latest, 'doing') or 'starting'})"
            if waited >= init_timeout * 0.9:
                raise Refused(
                    f"gave up after {waited:.0f} s: {owner} still prepares {what}, and"
                    f" RUNPOD_INIT_TIMEOUT ({init_timeout:.0f} s) is near. Raise it for the first"
                    " run, or fill the volume before with --prefetch"
                )
            if start + waited - said >= self.pace.report:
                said = start + waited
                say(f"waiting for {owner}, which prepares {what}; {waited:.0f} s so far")
            self.clock.sleep(self.pace.look)

    def latest(self) -> int:
        """The number of the current turn; 0 where there was none."""
        try:
            names = [entry.name for entry in self.folder.iterdir()]
        except FileNotFoundError:
            return 0
        return max((int(name) for name in names if re.fullmatch("[0-9]+", name)), default=0)

    def is_over(self, number: int) -> bool:
        # Not `Path.exists`, which raises where a network volume calls what was cleared away stale.
        return number == 0 or os.path.exists(self._file(number, "released"))  # noqa: PTH110

    def begin(self, number: int) -> bool:
        """Tries to take the turn of that number. On success removes the turns before it."""
        try:
            (self.folder / str(number)).mkdir()
        except FileExistsError:
            return False
        if self.latest() != number:  # this turn is long over, and its folder had been removed
            with suppress(OSError):  # the owner of the turn may remove it at this moment
                (self.folder / str(number)).rmdir()
            return False
        self.turn = number
        self._write("owner", self.worker)
        for entry in self.folder.iterdir():
            if entry.name != str(number):
                # An owner that was frozen may still write there. Old turns are never read again.
                shutil.rmtree(entry, ignore_errors=True)
        return True

    def beat(self, count: int) -> None:
        self._write("beat", str(count))

    def doing(self, what: str) -> None:
        """Writes what the owner is doing, which waiters log."""
        self._write("doing", what)

    def is_ours(self) -> bool:
        return self.turn > 0 and self.latest() == self.turn

    def describe(self) -> str:
        """The owner and what it is doing, as a sentence; empty while the lock is free."""
        latest = self.latest()
        if self.is_over(latest):
            return ""
        return f"by {self._read(latest, 'owner')}, {self._read(latest, 'doing')}"

    def release(self) -> None:
        # Where `released` cannot be written, the turn is over once it is stale.
        with suppress(OSError):
            if self.is_ours():
                self._write("released", "")
        self.turn = 0

    def _file(self, number: int, name: str) -> Path:
        return self.folder / str(number) / name

    def _write(self, name: str, text: str) -> None:
        self._file(self.turn, name).write_text(f"{text}\n", encoding="utf-8")

    def _read(self, number: int, name: str) -> str:
        try:
            return self._file(number, name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:  # not yet written, or removed, which NFS reports as ESTALE
            return ""
