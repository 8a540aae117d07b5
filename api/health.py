"""Whether this server can speak: 200 while it can, 204 while its engine is loaded or started anew,
503 once it has failed for good or again and again, so that the worker is better replaced.

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
    """May be read by any thread."""

    def __init__(self, inference: VibeVoiceInference) -> None:
        self._inference = inference
        self._load_failed = False

    @property
    def status(self) -> int:
        engine = self._inference.engine
        if engine.ready:
            self._load_failed = False  # a request's attempt went well
            return 200
        return 503 if self._load_failed or engine.lost else 204

    def load(self) -> None:
        """Loads the engine; a failure is said, and the next request tries again."""
        try:
            self._inference.load_model()
        except EngineLost as error:  # which either starts anew or says that it is lost
            log.error("the engine is lost: %s", error)
        except SpeechError as error:
            log.error("the model is not loaded: %s", error)
            self._load_failed = True

    def load_in_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self.load, name="load", daemon=True)
        thread.start()
        return thread


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
