"""The second door: sound at once, nothing after a failure, and nobody waits for ever."""

import asyncio
import hashlib
import http.client
import io
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest
import soundfile

import api.app
from api.contract import most_bytes, parse
from api.health import Health, health_port
from api.middleware import BodyLimit
from config import ConfigError, Settings
from engines.base import Engine, Plan
from engines.subprocess import SubprocessEngine
from request.errors import EngineError, EngineLost
from request.model import Defaults, parse_request
from request.values import MOST_RECORDING_CHARS
from synthesis.dry_run import dry_run
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine, HeldEngine, ramp
from tests.http_server import ASK, Answer, Server, server_process, serving, wait_for
from tools.demo import reserved_port

LONG = 3200 * 10_000
HUSH = "a secret text"


Start = Callable[..., Server]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def start(tmp_path: Path, engine: FakeEngine) -> Iterator[Start]:
    """Starts a server with settings of the test's own."""
    with ExitStack() as stack:

        def one(ready: bool = True, engine: Engine = engine, **env: str) -> Server:
            settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path), **env})
            inference = VibeVoiceInference(settings, engine, settings.max_streams)
            return stack.enter_context(serving(inference, ready))

        yield one


@pytest.fixture
def server(start: Start) -> Server:
    return start()


def head_of(peer: socket.socket) -> tuple[bytes, bytes]:
    """The headers, and what has come of the body with them."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return body


def test_the_first_bytes_come_before_the_second_frame_is_made(start: Start) -> None:
    engine = HeldEngine()
    server = start(engine=engine)
    with server.raw(response_format="pcm", loudness=None) as peer:
        wait_for(lambda: engine.speeches)
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.recv(1)  # no 200 without a frame
        peer.settimeout(120)
        engine.permits.release(2)  # a frame and the next: 10 ms of a fade are held back
        head, body = head_of(peer)
        assert head.startswith(b"HTTP/1.1 200 OK")
        while len(body) < 3000:
            body += peer.recv(65536)
        assert engine.frames <= 2
        assert set(np.frombuffer(unchunked(body)[1000:3000], "<i2")) == {8192}


def test_a_caller_who_leaves_stops_the_engine_within_one_frame(start: Start) -> None:
    engine = HeldEngine()
    server = start(engine=engine)
    with server.raw(response_format="pcm") as peer:
        wait_for(lambda: engine.speeches)
        engine.permits.release(3)
        head_of(peer)
        made = engine.frames
    wait_for(lambda: engine.speeches[0].cancelled)
    assert engine.frames <= made + 3
    cancels = b'vibevoice_cancels_total{door="http",why="left"} 1.0'
    wait_for(lambda: cancels in server.call("GET", "/metrics").body)
    assert b"vibevoice_active_streams 0.0" in server.call("GET", "/metrics").body


def test_a_caller_who_leaves_before_the_first_sound_stops_the_engine(start: Start) -> None:
    engine = HeldEngine()
    server = start(engine=engine)
    with server.raw():
        wait_for(lambda: engine.speeches)
    wait_for(lambda: engine.speeches[0].cancelled)


def test_a_caller_who_leaves_the_queue_is_never_spoken_for(start: Start) -> None:
    engine = HeldEngine()
    server = start(engine=engine, MAX_STREAMS="1")
    with server.raw():
        wait_for(lambda: engine.speeches)
        with server.raw():
            wait_for(lambda: queue_depth(server) == 1)
        wait_for(lambda: queue_depth(server) == 0)
    assert len(engine.speeches) == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_failure_after_the_first_frame_resets_the_connection(
    server: Server, engine: FakeEngine, version: str
) -> None:
    engine.audio = lambda _: np.full(LONG, 0.25, np.float32)
    engine.fail_at, engine.delay = 5, 0.05
    body = json.dumps(ASK | {"response_format": "pcm"}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as peer:
        head = f"POST /v1/audio/speech HTTP/{version}\r\nHost: 127.0.0.1\r\nContent-Length:"
        peer.sendall(f"{head} {len(body)}\r\n\r\n".encode() + body)
        head_of(peer)
        with pytest.raises(ConnectionResetError):
            while peer.recv(65536):
                pass


def test_a_failure_before_the_first_frame_is_an_envelope(
    server: Server, engine: FakeEngine
) -> None:
    engine.fail_at = 0
    answer = server.speak()
    assert answer.status == 500
    assert answer.headers["x-should-retry"] == "false"
    assert answer.error == {
        "message": "the fake engine failed as it was told to",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }


def test_a_failure_in_a_stream_of_events_is_an_event_and_no_end(
    server: Server, engine: FakeEngine
) -> None:
    engine.audio = lambda _: np.full(LONG, 0.25, np.float32)
    engine.fail_at = 5
    answer = server.speak(stream_format="sse", response_format="pcm")
    parts = answer.body.decode().split("\r\n\r\n")
    told = json.loads(parts[-2].removeprefix("data: "))
    assert (answer.status, parts[-1]) == (200, "")
    assert told["type"] == "error"
    assert told["error"]["type"] == "server_error"
    assert "[DONE]" not in answer.body.decode()


def test_a_flac_says_its_length_and_what_is_in_it(server: Server, engine: FakeEngine) -> None:
    engine.audio = lambda _: np.full(3 * 24_000, 0.25, np.float32)
    answer = server.speak(response_format="flac", loudness=None)
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert "transfer-encoding" not in answer.headers
    samples, rate = soundfile.read(io.BytesIO(answer.body), dtype="int16")
    assert (len(samples), rate) == (3 * 24_000, 24_000)
    assert answer.body[26:42] == hashlib.md5(samples.tobytes()).digest()  # noqa: S324
    pcm = server.speak(response_format="pcm", loudness=None).body
    assert np.array_equal(np.frombuffer(pcm, "<i2"), samples)


def test_a_flac_that_fails_in_the_middle_is_an_envelope(server: Server, engine: FakeEngine) -> None:
    engine.audio = lambda _: np.full(LONG, 0.25, np.float32)
    engine.fail_at = 5
    answer = server.speak(response_format="flac")
    assert (answer.status, answer.error["code"]) == (500, "engine_failed")
    events = server.speak(response_format="flac", stream_format="sse")
    assert (events.status, events.error["code"]) == (500, "engine_failed")


def test_a_caller_who_leaves_before_a_flac_is_whole_stops_the_engine(start: Start) -> None:
    engine = HeldEngine()
    server = start(engine=engine)
    with server.raw(response_format="flac"):
        wait_for(lambda: engine.speeches)
        engine.permits.release(3)
        wait_for(lambda: engine.frames == 3)
    wait_for(lambda: engine.speeches[0].cancelled)
    wait_for(lambda: server.call("GET", "/v1/capabilities").json["slots_taken"] == 0)


def test_who_reads_a_flac_slowly_keeps_nobody_waiting(start: Start, engine: FakeEngine) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 500 * 24_000)
    server = start(MAX_STREAMS="1", MAX_QUEUE="0")
    engine.audio = lambda _: noise.astype(np.float32)
    with server.raw(response_format="flac", loudness=None) as peer:
        head, _ = head_of(peer)
        size = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        assert size > 10_000_000  # more than lies in buffers on the way
        engine.audio = ramp
        assert server.speak().status == 200


def test_what_nobody_foresaw_is_an_envelope_that_quotes_nothing(
    server: Server, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(_: int) -> Any:
        raise RuntimeError(HUSH)

    engine.audio = crash
    answer = server.speak(input=HUSH)
    assert (answer.status, answer.error["message"]) == (
        500,
        "The server failed; its log has the place.",
    )
    assert f"internal error: RuntimeError in {answer.headers['x-request-id']}\n" in caplog.text
    assert HUSH not in caplog.text


def test_an_idle_connection_is_kept_for_longer_than_uvicorn_would(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    for pause in (0, 5.5):
        time.sleep(pause)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().read()
        assert connection.sock is not None  # http.client would open another one silently
    connection.close()


def test_an_engine_that_is_lost_for_good_takes_the_server_out_of_the_pool(
    server: Server, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: Plan) -> Any:
        engine.ready, engine.lost = False, True
        raise EngineLost("the GPU is gone")

    monkeypatch.setattr(engine, "start", start)
    assert server.call("GET", "/ping").status == 200
    answer = server.speak()
    assert (answer.status, answer.error["code"]) == (503, "worker_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert server.call("GET", "/ping").status == 503
    assert server.call("GET", "/health").json == {"status": "unhealthy"}


@pytest.mark.parametrize("name", ["pcm", "flac"])
def test_what_a_load_balancer_would_cut_off_is_refused_before_it_is_spoken(
    start: Start, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server = start(OPENAI_INPUT_LIMIT="20000")
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "one")
    long = "One. [pause:10s] " * (100 if name == "pcm" else 400)
    answer = server.speak(input=long, response_format=name)
    assert (answer.status, answer.error["code"]) == (400, "audio_too_large")
    assert answer.error["param"] == "response_format"
    assert "an answer carries at most 30.0 MB (allowed: " in answer.error["message"]
    assert "opus, " in answer.error["message"]
    assert not engine.plans
    assert server.speak(input="One. [pause:10s]", response_format=name).status == 200


@pytest.mark.parametrize(
    ("failure", "lost", "status"),
    [
        (EngineError("MODEL_PATH: there is no model"), False, 503),
        (EngineLost("the GPU failed"), True, 503),
        (EngineLost("the process has ended"), False, 204),
    ],
)
def test_a_load_that_failed_is_unhealthy_unless_the_engine_starts_anew(
    tmp_path: Path,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    failure: EngineError,
    lost: bool,
    status: int,
) -> None:
    def load() -> None:
        engine.lost = lost
        raise failure

    inference = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    health = Health(inference)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "load", load)
        health.load()
    assert health.status == status
    engine.lost = False
    health.load()
    assert health.status == 200
    engine.ready = False  # and is started anew
    assert health.status == 204
    inference.close()


def test_an_engine_that_is_killed_fails_the_answer_and_speaks_the_next(start: Start) -> None:
    settings = Settings.from_env({}).engine_settings
    engine = SubprocessEngine("espeak", settings, lambda: 10 * time.monotonic())
    server = start(engine=engine)
    ask: dict[str, Any] = {"response_format": "pcm", "seed": 7, "loudness": None}
    whole = server.speak(**ask).body
    with server.raw(**ask | {"input": "The first train leaves at six. " * 130}) as peer:
        assert head_of(peer)[0].startswith(b"HTTP/1.1 200 OK")
        kill(engine)
        with pytest.raises(ConnectionResetError):
            while peer.recv(65536):
                pass
    answer = server.speak(**ask)  # which waits for the next process
    assert (answer.status, answer.body) == (200, whole)
    assert b"vibevoice_restarts_total 1.0" in server.call("GET", "/metrics").body


def test_a_server_whose_engine_starts_anew_loads_and_says_when_to_come_again(start: Start) -> None:
    now = 0.0
    engine = SubprocessEngine("espeak", Settings.from_env({}).engine_settings, lambda: now)
    server = start(engine=engine)

    def ping() -> int:
        return server.call("GET", "/ping").status

    for pause, status in ((1, 204), (2, 204), (4, 503)):
        assert ping() == 200
        kill(engine)
        wait_for(lambda pause=pause: engine._backoff.left() == pause)
        assert ping() == status
        now += pause
        wait_for(lambda: engine.ready)
    kill(engine)
    wait_for(lambda: engine._backoff.left() == 8)
    answer = server.speak()
    assert (answer.status, answer.error["code"]) == (503, "worker_unavailable")
    assert answer.headers["retry-after"] == "8"
    assert server.call("GET", "/v1/capabilities").json["engine"] == "espeak"
    now += 8
    assert server.speak().status == 200
    assert ping() == 200


def kill(engine: SubprocessEngine) -> None:
    assert engine._process is not None
    os.kill(engine._process._child.pid, signal.SIGKILL)


def test_who_comes_to_a_full_queue_is_told_when_to_come_again(start: Start) -> None:
    engine = HeldEngine()
    server = start(engine=engine, MAX_STREAMS="1", MAX_QUEUE="2")
    with ExitStack() as stack:
        stack.enter_context(server.raw())
        wait_for(lambda: engine.speeches)
        for _ in range(2):
            stack.enter_context(server.raw())
        wait_for(lambda: queue_depth(server) == 2)
        answer = server.speak()
        assert (answer.status, answer.error["code"]) == (503, "queue_full")
        assert answer.error["type"] == "server_error"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "vibevoice_queue_depth 2.0" in server.call("GET", "/metrics").body.decode()


def test_those_who_wait_are_served_in_their_order(start: Start) -> None:
    engine = HeldEngine(ramp)
    server = start(engine=engine, MAX_STREAMS="1")
    answers: list[Answer] = []
    threads = []
    for number in range(6):
        thread = threading.Thread(target=lambda n=number: answers.append(server.speak(seed=n)))
        thread.start()
        threads.append(thread)
        wait_for(lambda: engine.speeches)
        wait_for(lambda n=number: queue_depth(server) == n)
    engine.permits.release(1000)
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 6
    assert [plan.chunks[0].seed for plan in engine.plans] == list(range(6))


def test_who_has_heard_the_end_has_given_the_place_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = VibeVoiceInference.work

    async def later(*args: Any) -> Any:
        result = await work(*args)
        await asyncio.sleep(0.2)
        return result

    monkeypatch.setattr(VibeVoiceInference, "work", later)
    server = start(MAX_STREAMS="1", MAX_QUEUE="0")
    assert [server.speak().status for _ in range(3)] == [200] * 3
    assert server.call("GET", "/v1/capabilities").json["slots_taken"] == 0


def queue_depth(server: Server) -> int:
    return int(server.call("GET", "/v1/capabilities").json["queue_depth"])


@pytest.mark.clock
def test_the_longest_time_of_an_answer_is_kept(start: Start) -> None:
    engine = HeldEngine()
    server = start(engine=engine, MAX_REQUEST_SEC="2")  # it has begun by then
    answer = server.speak()
    assert (answer.status, answer.error["code"]) == (504, "timeout")
    wait_for(lambda: engine.speeches[0].cancelled)


def test_both_doors_give_the_same_samples(server: Server, tmp_path: Path) -> None:
    text = "One. [pause:100ms] Two."
    answer = server.speak(input=text, response_format="pcm", loudness=None, seed=3)
    engine = FakeEngine()
    inference = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    fields = {"text": text, "output_format": "pcm", "loudness": None, "seed": 3, "voice": "Alice"}
    request, _ = parse_request(fields, inference.defaults)

    async def filed() -> bytes:
        with inference.workspace() as folder:
            async with inference.plan(request) as planned:
                file = await inference.generate(planned, Path(folder))
            return file.path.read_bytes()

    assert asyncio.run(filed()) == answer.body
    inference.close()


def test_an_answer_says_who_spoke_and_what_was_ignored(server: Server) -> None:
    answer = server.speak(voice="nobody", seed=7, nonsense=1, session_id="x", stream=True)
    named = answer.headers
    assert (named["x-speech-engine"], named["x-speech-voice"]) == ("fake", "Alice")
    assert named["x-speech-seed"] == "7"
    assert named["x-speech-ignored"] == "nonsense; session_id"
    assert "no voice 'nobody'" in named["x-speech-warnings"]


def test_openais_names_become_voices_of_ours(server: Server) -> None:
    assert server.speak(voice="echo").headers["x-speech-voice"] == "Frank"
    assert server.speak(voice="Alloy").headers["x-speech-voice"] == "Alice"
    listed = server.call("GET", "/v1/audio/voices").json
    assert listed["data"] == listed["voices"]
    names = [voice["id"] for voice in listed["data"]]
    assert len(names) == len(set(names)) == 13 + 2
    assert names[-2:] == ["Alice", "Frank"]
    aliases = {voice["id"]: voice["alias_of"] for voice in listed["data"] if "alias_of" in voice}
    assert len(aliases) == 13 and aliases["echo"] == "Frank"


def test_an_unknown_voice_of_a_strict_worker_is_a_404(start: Start) -> None:
    answer = start(STRICT_VOICES="true").speak(voice="nobody")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (
        404,
        "voice_not_found",
        "voice",
    )


def test_the_input_limit_is_a_setting(start: Start) -> None:
    server = start(OPENAI_INPUT_LIMIT="20000")
    assert server.speak(input="Word. " * 3000).status == 200
    answer = server.speak(input="a" * 20_001)
    assert (answer.status, answer.error["code"]) == (400, "string_above_max_length")


def test_the_official_client_speaks_streams_and_understands_errors(start: Start) -> None:
    server = start(API_KEYS="the-key", HOST="127.0.0.1")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="the-key", max_retries=0)
    fields: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": "One."}
    with client.audio.speech.with_streaming_response.create(
        **fields, response_format="flac"
    ) as reply:
        data = io.BytesIO(reply.read())
    with av.open(data, "r", format="flac") as container:
        frames = list(container.decode(audio=0))
    assert {frame.sample_rate for frame in frames} == {24_000}
    assert 7000 < sum(frame.samples for frame in frames) <= 8000
    assert client.audio.speech.create(**fields).content[:2] == b"\xff\xf3"
    assert "tts-1" in {model.id for model in client.models.list()}
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.speech.create(**fields | {"model": "other"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id
    with pytest.raises(openai.BadRequestError, match="string too long"):
        client.audio.speech.create(**fields | {"input": "a" * 4097})
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_the_official_client_repeats_what_is_worth_repeating(
    server: Server, engine: FakeEngine
) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=2)
    engine.fail_at = 0
    with pytest.raises(openai.InternalServerError):
        client.audio.speech.create(model="tts-1", voice="alloy", input="One.")
    assert len(engine.speeches) == 1  # a failure that would come again is not repeated


def test_a_loading_server_says_so(start: Start) -> None:
    server = start(ready=False)
    answer = server.call("GET", "/ping")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    assert server.call("GET", "/health").json == {"status": "loading"}
    assert server.speak().status == 200  # the first answer loads it
    assert server.call("GET", "/ping").status == 200


def test_the_health_port_answers_while_the_model_loads(tmp_path: Path) -> None:
    with reserved_port() as port, server_process(tmp_path, PORT_HEALTH=str(port)):
        health = Server(port)
        wait_for(lambda: health.call("GET", "/ping").status == 200)


def test_capabilities_say_what_it_can_do_and_how_busy_it_is(server: Server) -> None:
    server.speak()
    facts = server.call("GET", "/v1/capabilities").json
    assert (facts["engine"], facts["cloning"], facts["ready"]) == ("fake", True, True)
    assert facts["languages"] == ["en", "zh"]
    assert facts["streaming"] == {"http": True, "sse": True, "websocket": True}
    assert (facts["slots"], facts["slots_taken"], facts["queue_depth"]) == (32, 0, 0)
    assert facts["real_time_factor"] > 0


def test_what_the_device_does_is_in_metrics_and_capabilities(
    server: Server, engine: FakeEngine
) -> None:
    assert b"vibevoice_frame" not in server.call("GET", "/metrics").body
    assert server.call("GET", "/v1/capabilities").json["figures"] == {}
    figures = {"frames_replayed": 7, "frames_eager": 2, "frame_seconds": 0.0113}
    engine.capabilities = replace(
        engine.capabilities, details={"graphs": "18 captured, 180 MiB"}, figures=figures
    )
    shown = server.call("GET", "/metrics").body.decode()
    assert "vibevoice_frames_replayed_total 7.0\n" in shown
    assert "vibevoice_frames_eager_total 2.0\n" in shown
    assert "vibevoice_frame_seconds 0.0113\n" in shown
    capabilities = server.call("GET", "/v1/capabilities").json
    assert capabilities["figures"] == figures
    assert capabilities["model"]["graphs"] == "18 captured, 180 MiB"


def test_metrics_count_what_was_spoken(server: Server) -> None:
    server.speak(input="One.")
    server.speak(model="other")
    for line in (
        'vibevoice_http_answers_total{route="/v1/audio/speech",status="200"} 1.0',
        'vibevoice_http_answers_total{route="/v1/audio/speech",status="404"} 1.0',
        'vibevoice_first_audio_seconds_count{door="http"} 1.0',
        'vibevoice_real_time_factor_count{door="http"} 1.0',
        'vibevoice_encode_seconds_count{door="http"} 1.0',
        "vibevoice_queue_depth 0.0",
        "vibevoice_active_streams 0.0",
        "vibevoice_active_sessions 0.0",
    ):  # an answer is counted once it is out
        wait_for(lambda line=line: line.encode() in server.call("GET", "/metrics").body)


def test_what_an_answer_took_of_the_gpu_is_told_and_counted(
    start: Start, engine: FakeEngine
) -> None:
    engine.capabilities, engine.device_sec = replace(engine.capabilities, gpu=True), 2.5
    server = start(GPU_USD_PER_SECOND="0.0004")
    events = server.speak(stream_format="sse").body.split(b"\r\n\r\n")
    done = json.loads(events[-3].removeprefix(b"data: "))
    assert (done["type"], done["gpu_sec"], done["cost_usd"]) == ("speech.audio.done", 2.5, 0.001)
    server.speak()
    figures = server.call("GET", "/metrics").body.decode()
    assert 'vibevoice_gpu_seconds_total{door="http"} 5.0' in figures
    assert 'vibevoice_cost_usd_total{door="http"} 0.002' in figures


def test_the_time_of_a_cold_start_is_a_figure(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        figures = server.call("GET", "/metrics").body.decode()
    (line,) = (line for line in figures.splitlines() if line.startswith("vibevoice_cold_start_"))
    assert 0.1 < float(line.split(" ")[1]) < 100


def test_without_keys_it_binds_this_machine_alone() -> None:
    assert Settings.from_env({}).address == "127.0.0.1"
    assert Settings.from_env({"API_KEYS": "a, b"}).address == "0.0.0.0"  # noqa: S104
    assert Settings.from_env({"API_KEYS": "a, b,"}).keys == ("a", "b")
    assert Settings.from_env({"ALLOW_ANONYMOUS": "true"}).address == "0.0.0.0"  # noqa: S104
    for host in ("::1", "[::1]"):
        assert Settings.from_env({"HOST": host}).address == "::1"
    with pytest.raises(ConfigError, match="HOST lets other machines in"):
        Settings.from_env({"HOST": "0.0.0.0"})  # noqa: S104
    assert "a-key" not in repr(Settings.from_env({"API_KEYS": "a-key"}))


@pytest.mark.process
@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGQUIT])
def test_every_signal_that_ends_it_ends_it_as_sigterm_does(tmp_path: Path, signum: int) -> None:
    # `server_process` checks that it exits with 0 and leaves no temporary file.
    with server_process(tmp_path) as server, server.raw(input="Word. " * 50) as peer:
        heard = peer.recv(1)
        os.kill(server.pid, signum)
        while part := peer.recv(1 << 16):
            heard += part
        assert heard.endswith(b"\r\n0\r\n\r\n")  # an answer under way is given to its end


def test_the_health_port_is_of_the_same_family_as_the_server(tmp_path: Path) -> None:
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)})
    inference = VibeVoiceInference(settings, FakeEngine())
    health = Health(inference)
    with health_port(health, "::1", 0) as port:
        answer = socket.create_connection(("::1", port or 0), timeout=60)
        answer.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert b" 204 " in answer.recv(100)
        answer.close()
    inference.close()


def test_pages_of_other_sites_may_not_call(server: Server, start: Start) -> None:
    mine = f"http://127.0.0.1:{server.port}"
    for headers, status in (
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),  # a name that was made to resolve to this machine
        ({"Host": "localhost:1"}, 200),
        ({"Origin": mine}, 200),
    ):
        answer = server.call("GET", "/v1/models", headers=headers)
        assert answer.status == status, headers
        assert "access-control-allow-origin" not in answer.headers
        if status == 403:
            assert answer.error["type"] == "permission_error"
    anonymous = start(ALLOW_ANONYMOUS="true", HOST="localhost")
    assert anonymous.call("GET", "/v1/models", headers={"Host": "evil.example"}).status == 403
    assert anonymous.call("GET", "/v1/models", headers={"Host": "[::1]:1"}).status == 200
    allowed = start(CORS_ORIGIN="https://good.example/")
    answer = allowed.call("GET", "/v1/models", headers={"Origin": "https://good.example"})
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    assert answer.headers["vary"] == "Origin"
    bad = allowed.call("GET", "/v1/models", headers={"Origin": "https://evil.example"})
    assert bad.status == 403


def test_a_page_of_another_site_may_ask_first_and_read_why_it_was_refused(start: Start) -> None:
    site = "https://good.example"
    server = start(CORS_ORIGIN=site, API_KEYS="the-key", HOST="127.0.0.1")
    asks = {"Origin": site, "Access-Control-Request-Method": "DELETE"}
    asks["Access-Control-Request-Headers"] = "authorization,x-stainless-os"
    told = server.call("OPTIONS", "/v1/audio/voices/Ada", headers=asks)
    assert told.status == 200
    assert told.headers["access-control-allow-origin"] == site
    assert told.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert "DELETE" in told.headers["access-control-allow-methods"]
    foreign = server.call(
        "OPTIONS", "/v1/models", headers=asks | {"Origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in foreign.headers
    refused = server.call("GET", "/v1/models", headers={"Origin": site})
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, site)
    assert "x-should-retry" in refused.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/audio/voices", "GET, HEAD, POST, OPTIONS"),
        ("GET", "/v1/audio/voices/Ada", "DELETE, OPTIONS"),
        ("POST", "/docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_405_names_all_methods_of_a_path(
    server: Server, method: str, path: str, allow: str
) -> None:
    answer = server.call(method, path)
    assert (answer.status, answer.error["code"]) == (405, "method_not_supported")
    assert answer.headers["allow"] == allow
    assert server.call("OPTIONS", path).headers["allow"] == allow


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["garbage", "large header", "large path", "negative length"],
)
def test_what_is_no_http_is_an_envelope_too(server: Server, request_: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as peer:
        peer.sendall(request_)
        head, body = head_of(peer)
        assert head.startswith(b"HTTP/1.1 400 ")
        while b"}}" not in body:
            body += peer.recv(65536)
        assert json.loads(body)["error"]["code"] == "invalid_http"


def test_a_body_that_does_not_end_is_not_waited_for_in_memory(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as peer:
        peer.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        most = most_bytes(4096) + MOST_RECORDING_CHARS  # a recording may be in it
        for _ in range(most // 0x10000 + 1):
            peer.sendall(chunk)
        head, _ = head_of(peer)
        assert head.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come_in_time_is_a_408(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.app, "UPLOAD", BodyLimit(1000, seconds=0.2))
    with socket.create_connection(("127.0.0.1", start().port), timeout=120) as peer:
        head = "POST /v1/audio/voices HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n"
        peer.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x".encode())
        told, body = head_of(peer)
        assert told.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"]["code"] == "timeout"


def test_a_host_that_is_no_host_breaks_nothing(start: Start) -> None:
    server = start(API_KEYS="the-key", HOST="127.0.0.1")
    headers = {"Host": "[", "Authorization": "Bearer the-key"}
    assert server.call("GET", "/nowhere", headers=headers).error["code"] == "unknown_url"


def test_a_server_with_keys_says_so_in_its_description(server: Server, start: Start) -> None:
    keyed = start(API_KEYS="the-key", HOST="127.0.0.1").call("GET", "/openapi.json").json
    (name,) = keyed["security"][0]
    assert keyed["components"]["securitySchemes"][name] == {"type": "http", "scheme": "bearer"}
    assert "security" not in server.call("GET", "/openapi.json").json


def test_a_body_that_is_no_utf_8_is_no_json(server: Server) -> None:
    headers = {"Content-Type": "application/json"}
    text = json.dumps(ASK | {"input": "caf\u00e9"}, ensure_ascii=False)
    for encoding, status in (
        ("utf-8", 200),
        ("utf-8-sig", 200),
        ("latin-1", 400),
        ("utf-16", 400),
        ("utf-32-le", 400),
    ):
        answer = server.call("POST", "/v1/audio/speech", text.encode(encoding), headers)
        assert answer.status == status, encoding
        assert status == 200 or answer.error["code"] == "invalid_json"


@pytest.mark.parametrize("path", ["/models", "//audio/speech/", "/audio/voices", "/models/tts-1"])
def test_an_address_without_v1_is_told_so(server: Server, path: str) -> None:
    error = server.call("GET", path).error
    assert error["code"] == "unknown_url"
    assert error["message"].endswith("The base address has to end in /v1")
    assert "/v1" not in server.call("GET", "/audio/sing").error["message"]


def test_the_served_model_has_its_own_names_too(start: Start) -> None:
    server = start(MODEL_PATH="microsoft/VibeVoice-1.5B")
    for name in ("microsoft/VibeVoice-1.5B", "VibeVoice-1.5B", "VibeVoice"):
        assert server.speak(model=name).status == 200
        assert server.call("GET", f"/v1/models/{name}").json["id"] == name
    error = server.speak(model="VibeVoice-7B").error
    assert error["code"] == "model_not_found"
    listed = [each["id"] for each in server.call("GET", "/v1/models").json["data"]]
    allowed = error["message"].partition("(allowed: ")[2].removesuffix(")").split(", ")
    assert listed[: len(allowed)] == allowed  # after them come the models that listen
    assert {"microsoft/VibeVoice-1.5B", "VibeVoice-1.5B"} < set(listed)


def test_no_folder_of_this_machine_is_a_models_name_in_a_list(start: Start) -> None:
    server = start(MODEL_PATH="/secret/VibeVoice-7B")
    assert server.speak(model="/secret/VibeVoice-7B").status == 200
    listed = server.call("GET", "/v1/models").body + server.speak(model="other").body
    assert b"VibeVoice-7B" in listed
    assert b"secret" not in listed


LISTS = ("/v1/models", "/models", "/v1/audio/models", "/audio/models/", "/v1/audio/voices")


def test_public_lists_need_no_key_and_show_no_uploads(start: Start, tmp_path: Path) -> None:
    key = {"Authorization": "Bearer the-key"}
    folder = tmp_path / "demo" / "voices"
    folder.mkdir(parents=True)
    for name in ("Mine", "Ada"):
        soundfile.write(folder / f"{name}.wav", np.zeros(4 * 24_000), 24_000)
    note = {"name": "Ada", "consent": "Ada agreed.", "created_at": 1}
    (folder / "Ada.json").write_text(json.dumps(note))
    keyed = {"API_KEYS": "the-key", "HOST": "127.0.0.1"}
    closed, server = start(**keyed), start(PUBLIC_LISTS="true", **keyed)
    for path in (*LISTS, "/audio/voices"):
        assert closed.call("GET", path).status == 401
        assert server.call("GET", path).json["object"] == "list"
        assert server.call("HEAD", path).status == 200
    wrong = {"Authorization": "Bearer wrong"}
    for headers, names in (({}, {"Mine"}), (wrong, {"Mine"}), (key, {"Ada", "Mine"})):
        listed = server.call("GET", "/audio/voices", headers=headers).json["voices"]
        assert {each["name"] for each in listed} & {"Ada", "Mine"} == names
        assert "alloy" in {each["name"] for each in listed}
    for method, path in (
        ("POST", "/v1/audio/voices"),
        ("DELETE", "/v1/audio/voices/Ada"),
        ("GET", "/v1/models/tts-1"),
        ("GET", "/v1/capabilities"),
        ("POST", "/v1/audio/speech"),
    ):
        assert server.call(method, path).status == 401


def test_plans_wait_for_each_other_and_too_many_are_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.speaking.os.cpu_count", lambda: 1)
    server, go, planning = start(MAX_QUEUE="1"), threading.Event(), threading.Semaphore(0)

    def slow(*args: Any, **more: Any) -> Any:
        planning.release()
        assert go.wait(60)
        return dry_run(*args, **more)

    monkeypatch.setattr("synthesis.inference.dry_run", slow)
    plan = ("POST", "/v1/audio/speech/plan", json.dumps(ASK), {"Content-Type": "application/json"})
    with ThreadPoolExecutor(3) as pool:
        try:
            first = pool.submit(server.speak, dry_run=True)
            assert planning.acquire(timeout=60)
            others = [pool.submit(server.call, *plan) for _ in range(2)]
            (refused,), (waiting,) = futures.wait(others, 60, futures.FIRST_COMPLETED)
            assert refused.result().error["code"] == "queue_full"
            assert int(refused.result().headers["retry-after"]) >= 1
            assert server.speak().status == 200  # speech waits for no plan
            assert not planning.acquire(blocking=False)
        finally:
            go.set()
        assert first.result().status == waiting.result().status == 200


def test_a_deep_or_strange_body_is_bad_json(server: Server) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (b"[" * 200_000, b'{"speed": NaN}', b"\xff\xfe\xfd", b"1" * 5000):
        answer = server.call("POST", "/v1/audio/speech", body, headers)
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")


def test_half_a_surrogate_pair_breaks_no_answer(server: Server) -> None:
    assert server.speak(input="One \ud83d two.").status == 200
    assert server.speak(voice="\ud83d").status == 200
    answer = server.speak(model="\ud83d")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert server.speak(response_format="\ud83d").error["code"] == "unsupported_format"
    assert server.speak(stream_format="sse", input="\ud83d two").status == 200


def test_texts_and_keys_never_reach_the_log(tmp_path: Path) -> None:
    with server_process(tmp_path, API_KEYS="hush-hush") as server:
        key = {"Authorization": "Bearer hush-hush", "Content-Type": "application/json"}
        body = json.dumps(ASK | {"input": "A confession."})
        answer = server.call("POST", "/v1/audio/speech", body, key | {"X-Request-ID": "mine"})
        assert answer.status == 200
        assert server.call("GET", "/confession?confession", headers=key).status == 404
        assert server.call("POST", "/v1/audio/speech", body[:-1], key).status == 400
    log = (tmp_path / "log").read_text()
    assert '"request": "mine"' in log
    assert '"route": "/v1/audio/speech", "status": 200' in log
    assert "onfession" not in log and "hush" not in log


def test_the_plan_of_a_text_is_told_without_a_word_spoken(
    server: Server, engine: FakeEngine
) -> None:
    body = json.dumps(ASK | {"input": "It costs $5. [pause:1s] Dr. No left."})
    headers = {"Content-Type": "application/json"}
    answer = server.call("POST", "/v1/audio/speech/plan", body, headers)
    assert answer.status == 200
    chunks = answer.json["chunks"]
    assert [turn["text"] for chunk in chunks for turn in chunk["turns"]] == [
        "It costs 5 dollars.",
        "Dr. No left.",
    ]
    assert [chunk["pause_ms"] for chunk in chunks] == [1000, 0]
    field = json.dumps(ASK | {"input": "It costs $5. [pause:1s] Dr. No left.", "dry_run": True})
    assert server.call("POST", "/v1/audio/speech", field, headers).json == answer.json
    assert engine.speeches == []
    refused = server.call("POST", "/v1/audio/speech/plan", json.dumps(ASK | {"speed": 9}), headers)
    assert (refused.status, refused.error["param"]) == (400, "speed")


def test_a_text_without_a_word_is_silence(server: Server, engine: FakeEngine) -> None:
    answer = server.speak(input=".", response_format="pcm")
    assert (answer.status, answer.body) == (200, bytes(14_400))
    assert answer.headers["x-speech-warnings"].startswith("text: holds nothing that can be spoken")
    events = server.speak(input="...", stream_format="sse").body
    assert events.endswith(b"data: [DONE]\r\n\r\n")
    assert b"speech.audio.done" in events
    assert server.speak(input=" ").error["param"] == "input"
    assert engine.speeches == []


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({"cfg_scale": "2"}, "cfg_scale", 2.0),
        ({"seed": "7"}, "seed", 7),
        ({"disable_prefill": "yes"}, "disable_prefill", True),
        ({"speed": "1.5"}, "speed", 1.5),
    ],
)
def test_numbers_and_booleans_may_be_texts_as_in_a_job(
    fields: dict[str, Any], field: str, value: Any
) -> None:
    """Form builders and command lines send them so."""
    ask = parse(ASK | fields, Defaults())
    job, _ = parse_request({"text": "One."} | fields, Defaults())
    assert getattr(ask.speech, field) == getattr(job, field) == value


def test_a_value_of_another_kind_is_told_as_such(server: Server) -> None:
    answer = server.speak(cfg_scale="abc")
    assert (answer.status, answer.error["code"]) == (400, "invalid_type")
    assert answer.error["param"] == "cfg_scale"
