"""Connections: what is no request of ours, what is only held, and what breaks off."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import api.protocol
from config import Settings
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine
from tests.http_server import ASK, Server, server_process, serving, wait_for

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def one(engine: FakeEngine | None = None) -> Server:
            settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)})
            inference = VibeVoiceInference(settings, engine or FakeEngine())
            stack.callback(inference.close)
            return stack.enter_context(serving(inference))

        yield one


def opened(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def head(*lines: str, method: str = "POST /v1/audio/speech HTTP/1.1") -> bytes:
    told = ("Host: 127.0.0.1", "Content-Type: application/json", *lines)
    return "\r\n".join([method, *told, "", ""]).encode()


def all_of(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(1 << 16), b""))


UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")


@pytest.mark.parametrize("apart", [False, True], ids=["one segment", "two segments"])
def test_an_upgrade_that_is_not_taken_leaves_the_request_whole(start: Start, apart: bool) -> None:
    body = json.dumps(ASK).encode()
    with opened(start()) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(head(*UPGRADE, f"Content-Length: {len(body)}"))
        if apart:
            time.sleep(0.1)  # so that the body comes in a segment of its own
        peer.sendall(body)
        peer.sendall(head("Connection: close", method="GET /ping HTTP/1.1"))
        answers = all_of(peer)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answers.count(b"HTTP/1.1 ") == 2


def test_a_body_behind_an_upgrade_is_never_read_as_a_request(start: Start) -> None:
    smuggled = b"DELETE /v1/audio/voices/Alice HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with opened(start()) as peer:
        peer.sendall(head(*UPGRADE, "Connection: close", f"Content-Length: {len(smuggled)}"))
        peer.sendall(smuggled)
        answer = all_of(peer)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.") == 1
    assert b"invalid_json" in answer


def test_http_1_0_gets_a_body_that_ends_with_the_connection(start: Start) -> None:
    body = json.dumps(ASK | {"response_format": "wav"}).encode()
    with opened(start()) as peer:
        line = f"Content-Length: {len(body)}"
        peer.sendall(head(line, method="POST /v1/audio/speech HTTP/1.0") + body)
        told, _, audio = all_of(peer).partition(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in told.lower()
    assert b"content-length" not in told.lower()
    assert audio.startswith(b"RIFF")


def test_http_1_0_sees_that_an_answer_was_cut(start: Start) -> None:
    body = json.dumps(ASK | {"response_format": "pcm"}).encode()
    with opened(start(FakeEngine(fail_at=2, delay=0.2))) as peer:
        line = f"Content-Length: {len(body)}"
        peer.sendall(head(line, method="POST /v1/audio/speech HTTP/1.0") + body)
        with pytest.raises(ConnectionResetError):
            all_of(peer)


def test_who_asks_nothing_is_let_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.protocol, "HEAD_SEC", 0.2)
    with opened(start()) as peer:
        assert peer.recv(1) == b""


def test_a_head_that_comes_drop_by_drop_is_let_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    monkeypatch.setattr(api.protocol, "HEAD_SEC", 0.5)
    with opened(server) as peer:
        peer.sendall(head(method="GET /ping HTTP/1.1"))
        assert peer.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            for _ in range(100):  # a second head, slower than any client
                peer.sendall(b"G")
                time.sleep(0.05)


def test_a_connection_that_has_asked_may_idle(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.protocol, "HEAD_SEC", 0.1)
    with opened(start()) as peer:
        for _ in range(2):
            peer.sendall(head(method="GET /ping HTTP/1.1"))
            assert peer.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.3)


def test_those_who_hold_connections_make_room_for_the_next(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    monkeypatch.setattr(api.protocol, "most_connections", lambda: 8)
    with ExitStack() as stack:
        held = [stack.enter_context(opened(server)) for _ in range(20)]
        assert server.call("GET", "/ping").status == 200
        with suppress(ConnectionResetError):
            assert held[0].recv(1) == b""
        held[-1].sendall(head("Connection: close", method="GET /ping HTTP/1.1"))
        assert all_of(held[-1]).startswith(b"HTTP/1.1 200 ")


def test_the_last_connections_are_kept_for_health_checks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    monkeypatch.setattr(api.protocol, "most_connections", lambda: 8)
    unfinished = head("Content-Length: 50") + b"{"
    handshake = head(*HANDSHAKE, method="GET /v1/audio/speech/stream HTTP/1.1")
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(opened(server)).sendall(unfinished)
        wait_for(lambda: server.call("GET", "/v1/models").status == 503)
        for late in (unfinished, handshake):
            with opened(server) as peer:
                peer.sendall(late)
                answer = all_of(peer)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in answer.lower()
        assert server.call("GET", "/ping").status == 200
    wait_for(lambda: server.call("GET", "/v1/models").status == 200)


def test_silent_connections_keep_nobody_out_of_a_process_with_64_descriptors(
    tmp_path: Path,
) -> None:
    limited = (
        "import resource, runpy;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "runpy.run_path('server.py', run_name='__main__')"
    )
    with server_process(tmp_path, "-c", limited) as server, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(opened(server))
        assert server.call("GET", "/ping").status == 200
        assert server.speak().status == 200


HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


@pytest.mark.parametrize(
    ("method", "further"),
    [
        ("POST /v1/audio/speech HTTP/1.1", ("Content-Length: 5",)),
        ("GET /v1/audio/speech/stream HTTP/1.1", ("Content-Length: 5",)),
        ("GET /v1/audio/speech/stream HTTP/1.1", (f"Cookie: {'a' * 20_000}",)),
    ],
    ids=["no GET", "a body", "a long line"],
)
def test_a_handshake_that_cannot_be_read_is_answered_and_closed(
    start: Start, method: str, further: tuple[str, ...]
) -> None:
    with opened(start()) as peer:
        peer.sendall(head(*HANDSHAKE, *further, method=method))
        answer = all_of(peer)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "invalid_http"' in answer


def test_a_body_with_two_lengths_is_refused_with_what_follows(start: Start) -> None:
    body = b"0\r\n\r\n" + head(method="GET /v1/models HTTP/1.1")
    with opened(start()) as peer:
        peer.sendall(head("Content-Length: 5", "Transfer-Encoding: chunked") + body)
        answer = all_of(peer)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.") == 1


def test_http_1_0_needs_no_host(start: Start) -> None:
    with opened(start()) as peer:
        peer.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert all_of(peer).startswith(b"HTTP/1.1 200 ")


def test_a_socket_of_an_unknown_address_is_told_what_is_missing(start: Start) -> None:
    server = start()

    def told(path: str) -> bytes:
        with opened(server) as peer:
            peer.sendall(head(*HANDSHAKE, method=f"GET {path} HTTP/1.1"))
            return all_of(peer)

    missing = told("/audio/speech/stream")
    assert missing.startswith(b"HTTP/1.1 404 ")
    assert b"The base address has to end in /v1" in missing
    assert b"Invalid URL (WebSocket /nowhere)" in told("/nowhere")
    assert b"/v1" not in told("/nowhere")


def test_who_pings_and_never_reads_is_dropped(start: Start) -> None:
    url = start().url.replace("http", "ws") + "/v1/audio/speech/stream"

    async def scenario() -> int:
        async with connect(url, ping_interval=None, max_queue=1) as peer:
            peer.transport.pause_reading()
            sent = 0
            with pytest.raises((ConnectionClosed, OSError)):
                for _ in range(10_000):
                    for _ in range(100):
                        await peer.ping(sent.to_bytes(125))
                        sent += 1
                    await asyncio.sleep(0)
            return sent

    assert asyncio.run(scenario()) < 1_000_000


def test_a_socket_that_is_refused_is_no_error_of_ours(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()

    async def refuse(path: str, **headers: str) -> int:
        address = f"ws://127.0.0.1:{server.port}{path}"
        try:
            async with connect(address, additional_headers=headers):
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    async def no_utf_8() -> int | None:
        address = f"ws://127.0.0.1:{server.port}/v1/audio/speech/stream"
        async with connect(address) as socket:
            socket.transport.write(b"\x81\x82\x00\x00\x00\x00\xff\xfe")
            with suppress(ConnectionClosed):
                await socket.recv()
            return socket.close_code

    stream = "/v1/audio/speech/stream"
    assert asyncio.run(refuse(stream, Origin="http://evil.example")) == 403
    assert asyncio.run(refuse("/nowhere")) == 404
    assert asyncio.run(no_utf_8()) == 1007
    assert asyncio.run(refuse(stream)) == 101
    assert [record.getMessage() for record in caplog.records if record.levelno > 20] == []
