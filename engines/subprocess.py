"""A subprocess engine: an `Engine` in a process of its own, restarted when it is lost.

A frame loop in Python and a server that sends a frame every 20 ms compete for the GIL. Three paced
sessions had a jitter of 124 ms (p95) beside two busy threads. Beside two busy processes it was
36 ms, on the same loaded 2-core machine. Besides, a CUDA context that failed stays broken until its
process ends.

The child process runs `engines.child`. Both hold one end of a socket pair, which no other process
can open. The spawn of `multiprocessing` would also import the door's modules into the child. That
takes 0.74 instead of 0.27 CPU seconds a start, 91 instead of 41 MB, and a third process.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from engines.backoff import Backoff
from engines.base import Capabilities, End, EngineSettings, Frame, Plan
from engines.process import EngineProcess
from request.errors import Cancelled, EngineLost, SpeechError

_LOOK_SEC = 0.05
_PATIENCE_SEC = 5
"""Seconds. A request waits for a restart that is due so soon; else it gets `EngineLost`."""
_MANY = 3
"""After so many losses in a row the worker should be replaced."""

log = logging.getLogger("vibevoice")


class SubprocessEngine:
    """The registry's engine `name` in a child process, which starts on the first call.

    The child ends with this process, whatever ends that. A lost engine is restarted and loaded
    after a pause (`Backoff`). Calls meanwhile wait for it, or raise `EngineLost` with the seconds
    until a retry makes sense.
    """

    def __init__(
        self, name: str, settings: EngineSettings, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._made_by = (name, settings)
        self._now = now
        self._backoff = Backoff(now)
        self._changed = threading.Condition()
        self._process: EngineProcess | None = None
        self._restarts = 0
        self._known: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        known = self._known or self._ask("capabilities")
        return replace(known, figures={**known.figures, "restarts": self._restarts})

    def inspect(self) -> Capabilities:
        """The child's current capabilities; the last known ones while it is lost."""
        if self._process is not None and not self._process.ended:
            with suppress(EngineLost):
                self._ask("capabilities")
        return self.capabilities

    @property
    def ready(self) -> bool:
        process = self._process
        return process is not None and process.works_since is not None and not process.ended

    @property
    def lost(self) -> bool:
        works_since = self._process.works_since if self._process else None
        return not self.ready and self._backoff.in_a_row(works_since) >= _MANY

    def check(self) -> None:
        self._ask("check")

    def load(self) -> None:
        self._ask("load")

    def start(self, plan: Plan) -> "SubprocessSpeech":
        return SubprocessSpeech(self, plan)

    def close(self) -> None:
        """Ends the child process, which frees all its memory; `load` starts another."""
        with self._changed:
            process, self._process = self._process, None
            self._changed.notify_all()
        if process is not None:
            process.close()

    def _ask(self, what: str, check: Callable[[], object] = lambda: None) -> Capabilities:
        with self.asking(what, check) as (process, connection):
            known: Capabilities = _opened(connection.recv())
        if what == "load":
            process.works()
        self._known = known
        return known

    @contextmanager
    def asking(
        self, what: str | Plan, check: Callable[[], object] = lambda: None
    ) -> Iterator[tuple[EngineProcess, Connection]]:
        """Sends the call `what`, and gives the connection for its reply; closing it cancels.

        `check` is called repeatedly while this waits for the process. Raises `EngineLost`."""
        process, connection = self._connected(check)
        try:
            with connection:
                connection.send(what)
                yield process, connection
        except (EOFError, OSError) as error:
            raise EngineLost("the engine's process has ended: send the request again") from error
        except EngineLost:
            process.kill()  # only a new process gets a working CUDA context
            raise

    def _connected(self, check: Callable[[], object]) -> tuple[EngineProcess, Connection]:
        while True:
            process = self._running(check)
            try:
                return process, process.connect()
            except ConnectionError:
                process.kill()  # it is ending; this lets `_follow` start the next one

    def _running(self, check: Callable[[], object]) -> EngineProcess:
        with self._changed:
            check()
            if self._process is None:
                self._process = self._begun()
            while self._process is not None and self._process.ended:
                if (left := self._backoff.left()) > _PATIENCE_SEC:
                    problem = "the engine is lost and will be started anew: send the request again"
                    raise EngineLost(problem, retry_sec=math.ceil(left))
                self._changed.wait(_LOOK_SEC)
                check()
            return self._opened_process()

    def _begun(self) -> EngineProcess:
        try:
            process = EngineProcess(self._made_by, self._now)
        except OSError as error:
            problem = f"no process could be started for the engine: {error.strerror}"
            raise EngineLost(problem) from error
        threading.Thread(target=self._follow, args=(process,), name="engine", daemon=True).start()
        return process

    def _follow(self, process: EngineProcess) -> None:
        """Relays the child's log until it ends; then starts the next process and loads it."""
        process.relay_log()
        successor = self._succeed(process, process.reap())
        if successor is None:
            return
        try:
            self._ask("load", self._opened_process)
        except EngineLost:
            return  # it was closed, or the thread that follows `successor` starts another
        except SpeechError as error:
            log.error("the engine cannot be loaded anew: %s", error)
            successor.kill()
        else:
            log.info("the engine works again")

    def _opened_process(self) -> EngineProcess:
        if self._process is None:
            raise EngineLost("the engine was closed")
        return self._process

    def _succeed(self, process: EngineProcess, status: int) -> EngineProcess | None:
        """The process after this one, once the pause is over. None if the engine was closed."""
        with self._changed:
            while self._process is process:
                self._backoff.lost(process.works_since)
                process.works_since = None  # it is counted once; a next one may not even begin
                pause = self._backoff.left()
                log.error("the engine is lost (status %d), the next starts in %g s", status, pause)
                while self._process is process and (left := self._backoff.left()):
                    self._changed.wait(min(left, _LOOK_SEC))
                if self._process is process:
                    with suppress(EngineLost):  # none could be started; try again after a pause
                        self._process = self._begun()
                        self._restarts += 1
                        return self._process
        return None


class SubprocessSpeech:
    """See `engines.base.GrowingSpeech`. The first read starts the work."""

    def __init__(self, engine: SubprocessEngine, plan: Plan) -> None:
        self._engine, self._plan = engine, plan
        self._cancelled = threading.Event()
        self._sending = threading.Lock()
        self._connection: Connection | None = None
        self._unsent: list[str | None] = []

    def feed(self, text: str) -> None:
        self._send(text)

    def finish(self) -> None:
        self._send(None)

    def _send(self, piece: str | None) -> None:
        """Sends a piece of a growing plan's text, None for its end, or keeps it for the begin."""
        with self._sending:
            if self._connection is None:
                self._unsent.append(piece)
                return
            with suppress(OSError):  # the speech has ended, which its reader learns
                self._connection.send(piece)

    def _connect(self, connection: Connection) -> None:
        with self._sending:
            for piece in self._unsent:
                connection.send(piece)
            self._connection = connection

    def cancel(self) -> None:
        self._cancelled.set()

    def __iter__(self) -> Iterator[Frame | End]:
        self._check()
        with self._engine.asking(self._plan, self._check) as (process, connection):
            self._connect(connection)
            while True:
                while not connection.poll(_LOOK_SEC):
                    self._check()
                event = _opened(connection.recv())
                if event is None:
                    return
                process.works()
                self._check()
                yield event

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def _opened(reply: Any) -> Any:
    if isinstance(reply, BaseException):
        raise reply
    if isinstance(reply, tuple):
        chunk, samples = reply
        return Frame(chunk, np.frombuffer(samples, np.float32))
    return reply
