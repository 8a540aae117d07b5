"""Commands that are never left behind, whoever of this worker's processes is killed.

Beside the worker stands its guardian, a process that shows the lock's life. A pipe leads to it, on
which each command says its process group before it begins. When the pipe ends, because the turn is
over or because the worker was killed, the guardian kills that group.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from provision.lock import Lock
from provision.outcome import say

_KEPT = 1_000_000  # bytes of a command's output, of which the last ones say why it failed


class CommandFailed(Exception):
    """`output` is what it said last, `status` as in `subprocess`: negative for a signal."""

    def __init__(self, output: str, status: int) -> None:
        killed = f"signal {-status} ended it"
        super().__init__("the lines above say why" if status > 0 else killed)
        self.output, self.status = output, status


class Guardian:
    """For a turn that has begun. This process must have no other thread, for it forks."""

    def __init__(self, lock: Lock) -> None:
        reading, self._pipe = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._pipe)
            _guard(lock, reading, parent)
        os.close(reading)
        os.setpgid(self._pid, self._pid)  # it has to outlive us by a moment

    def run(self, *command: str | Path, env: Mapping[str, str]) -> None:
        """Runs a command in a session of its own, its output copied to our standard error. Raises
        `CommandFailed`."""
        reading, writing = os.pipe()
        try:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing,
                start_new_session=True, preexec_fn=self._announce,
            )  # fmt: skip
        except OSError:
            os.write(self._pipe, b"0\n")
            raise
        os.close(writing)
        kept = b""
        while said := os.read(reading, 65536):
            sys.stderr.buffer.write(said)
            sys.stderr.flush()
            kept = (kept + said)[-_KEPT:]
        os.close(reading)
        status = process.wait()
        os.write(self._pipe, b"0\n")
        if status:
            raise CommandFailed(kept.decode(errors="replace"), status)

    def _announce(self) -> None:
        """In the command's process, before it begins: so there is none that is unknown."""
        os.write(self._pipe, b"%d\n" % os.getpid())

    def close(self) -> None:
        """Ends what still runs: what is half built counts for nothing."""
        os.close(self._pipe)
        os.waitpid(self._pid, 0)


def _guard(lock: Lock, pipe: int, parent: int) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    count = group = 0
    is_ours = True
    while True:
        if is_ours and not (is_ours := _show_life(lock, count := count + 1)):
            say("another worker took the lock over")
            os.kill(parent, signal.SIGTERM)
        if select.select([pipe], [], [], lock.pace.beat)[0]:
            said = os.read(pipe, 4096)
            if not said:
                break
            group = int(said.split()[-1])
    if group:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    os._exit(0)


def _show_life(lock: Lock, count: int) -> bool:
    """Whether the turn is still ours. A volume that does not answer shows no life of ours: the turn
    may pass on, which is seen when it answers again, and before anything is published."""
    with suppress(OSError):
        lock.beat(count)
    try:
        return lock.is_ours()
    except OSError:
        return True
