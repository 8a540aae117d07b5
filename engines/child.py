"""The child process of `engines.subprocess`: one engine, and one thread for each connection.

    python -m engines.child FD

FD is one end of a socket pair, the control channel. It receives the engine's name and settings, and
then a file descriptor for each connection. A connection carries one call. Log records go back over
the control channel. The process ends when the other end is closed, also by the parent's death.
"""

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from engines.base import Engine, EngineSettings, Frame, GrowingSpeech, Plan
from engines.damage import leaving_word
from engines.registry import create_engine
from request import errors
from request.errors import Cancelled, EngineError, SpeechError

_END_SEC = 10

log = logging.getLogger("vibevoice")


def main(create: Callable[[str, EngineSettings], Engine] = create_engine) -> None:
    # The process group gets them; the parent acts.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, lambda *_: None)  # compilers that we start would inherit SIG_IGN
    if path := os.environ.get("VIBEVOICE_FAILED"):  # until a worker has spoken; see provision/begin
        with suppress(OSError):
            faulthandler.enable(Path(path).open("a"), all_threads=False)  # noqa: SIM115
    control = Connection(int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)  # a program left running would keep it open
    name, settings = control.recv()
    logging.basicConfig(handlers=[_ToParent(control)], level=logging.INFO, format="%(message)s")
    engine = create(name, settings)
    with suppress(ConnectionError):
        _serve(control, engine)
    faulthandler.dump_traceback_later(_END_SEC, exit=True)  # exits even if a GPU call hangs
    engine.close()


class _ToParent(logging.Handler):
    """A logging handler that sends the name, level and message of each record to the parent."""

    def __init__(self, control: Connection) -> None:
        super().__init__()
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the parent has ended, and this process is about to
            self._control.send((record.name, record.levelno, self.format(record)))


def _serve(control: Connection, engine: Engine) -> None:
    with socket.fromfd(control.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as pipe:
        while descriptors := socket.recv_fds(pipe, 1, 1, socket.MSG_CMSG_CLOEXEC)[1]:
            connection = Connection(descriptors[0])
            threading.Thread(target=_answer, args=(connection, engine), daemon=True).start()


def _answer(connection: Connection, engine: Engine) -> None:
    with connection, suppress(EOFError, ConnectionError):  # the caller has closed it
        asked = connection.recv()
        try:
            answer = _speak if isinstance(asked, Plan) else _call
            answer(connection, engine, asked)
        except Exception as error:  # noqa: BLE001 - sent to the parent
            if not isinstance(error, Cancelled):  # raised where the caller has left
                connection.send(_told(error))


def _call(connection: Connection, engine: Engine, what: str) -> None:
    if what != "capabilities":
        with leaving_word():
            {"check": engine.check, "load": engine.load}[what]()
    connection.send(engine.capabilities)


def _speak(connection: Connection, engine: Engine, plan: Plan) -> None:
    speech = engine.start(plan)

    def follow() -> None:
        """Takes a growing text's pieces, until the caller closes the connection."""
        with suppress(EOFError, OSError):
            while True:
                piece = connection.recv()
                if isinstance(speech, GrowingSpeech):
                    speech.finish() if piece is None else speech.feed(piece)
        speech.cancel()

    threading.Thread(target=follow, daemon=True).start()
    for event in speech:
        if isinstance(event, Frame):  # to unpickle bytes takes the parent 29 us, an array 40 us
            connection.send((event.chunk, event.samples.tobytes()))
        else:
            connection.send(event)
    connection.send(None)


def _told(error: Exception) -> SpeechError:
    """The error as a `SpeechError`, which the parent can unpickle."""
    if isinstance(error, SpeechError):
        kinds = (k for k in type(error).__mro__ if k.__module__ == errors.__name__)
        kind: type[SpeechError] = next(kinds)
        return kind(error.problems)
    # The message may quote the user's text, so only type and traceback are logged.
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("internal error: %s\n%s", type(error).__name__, place)
    return EngineError(f"the engine failed ({type(error).__name__})")


if __name__ == "__main__":
    main()
