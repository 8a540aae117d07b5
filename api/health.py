"""Whether this server can speak: 204 while the engine loads, 200 once it can, 503 when it never
will again in this process.

With `PORT_HEALTH` the answer comes from a port and a thread of its own, so a busy event loop does
not look like a dead worker.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from request.errors import EngineLost, SpeechError
from synthesis.inference import VibeVoiceInference

log = logging.getLogger("vibevoice.http")


class Health:
    """Written by the thread that loads and by the doors, read by any."""

    def __init__(self) -> None:
        self._status = 204

    @property
    def status(self) -> int:
        return self._status

    def load(self, inference: VibeVoiceInference) -> None:
        """Loads the engine; a failure is said, and the next request tries again."""
        try:
            inference.load_model()
        except EngineLost as error:
            log.error("the engine is lost: %s", error)
            self._status = 503
        except SpeechError as error:
            log.error("the model is not loaded: %s", error)
            self._status = 503
        else:
            self.works()

    def load_in_thread(self, inference: VibeVoiceInference) -> threading.Thread:
        thread = threading.Thread(target=self.load, args=(inference,), name="load", daemon=True)
        thread.start()
        return thread

    def works(self) -> None:
        self._status = 200

    def lost(self) -> None:
        self._status = 503


@contextmanager
def health_port(health: Health, address: str, port: int | None) -> Iterator[int | None]:
    """Serves `/ping` on a port of its own while the block runs; gives the port."""
    if port is None:
        yield None
        return

    class Ping(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            self.send_response(health.status)
            if health.status != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """A line for every probe would be noise."""

    server = ThreadingHTTPServer((address, port), Ping)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
