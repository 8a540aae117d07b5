"""An upstream server as an engine: our own server as the other side, and one that lies."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import ConfigError, Settings
from engines.base import End, Engine, Frame, Plan, PlannedChunk, Turn, Voice
from engines.registry import create_engine
from engines.upstream import client
from engines.upstream.client import Upstream
from engines.upstream.engine import UpstreamEngine
from request.errors import Cancelled, EngineError
from tests.engine_contract import EngineContract, by_chunk, in_threads
from tests.http_server import server_process

PCM = {"Content-Type": "audio/pcm"}
PLAN = Plan((PlannedChunk((Turn(0, "Hello there."),), 5),), (Voice("alloy"),))


class Liar(ThreadingHTTPServer):
    """Answers every request with `answer(handler)`, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: Any = None
        super().__init__(("127.0.0.1", 0), _Handler)

    def says(
        self,
        body: bytes,
        headers: dict[str, str] = PCM,
        status: int = 200,
        length: int | None = None,
    ) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            if length is not None:
                handler.send_header("Content-Length", str(length))
            handler.end_headers()
            handler.wfile.write(body)

        self.answer = answer


class _Handler(BaseHTTPRequestHandler):
    server: Liar

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        self.server.answer(self)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def liar() -> Iterator[Liar]:
    with Liar() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def engine(liar: Liar, path: str = "", key: str | None = None) -> UpstreamEngine:
    return UpstreamEngine(Upstream(f"http://127.0.0.1:{liar.server_port}{path}", key, "their-tts"))


def spoken(liar: Liar, plan: Plan = PLAN) -> np.ndarray[Any, Any]:
    return by_chunk(list(engine(liar).start(plan)))[0]


def told(liar: Liar) -> EngineError:
    with pytest.raises(EngineError) as caught:
        spoken(liar)
    return caught.value


def ramp(count: int) -> bytes:
    return np.linspace(-16384, 16384, count).astype("<i2").tobytes()


class TestUpstreamEngine(EngineContract):
    """The other side is our own server, which speaks with the preview voice."""

    deterministic = False  # nobody gives the server a seed
    port = 0

    def make_engine(self) -> Engine:
        upstream = Upstream(f"http://127.0.0.1:{type(self).port}", None, "tts-1")
        return UpstreamEngine(upstream, ("Alice", "Frank"))

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def other_side(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with server_process(tmp_path_factory.mktemp("upstream")) as server:
            cls.port = server.port
            yield


# What is asked


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_a_request_is_openais_with_the_servers_model_and_key(liar: Liar, path: str) -> None:
    liar.says(ramp(100))
    list(engine(liar, path, key="hush").start(PLAN))
    ((asked, headers, body),) = liar.asked
    assert asked == "/v1/audio/speech"
    assert headers["Authorization"] == "Bearer hush"
    assert body == {
        "model": "their-tts",
        "input": "Hello there.",
        "voice": "alloy",
        "response_format": "pcm",
    }


def test_every_turn_is_a_request_in_its_own_voice_and_nothing_to_say_is_none(liar: Liar) -> None:
    liar.says(ramp(100))
    turns = (Turn(0, "One."), Turn(1, "Two."), Turn(0, "..."))
    plan = Plan((PlannedChunk(turns, 1),), (Voice("alloy"), Voice("nova")))
    assert len(by_chunk(list(engine(liar).start(plan)))[0]) == 200
    assert [(body["voice"], body["input"]) for _, _, body in liar.asked] == [
        ("alloy", "One."),
        ("nova", "Two."),
    ]


def test_the_engine_is_made_from_its_settings(tmp_path: Path) -> None:
    env = {
        "UPSTREAM_URL": "http://127.0.0.1:9/v1",
        "UPSTREAM_KEY": "hush",
        "UPSTREAM_MODELS": "one, two",
        "UPSTREAM_VOICES": "anna,ben",
        "VIBEVOICE_VOLUME": str(tmp_path),
    }
    made = create_engine("upstream", Settings.from_env(env).engine_settings)
    assert made.capabilities.voices == ("anna", "ben")
    assert made.capabilities.details == {"model": "one"}
    other = create_engine(
        "upstream", {**Settings.from_env(env).engine_settings, "upstream_model": "two"}
    )
    assert other.capabilities.details == {"model": "two"}
    assert "hush" not in str(Settings.from_env(env).engine_settings)


@pytest.mark.parametrize(
    ("name", "value"), [("UPSTREAM_URL", "ftp://here"), ("UPSTREAM_KEY", "two words")]
)
def test_a_setting_that_cannot_work_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        Settings.from_env({name: value})


def test_without_an_address_it_says_which_setting_is_missing() -> None:
    with pytest.raises(EngineError, match="UPSTREAM_URL is not set"):
        create_engine("upstream", Settings.from_env({}).engine_settings).load()


# What is answered


def test_samples_arrive_as_they_were_sent(liar: Liar) -> None:
    liar.says(ramp(5000))
    assert np.array_equal(spoken(liar), np.frombuffer(ramp(5000), "<i2") / np.float32(32768))


def test_another_rate_is_resampled(liar: Liar) -> None:
    liar.says(ramp(16_000), {"Content-Type": "audio/pcm;rate=16000;channels=1"})
    assert len(spoken(liar)) == 24_000


def test_sound_is_passed_on_while_the_server_still_speaks(liar: Liar) -> None:
    go_on = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "audio/pcm")
        handler.end_headers()
        handler.wfile.write(ramp(10_000))
        assert go_on.wait(60)
        handler.wfile.write(ramp(10_000))

    liar.answer = answer
    events = iter(engine(liar).start(PLAN))
    assert isinstance(next(events), Frame)
    go_on.set()
    assert isinstance(list(events)[-1], End)


