"""Health check, as RunPod's load balancer reads it: 200, 204 or 503.

200: the engine can speak. 204: the engine loads or is started anew. 503: the engine did not load,
or was lost too often, and the platform should replace the worker.

With `PORT_HEALTH` a thread of its own answers on that port. So a busy event loop does not look like
a dead worker.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from request.errors import EngineLost, SpeechError
from synthesis.inference import VibeVoiceInference

log = logging.getLogger("vibevoice.http")


class Health:
    """The state of one server's engine. Any thread may read `status`. Calls `loaded` once `load`
    has loaded it."""

    def __init__(
        self, inference: VibeVoiceInference, loaded: Callable[[], object] = lambda: None
    ) -> None:
        self._inference, self._loaded = inference, loaded
        self._load_failed = False

    @property
    def status(self) -> int:
        """The HTTP status of `/ping`: 200, 204 or 503."""
        engine = self._inference.engine
        if engine.ready:
            self._load_failed = False  # a request's attempt went well
            return 200
        return 503 if self._load_failed or engine.lost else 204

    def load(self) -> None:
        """Loads the engine, and the models of PRELOAD_MODELS. A failure is logged, and the next
        request tries again."""
        try:
            self._inference.load_model()
        except EngineLost as error:  # `engine.lost` says whether it is started again
            log.error("the engine is lost: %s", error)
        except SpeechError as error:
            log.error("the model is not loaded: %s", error)
            self._load_failed = True
        else:
            self._loaded()
        for name in self._inference.preloaded:
            try:
                self._inference.preload(name)
            except SpeechError as error:
                log.error("the model %s is not loaded: %s", name, error)

    def load_in_thread(self) -> threading.Thread:
        """Starts `load` in a daemon thread."""
        thread = threading.Thread(target=self.load, name="load", daemon=True)
        thread.start()
        return thread


@contextmanager
def health_port(health: Health, address: str, port: int | None) -> Iterator[int | None]:
    """Serves `/ping` on a port of its own while the block runs.

    Gives the port that was bound, or None without one.
    """
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
            """Logs nothing: probes come every few seconds."""

    class PingServer(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    server = PingServer((address, port), Ping)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
