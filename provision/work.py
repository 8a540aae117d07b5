"""Who has the turn on a folder, and commands that are never left behind, whoever is killed.

Beside the worker stands its guardian, a process that shows the lock's life. A pipe leads to it, on
which each command says its process group before it begins. When the pipe ends, because the turn is
over or because the worker was killed, the guardian kills that group.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provision.lock import Lock
from provision.outcome import NoRoom, Refused, is_full, reason, say
from provision.wanted import Wanted

_QUIET = {
    "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1", "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip
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
            try:
                os.close(self._pipe)
                _guard(lock, reading, parent)
            finally:
                os._exit(0)  # nothing that is the worker's to do may be done here too
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


def _guard(lock: Lock, pipe: int, parent: int) -> None:
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


def _show_life(lock: Lock, count: int) -> bool:
    """Whether the turn is still ours. A volume that does not answer shows no life of ours: the turn
    may pass on, which is seen when it answers again, and before anything is published."""
    with suppress(OSError):
        lock.beat(count)
    try:
        return lock.is_ours()
    except OSError:
        return True


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
