"""The second door on loopback, on ports of the system's choice.

with serving(inference) as server:            # in this process, so a test sees its engine
with server_process(tmp_path) as server:      # `python server.py`, in a clean environment
"""

import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.health import Health
from server import make_server
from synthesis.inference import VibeVoiceInference
from tests.fake_recognizer import FakeRecognizer, managed
from transcription.base import Recognizer
from transcription.transcriber import Transcriber

ROOT = Path(__file__).resolve().parent.parent
ASK: dict[str, Any] = {"model": "tts-1", "input": "One.", "voice": "Alice"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        assert set(self.json) == {"error"}, self.json
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        return self.json["error"]


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    pid: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers or {}))
            reply = connection.getresponse()
            named = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, named, reply.read())
        finally:
            connection.close()

    def speak(self, **fields: Any) -> Answer:
        headers = {"Content-Type": "application/json"}
        return self.call("POST", "/v1/audio/speech", json.dumps(ASK | fields), headers)

    def raw(self, **fields: Any) -> socket.socket:
        """A connection over which that was asked, and nothing was read yet."""
        body = json.dumps(ASK | fields).encode()
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        peer.sendall(f"POST /v1/audio/speech HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
        return peer


@contextmanager
def serving(
    inference: VibeVoiceInference, ready: bool = True, recognizer: Recognizer | None = None
) -> Iterator[Server]:
    """A server in a thread of this process. Nothing may be left of it in the end."""
    settings = inference.settings
    lease = managed(inference.models.manager, recognizer or FakeRecognizer())
    transcriber = Transcriber(lease, settings.max_transcriptions, settings.max_audio_sec)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    if ready:
        inference.load_model()
    server = make_server(inference, Health(inference), transcriber)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Server(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive(), "the server did not end"
            inference.close()
            transcriber.close()


@contextmanager
def server_process(folder: Path, *command: str, **settings: str) -> Iterator[Server]:
    """`python server.py` with the preview voice; at SIGTERM it has to end with 0."""
    for sub in ("home", "tmp", "volume"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "ENGINE": "espeak",
        "VIBEVOICE_VOLUME": str(folder / "volume"),
        "PORT": "0",
        **settings,
    }
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *(command or ("server.py",))],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: process.poll() is not None or "serving on" in log.read_text())
        found = re.search(r"serving on \S+, port (\d+)", log.read_text())
        assert found, f"the server did not start:\n{log.read_text()[-2000:]}"
        server = Server(int(found[1]), process.pid)
        # 300 s: the bench loads models of 18 GB from network volumes.
        wait_for(lambda: server.call("GET", "/ping").status == 200, 300)
        yield server
        process.terminate()
        assert process.wait(120) == 0, log.read_text()[-2000:]
        left = {path.name for path in (folder / "tmp").iterdir() if not _is_of_torch(path)}
        assert not left, f"temporary files are left: {left}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_of_torch(path: Path) -> bool:
    """torch leaves an empty cache folder with the user's name. A process that is killed also leaves
    the module that torch 2.8 writes into a folder when it is imported."""
    written = (path / "_remote_module_non_scriptable.py").exists()
    return written or path.name.startswith("torchinductor_")


def wait_for(happened: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.01)
