"""What the bridge costs, on loopback: each figure beside the same work without it, in turns.

    python -m bench.bridge [requests]    (200)

The worker is stood in for by a server that answers at once, so that nothing but the way is seen.
"""

import base64
import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.bridge import bridge

MB = 1_000_000
AUDIO = b"\xff\xf3\xc4\xc4" + bytes(32_000)  # 2 s of mp3
BLOCK = bytes(1 << 20)
BLOCKS = 200
SPEECH = {"model": "tts-1", "input": "Hello.", "voice": "alloy"}
ANSWER = {
    "id": "job-1",
    "status": "COMPLETED",
    "output": {"audio_base64": base64.b64encode(AUDIO).decode(), "format": "mp3"},
}


class Backend(BaseHTTPRequestHandler):
    """RunPod (/runsync), a speech server, and a server of one large file."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "runsync" in self.path:
            self._head(len(answer := json.dumps(ANSWER).encode()))
            self.wfile.write(answer)
        elif asked.get("response_format") == "pcm":
            self._head(len(BLOCK) * BLOCKS)
            for _ in range(BLOCKS):
                self.wfile.write(BLOCK)
        else:
            self._head(len(AUDIO))
            self.wfile.write(AUDIO)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@contextmanager
def serving() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    server.daemon_threads = True
    Thread(target=server.serve_forever).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def post(self, path: str, **fields: Any) -> tuple[float, float, int]:
        """Seconds to the first byte, seconds to the last, and bytes."""
        body = json.dumps({"input": SPEECH["input"], **SPEECH, **fields})
        headers = {"Content-Type": "application/json", "Authorization": "Bearer t"}
        start = time.perf_counter()
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        count = len(response.read(1))
        first = time.perf_counter() - start
        while data := response.read(1 << 20):
            count += len(data)
        return first, time.perf_counter() - start, count


def compare(name: str, straight: list[float], bridged: list[float]) -> None:
    for what, part in (("p50", 0.5), ("p95", 0.95)):
        one, other = (sorted(times)[int(len(times) * part)] * 1e3 for times in (straight, bridged))
        print(
            f"{name}, {what}: {one:.2f} ms straight, {other:.2f} ms bridge, {other - one:.2f} added"
        )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    settings = {"AUTH_TOKEN": "t"}
    with serving() as port:
        url = f"http://127.0.0.1:{port}"
        with (
            bridge(RUNPOD_URL=url, **settings) as queue,
            bridge(SPEECH_URL=url, **settings) as direct,
        ):
            worker = Client(port)
            by_queue = Client(int(queue.url.rsplit(":", 1)[1]))
            by_server = Client(int(direct.url.rsplit(":", 1)[1]))
            kinds = {
                "queue": (("/runsync", worker), ("/v1/audio/speech", by_queue)),
                "direct": (("/v1/audio/speech", worker), ("/v1/audio/speech", by_server)),
            }
            for name, ways in kinds.items():
                times: list[list[tuple[float, float, int]]] = [[], []]
                for number in range(count + 10):
                    for way, (path, client) in enumerate(ways):
                        sample = client.post(path)
                        if number >= 10:
                            times[way].append(sample)
                compare(f"{name}, whole answer", *([t[1] for t in each] for each in times))
                compare(f"{name}, first byte", *([t[0] for t in each] for each in times))
            before = direct.memory_mb()
            for name, client in (("straight", worker), ("bridge", by_server)) * 2:
                _, seconds, size = client.post("/v1/audio/speech", response_format="pcm")
                print(f"{size / MB:.0f} MB, {name}: {size / MB / seconds:.0f} MB/s")
            print(
                f"memory of the bridge: {before:.0f} MB before, {direct.memory_mb():.0f} MB after"
            )


if __name__ == "__main__":
    main()
