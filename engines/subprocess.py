"""An engine in a process of its own, behind the same wall.

A frame loop in Python and a server that sends a frame every 20 ms share an interpreter badly: the
gaps of 3 paced sessions were off by 124 ms (p95) beside two busy threads, by 36 ms beside two busy
processes on the same loaded 2-core machine. What is C and lets go of the interpreter, as the
preview voice does, needs none of this.

The process ends with its parent, or when `close` closes its standard input. Each speech has a
connection of its own, over a socket in a folder that only this user can open; a speech that is not
read holds up its own thread there and nobody else.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Capabilities, End, Engine, Frame, Plan
from engines.registry import create_engine
from request import errors
from request.errors import Cancelled, EngineLost, SpeechError

_ROOT = Path(__file__).resolve().parent.parent
_END_SEC = 10
_LOOK_SEC = 0.05
_KINDS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SpeechError)
}


class SubprocessEngine:
    """`create_engine(name, **options)` in a process of its own, which starts when it is needed."""

    def __init__(self, name: str, **options: Any) -> None:
        self._made_by = (name, options)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._key = os.urandom(32)
        self._known: Capabilities | None = None
        self._ready = False

    @property
    def capabilities(self) -> Capabilities:
        if self._known is None:
            self._known = self._ask("capabilities")
        return self._known

    def inspect(self) -> Capabilities:
        with suppress(EngineLost):
            self._known = self._ask("capabilities")
        return self.capabilities

    @property
    def ready(self) -> bool:
        return self._ready and self._process is not None and self._process.poll() is None

    def check(self) -> None:
        self._ask("check")

    def load(self) -> None:
        if not self.ready:
            self._known = self._ask("load")
            self._ready = True

    def start(self, plan: Plan) -> "ApartSpeech":
        return ApartSpeech(self, plan)

    def close(self) -> None:
        with self._lock:
            process, self._process, self._ready = self._process, None, False
            if process is not None and process.stdin is not None:
                process.stdin.close()
                try:
                    process.wait(_END_SEC)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def connect(self) -> Connection:
        """A connection to the process. Raises `EngineLost` once that has ended."""
        with self._lock:
            if self._process is None:
                self._process = self._begun()
            if self._process.poll() is not None or self._folder is None:
                raise EngineLost("the engine's process has ended")
            try:
                return Client(_address(self._folder.name), "AF_UNIX", self._key)
            except OSError as error:
                raise EngineLost("the engine's process cannot be reached") from error

    def _ask(self, what: str) -> Any:
        with self.connect() as connection:
            try:
                connection.send(what)
                return _opened(connection.recv())
            except (EOFError, OSError) as error:
                raise EngineLost("the engine's process has ended") from error

    def _begun(self) -> "subprocess.Popen[bytes]":
        self._folder = tempfile.TemporaryDirectory(prefix="engine-")
        process = subprocess.Popen(
            [sys.executable, "-m", "engines.subprocess"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if process.stdin is None or process.stdout is None:
            raise EngineLost("the engine's process has no pipes")
        pickle.dump((_address(self._folder.name), self._key, *self._made_by), process.stdin)
        process.stdin.flush()
        with process.stdout as said:
            said.readline()  # it listens, or has ended
        return process


class ApartSpeech:
    """See `engines.base.Speech`. Begins when it is read."""

    def __init__(self, engine: SubprocessEngine, plan: Plan) -> None:
        self._engine, self._plan = engine, plan
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def __iter__(self) -> Iterator[Frame | End]:
        self._check()
        self._engine.load()
        with self._engine.connect() as connection:  # its end cancels the other side
            try:
                connection.send(self._plan)
                while True:
                    while not connection.poll(_LOOK_SEC):
                        self._check()
                    event = _opened(connection.recv())
                    if event is None:
                        return
                    self._check()
                    yield event
            except (EOFError, OSError) as error:
                raise EngineLost("the engine's process has ended") from error

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def _address(folder: str) -> str:
    return str(Path(folder) / "socket")


def _opened(reply: tuple[str, Any]) -> Any:
    kind, value = reply
    if kind == "frame":
        chunk, samples = value
        return Frame(chunk, np.frombuffer(samples, np.float32))
    if kind == "":
        return value
    raise _KINDS.get(kind, errors.EngineError)(value)


def _told(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, SpeechError):
        return type(error).__name__, error.problems
    # The message may quote the text.
    return "EngineError", f"the engine failed ({type(error).__name__})"


def serve(address: str, key: bytes, engine: Engine) -> None:
    """The other side: a thread for every connection."""
    with Listener(address, "AF_UNIX", authkey=key) as listener:
        print(flush=True)  # noqa: T201 - says that it listens
        while True:
            connection = listener.accept()
            threading.Thread(target=_answer, args=(connection, engine), daemon=True).start()


def _answer(connection: Connection, engine: Engine) -> None:
    with connection:
        try:
            asked = connection.recv()
            if isinstance(asked, Plan):
                _speak(connection, engine, asked)
            else:
                _call(connection, engine, asked)
        except (EOFError, OSError, Cancelled):
            pass  # who asked has left
        except Exception as error:  # noqa: BLE001 - told to the other side
            connection.send(_told(error))


def _call(connection: Connection, engine: Engine, what: str) -> None:
    if what != "capabilities":
        {"check": engine.check, "load": engine.load}[what]()
    found = engine.capabilities
    connection.send(("", found))


def _speak(connection: Connection, engine: Engine, plan: Plan) -> None:
    speech = engine.start(plan)
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if connection.poll(_LOOK_SEC):  # nothing is ever sent: the other side has closed it
                speech.cancel()
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        for event in speech:
            if isinstance(event, Frame):
                connection.send(("frame", (event.chunk, event.samples.tobytes())))
            else:
                connection.send(("", event))
        connection.send(("", None))
    finally:
        over.set()
        watching.join()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    address, key, name, options = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent
    made: Mapping[str, Any] = options
    engine = create_engine(name, **made)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    threading.Thread(target=serve, args=(address, key, engine), daemon=True).start()
    sys.stdin.buffer.read()  # until the parent closes it, or has ended
    engine.close()


if __name__ == "__main__":
    main()
