"""The bridge over real sockets: servers that misbehave, and more audio than fits in memory."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.bad_network import Handler, mute, serving
from tests.bridge import Bridge, bridge

pytestmark = pytest.mark.process
TOKEN = "sk-test"
MB = 1_000_000
SPEECH = {"model": "tts-1", "input": "Hello.", "voice": "alloy", "response_format": "pcm"}


@contextmanager
def in_front_of(handler: Handler, **settings: str) -> Iterator[Bridge]:
    """A bridge whose RunPod is `handler`."""
    with serving(handler) as port:
        runpod = {"RUNPOD_URL": f"http://127.0.0.1:{port}"}
        given = {"AUTH_TOKEN": TOKEN, "RUNPOD_WAIT_SECONDS": "1"} | runpod | settings
        with bridge(**given) as one:
            yield one


def post(one: Bridge, **fields: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.post(
        f"{one.url}/v1/audio/speech", headers=headers, json=SPEECH | fields, timeout=60
    )


async def request(reader: asyncio.StreamReader) -> str:
    """Reads a request whole; gives its path."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    for line in head.split("\r\n"):
        if line.lower().startswith("content-length:"):
            await reader.readexactly(int(line.split(":")[1]))
    return head.split()[1]


def head(length: int | None, kind: str = "application/json") -> bytes:
    """The head of an answer; without a length its body comes in `chunk`s."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = "HTTP/1.1 200 OK", f"Content-Type: {kind}", framing
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def completed(**output: str) -> bytes:
    return json.dumps({"id": "job-1", "output": output, "status": "COMPLETED"}).encode()


def test_a_runpod_that_says_nothing_is_given_up() -> None:
    with in_front_of(mute) as one:
        answer = post(one)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert answer.headers["x-should-retry"] == "false"


def test_a_runpod_that_resets_may_be_tried_again() -> None:
    async def resetting(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await request(reader)

    with in_front_of(resetting) as one:
        answer = post(one)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert answer.headers["retry-after"] == "2"


def test_an_answer_that_is_cut_off_may_have_cost() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(head(1000) + b'{"id": "job-1", "output": {"audio_base64": "AAAA')
        await writer.drain()
        await asyncio.sleep(0.1)

    with in_front_of(cut) as one:
        answer = post(one)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert answer.headers["x-should-retry"] == "false"


def test_an_answer_that_drips_arrives() -> None:
    audio = bytes(range(256)) * 4
    body = completed(audio_base64=base64.b64encode(audio).decode(), format="pcm")

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(head(len(body)))
        for at in range(0, len(body), 7):
            writer.write(body[at : at + 7])
            await writer.drain()
            await asyncio.sleep(0.001)

    with in_front_of(dripping) as one:
        answer = post(one)
    assert (answer.status_code, answer.content) == (200, audio)


def test_a_30_mb_answer_arrives_with_its_length() -> None:
    audio = b"\x01\x02\x03" * (7_500_000)
    body = completed(audio_base64=base64.b64encode(audio).decode(), format="pcm")
    assert len(body) > 30 * MB

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(head(len(body)) + body)
        await writer.drain()
        await reader.read()

    with in_front_of(large) as one:
        answer = post(one)
    assert answer.headers["content-length"] == str(len(audio))
    assert answer.content == audio


BLOCK = bytes(range(256)) * 256


def sending(blocks: int, cut_after: int | None = None, declared: bool = True) -> Handler:
    """A speech server with `blocks` of 64 KiB, and a RunPod whose answer is a link to them."""
    piece = BLOCK if declared else chunk(BLOCK)

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = await request(reader)
        if "runsync" in path:
            _, port = writer.get_extra_info("sockname")
            body = completed(audio_url=f"http://127.0.0.1:{port}/file", format="pcm")
            writer.write(head(len(body)) + body)
        else:
            writer.write(head(blocks * len(BLOCK) if declared else None, "audio/pcm"))
            for block in range(blocks):
                if block == cut_after:
                    return
                writer.write(piece)
                await writer.drain()
            writer.write(b"" if declared else chunk(b""))
        await writer.drain()
        await reader.read()

    return send


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
@pytest.mark.parametrize("backend", ["link", "direct"])
def test_audio_that_breaks_off_is_seen_to_break_off(backend: str, declared: bool) -> None:
    with (
        serving(sending(100, cut_after=50, declared=declared)) as port,
        bridge(**backend_settings(backend, port)) as one,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        post(one)


@pytest.mark.parametrize("backend", ["link", "direct"])
def test_audio_of_unknown_length_arrives_whole(backend: str) -> None:
    with (
        serving(sending(100, declared=False)) as port,
        bridge(**backend_settings(backend, port)) as one,
    ):
        answer = post(one)
    assert "content-length" not in answer.headers
    assert answer.content == 100 * BLOCK


def backend_settings(backend: str, port: int) -> dict[str, str]:
    name = "SPEECH_URL" if backend == "direct" else "RUNPOD_URL"
    return {"AUTH_TOKEN": TOKEN, name: f"http://127.0.0.1:{port}"}


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_audio_that_stands_still_is_broken_off(declared: bool) -> None:
    async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        length = 10 * len(BLOCK) if declared else None
        writer.write(head(length, "audio/pcm") + (BLOCK if declared else chunk(BLOCK)))
        await writer.drain()
        await reader.read()

    with (
        serving(stalling) as port,
        bridge(**backend_settings("direct", port), IDLE_TIMEOUT_SECONDS="1") as one,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        post(one)


def test_a_direct_server_sees_that_the_caller_has_left() -> None:
    left = threading.Event()

    async def speaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(head(1000 * len(BLOCK), "audio/pcm"))
        try:
            while not reader.at_eof():
                writer.write(BLOCK)
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            left.set()

    with serving(speaking) as port, bridge(**backend_settings("direct", port)) as one:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{one.url}/v1/audio/speech"
        with httpx.stream("POST", url, json=SPEECH, headers=headers, timeout=60) as answer:
            next(answer.iter_bytes())
        assert left.wait(60)


@pytest.mark.parametrize("backend", ["link", "direct"])
def test_200_mb_pass_through_a_bridge_that_stays_small(backend: str) -> None:
    blocks = 200 * MB // len(BLOCK)
    with (
        serving(sending(blocks)) as port,
        bridge(**backend_settings(backend, port)) as one,
    ):
        most = Peak(one)
        with most, httpx.stream(
            "POST", f"{one.url}/v1/audio/speech", json=SPEECH,
            headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60,
        ) as answer:  # fmt: skip
            assert answer.headers["content-length"] == str(blocks * len(BLOCK))
            passed = 0
            for data in answer.iter_bytes(len(BLOCK)):
                assert data == BLOCK
                passed += len(data)
        assert passed == blocks * len(BLOCK)
    # What the collector has not taken back yet, some 90 MB; it is no more after 2 GB.
    assert most.mb - most.before_mb < 150


class Peak:
    """The most that a bridge holds in RAM during a block."""

    def __init__(self, one: Bridge) -> None:
        self._bridge, self._over = one, threading.Event()
        self.before_mb = self.mb = one.memory_mb()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.mb = max(self.mb, self._bridge.memory_mb())
