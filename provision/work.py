"""Runs build commands under the lock, and kills them when the turn or the worker ends.

The guardian is a forked process that writes the lock's heartbeat. Each command writes its process
group to a pipe before its exec. When the pipe reaches end of file, the turn is over or the worker
was killed. Then the guardian kills that process group.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provision.lock import Lock
from provision.outcome import ENDING, NoRoom, Refused, Unfit, is_full, reason, say, told
from provision.wanted import Wanted

_QUIET = {
    "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1", "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip
_LEFT_OUT = re.compile("(PIP|GIT)_|PYTHONHOME$")
_KEPT = 1_000_000  # the last bytes of a command's output, which say why it failed


Look = Literal["", "sizes", "hashes"]


def build_environment() -> dict[str, str]:
    """This process's environment without what would redirect pip or git, such as PIP_TARGET or
    GIT_DIR. Their configuration files count: a mirror belongs into pip.conf."""
    kept = {name: value for name, value in os.environ.items() if not _LEFT_OUT.match(name)}
    return kept | _QUIET


class CommandFailed(Exception):
    """A command failed. `output` is the end of its output; a negative `status` is a signal."""

    def __init__(self, output: str, status: int) -> None:
        killed = f"signal {-status} ended it"
        super().__init__("the lines above say why" if status > 0 else killed)
        self.output, self.status = output, status


class Guardian:
    """The guardian of a turn that has begun. It forks, so this process must have one thread."""

    def __init__(self, lock: Lock) -> None:
        reading, self._pipe = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(self._pipe)
                _guard(lock, reading, parent)
            finally:
                os._exit(0)  # skips the worker's exit handlers, which the fork has copied
        os.close(reading)
        os.setpgid(self._pid, self._pid)  # the guardian must outlive a kill of our process group

    def run(self, *command: str | Path, env: Mapping[str, str]) -> None:
        """Runs a command in its own session and copies its output to standard error.

        Raises `CommandFailed`, and `OSError` where it cannot be started.
        """
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
        """Writes the process group to the guardian's pipe, in the command's process before exec."""
        os.write(self._pipe, b"%d\n" % os.getpid())

    def close(self) -> None:
        """Closes the pipe, at which the guardian kills the running command, and waits for it."""
        os.close(self._pipe)
        os.waitpid(self._pid, 0)


def _guard(lock: Lock, pipe: int, parent: int) -> None:
    for number in ENDING:
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
    """Writes the heartbeat. False once another worker has taken the turn over.

    While the volume does not respond, no heartbeat arrives, and another worker may take the turn.
    That is noticed when the volume responds again, and before anything is published.
    """
    with suppress(OSError):
        lock.beat(count)
    try:
        return lock.is_ours()
    except OSError:
        return True


def unfit(folder: Path, wanted: Wanted) -> str:
    """Creates the folder and writes a probe file. Gives the problem, empty where it works."""
    if not folder.parent.is_dir() and folder != wanted.disk:
        return f"there is no {folder.parent}: no network volume is attached"
    if _is_noexec(folder) and not wanted.venv.find(wanted.disk):
        return f"{folder} is mounted noexec: no program can run from it"
    probe = folder / f".probe-{wanted.worker}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b" " * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as problem:
        return told(problem, folder)
    return ""


def _is_noexec(folder: Path) -> bool:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    return bool(os.statvfs(place).f_flag & os.ST_NOEXEC)


@dataclass(frozen=True, slots=True)
class Builder:
    """The tools of a build step. `base` is the folder to build in, on the volume or the disk.

    `look`: by what the files of whole parts are compared before they are used; by nothing where it
    is empty.
    """

    wanted: Wanted
    base: Path
    lock: Lock
    guardian: Guardian
    look: Look = ""

    def doing(self, what: str) -> None:
        """Logs what is being done, also for the workers that wait for the lock."""
        say(what)
        self.lock.doing(what)

    def run(self, *command: str | Path, **env: str) -> None:
        """See `Guardian.run`."""
        self.guardian.run(*command, env=build_environment() | env)

    def assert_ours(self) -> None:
        """Exits with 143 if the turn was lost, as after a freeze. Call it before publishing."""
        if not self.lock.is_ours():
            say("another worker took the lock over")
            sys.exit(143)

    def room_for(self, what: str, needed_mb: int) -> None:
        """Raises `NoRoom` where the file system has less than `needed_mb` MB free.

        The file system does not report quotas, so a build may still run out of room.
        """
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
        """Turns any failure inside the block into `Unfit` or `Refused`, with a sentence."""
        try:
            yield
        except (CommandFailed, OSError) as problem:
            output = problem.output if isinstance(problem, CommandFailed) else str(problem)
            if is_full(output):
                raise NoRoom(f"no space in {self.base} for {what}") from problem
            if why := unfit(self.base, self.wanted):
                raise Unfit(why) from problem
            why = told(problem, self.base) if isinstance(problem, OSError) else str(problem)
            why = reason(output, self.wanted.ref) or why
            raise Refused(f"{what} could not be had: {why}") from problem
