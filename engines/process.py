"""The process of an engine, as its parent sees it: started, connected to, ended.

`engines.child` is what runs in it.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe

from engines.base import EngineSettings

_COMMAND = ("-P", "-m", "engines.child")
_END_SEC = 20


class EngineProcess:
    """One child process of an engine.

    `works_since` is when it first answered, in seconds on the clock `now`. `ended` is set as soon
    as its end is known. Raises `OSError` where it cannot be started.
    """

    def __init__(self, made_by: tuple[str, EngineSettings], now: Callable[[], float]) -> None:
        self.ended = False
        self._now = now
        self.works_since: float | None = None
        self._control, theirs = Pipe()
        self._socket = socket.fromfd(self._control.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
        self._sending = threading.Lock()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, *_COMMAND, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=2,  # libraries that print must not write to the parent's stdout
            )
        self._control.send(made_by)

    def works(self) -> None:
        if self.works_since is None:
            self.works_since = self._now()

    def connect(self) -> Connection:
        """Opens a connection for one call, so that a slow reader blocks only one thread there.

        Raises `ConnectionError` where the process has ended.
        """
        ours, theirs = Pipe()
        try:
            with theirs, self._sending:
                socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise ConnectionError from error
        return ours

    def relay_log(self) -> None:
        """Logs the child's records in this process, until the child ends."""
        with self._control, suppress(EOFError, OSError):
            while True:
                name, level, words = self._control.recv()
                logging.getLogger(name).log(level, "%s", words)

    def kill(self) -> None:
        self.ended = True
        self._child.kill()

    def reap(self) -> int:
        """Waits for the process with a time limit, and gives its exit status."""
        self.ended = True
        for _ in range(2):  # what waits in the kernel for a lost GPU cannot be killed
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_END_SEC)
                break
            self._child.kill()
        with self._sending:
            self._socket.close()
        status = self._child.poll()
        return -signal.SIGKILL if status is None else status

    def close(self) -> None:
        """Closes the control channel, at which the child ends itself."""
        with self._sending, suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self.reap()