@pytest.mark.parametrize(
    ("body", "headers", "problem"),
    [
        (b"<html>Welcome!</html>", {"Content-Type": "text/html"}, "sends no PCM"),
        (b'{"audio": 1}', {"Content-Type": "application/json"}, "sends no PCM"),
        (ramp(10), {"Content-Type": "audio/mpeg"}, "sends no PCM"),
        (b"RIFF" + ramp(100), PCM, "an audio file where PCM"),
        (ramp(100) + b"x", PCM, "half a sample"),
        (b"", PCM, "no audio"),
        (ramp(9), {"Content-Type": "audio/pcm;rate=0"}, "rate or channels"),
        (ramp(9), {"Content-Type": "audio/pcm;rate=999999"}, "rate or channels"),
        (ramp(9), {"Content-Type": "audio/pcm;rate=-1"}, "rate or channels"),
        (ramp(9), {"Content-Type": "audio/pcm;rate=24000;channels=2"}, "rate or channels"),
    ],
)
def test_what_is_no_pcm_is_told_and_never_heard(
    liar: Liar, body: bytes, headers: dict[str, str], problem: str
) -> None:
    liar.says(body, headers)
    assert problem in str(told(liar))


def test_a_body_that_is_cut_off_is_no_clean_end(liar: Liar) -> None:
    liar.says(ramp(5000), length=20_000)
    assert "broke off its answer (IncompleteRead)" in str(told(liar))


def test_a_chunked_body_that_is_cut_off_is_no_clean_end(liar: Liar) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        headers = b"Content-Type: audio/pcm\r\nTransfer-Encoding: chunked\r\n\r\n"
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + headers + b"FFFF\r\n" + ramp(5000))

    liar.answer = answer
    assert "broke off its answer (IncompleteRead)" in str(told(liar))


def test_more_sound_than_the_text_can_take_is_refused(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_SOUND_SEC", 0)
    liar.says(bytes(2 * 24_000 * 20))
    assert "takes too much sound" in str(told(liar))


def test_a_drip_of_bytes_is_cut_off_by_the_time_of_the_whole(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_ANSWER_SEC", 0)
    monkeypatch.setattr(client, "_ANSWER_SEC_A_CHARACTER", 0.01)
    stopped = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "audio/pcm")
        handler.end_headers()
        try:
            while not stopped.wait(0.01):
                handler.wfile.write(b"\0\0")
        except OSError:
            stopped.set()

    liar.answer = answer
    assert "takes too much time" in str(told(liar))
    assert stopped.wait(60)  # the connection was closed


def test_silence_on_the_wire_is_told_as_the_servers(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_SILENT_SEC", 0.05)
    done = threading.Event()
    liar.answer = lambda _: done.wait(60)
    error = told(liar)
    done.set()
    assert error.problems[0].code == "worker_unavailable"
    assert "sent nothing for" in str(error)


@pytest.mark.parametrize(
    ("status", "headers", "code", "retry"),
    [
        (429, {"Retry-After": "7"}, "worker_unavailable", 7),
        (503, {"Retry-After": "soon"}, "worker_unavailable", 5),
        (401, {}, "engine_failed", None),
        (500, {}, "engine_failed", None),
        (302, {"Location": "http://127.0.0.1:1/"}, "engine_failed", None),
    ],
)
def test_a_refusal_is_told_with_its_status(
    liar: Liar, status: int, headers: dict[str, str], code: str, retry: int | None
) -> None:
    body = json.dumps({"error": {"code": "some_code", "message": "the key hush is wrong"}})
    liar.says(body.encode(), headers, status)
    error = told(liar)
    assert (error.problems[0].code, error.problems[0].retry) == (code, retry)
    assert str(error) == f"the upstream server refuses the request ({status}, some_code)"
    assert len(liar.asked) == 1


@pytest.mark.parametrize("body", [b"[]", b"\xff", b'{"error": {"code": "<b>"}}', b"x" * 50_000])
def test_a_refusal_in_other_words_is_told_without_them(liar: Liar, body: bytes) -> None:
    liar.says(body, {}, 400)
    assert str(told(liar)) == "the upstream server refuses the request (400)"


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nobody = UpstreamEngine(Upstream(f"http://127.0.0.1:{held.getsockname()[1]}", None, "m"))
        with pytest.raises(EngineError, match="cannot be reached") as caught:
            list(nobody.start(PLAN))
    assert caught.value.problems[0].code == "worker_unavailable"


def test_cancel_ends_a_read_that_waits_for_the_server(liar: Liar) -> None:
    asked, done = threading.Event(), threading.Event()

    def answer(_: object) -> None:
        asked.set()
        done.wait(60)

    liar.answer = answer
    speech = engine(liar).start(PLAN)

    def work(number: int) -> None:
        if number:
            assert asked.wait(60)
            speech.cancel()
        else:
            began = time.monotonic()
            with pytest.raises(Cancelled):
                list(speech)
            assert time.monotonic() - began < 30

    in_threads(2, work)
    done.set()
