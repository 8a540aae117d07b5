"""The bridge end to end: OpenAI's own clients, the bridge in workerd, RunPod's API on loopback, the
real SDK's worker loop, and the preview voice. What the clients get is decoded and checked."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.bridge import ROOT, Bridge, bridge, wrangler
from tests.need import require_node, require_program
from tests.openai_speech import CASES, TEXT, TYPES, answers_of, check, decoded, send
from tests.runpod_api import RunPodApi
from tests.runpod_wire import KEY, Job
from tests.worker_process import FAKE, Worker, worker
from tools.demo import reserved_port

pytestmark = pytest.mark.process
TOKEN = "sk-test"


@dataclass(frozen=True, slots=True)
class Stack:
    bridge: Bridge
    worker: Worker

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": TOKEN, "max_retries": 0, **options}
        return openai.OpenAI(base_url=f"{self.bridge.url}/v1", **options)


def settings(api: RunPodApi, **more: str) -> dict[str, str]:
    here = {"RUNPOD_URL": f"{api.url}/loopback/runsync", "RUNPOD_API_KEY": KEY}
    return here | {"AUTH_TOKEN": TOKEN} | more


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with (
        RunPodApi() as api,
        worker(api, folder / "worker", MAX_CONCURRENCY="8", SAVE_OUTPUT="false") as one,
        bridge(**settings(api)) as door,
    ):
        yield Stack(door, one)
    assert api.violations == []
    assert TEXT not in one.log() + door.log()
    assert TOKEN not in door.log()


# The contract


@pytest.fixture(scope="module")
def answers(stack: Stack) -> dict[str, httpx.Response]:
    return answers_of(stack.bridge.url, TOKEN)


@pytest.mark.parametrize("name", CASES)
def test_the_contract_holds(name: str, answers: dict[str, httpx.Response], tmp_path: Path) -> None:
    check(name, answers, tmp_path)
    if "audio" in CASES[name]:
        assert int(answers[name].headers["content-length"]) == len(answers[name].content)


def test_the_facts_are_in_headers(stack: Stack) -> None:
    case = {
        "speech": {"seed": 7, "nonsense": 1, "voice": "nova"},
        "headers": {"X-Request-ID": "r-7"},
    }
    answer = send(stack.bridge.url, TOKEN, case)
    facts = {name: value for name, value in answer.headers.items() if name.startswith("x-speech")}
    assert facts.pop("x-speech-job") in stack.worker.api.jobs
    assert 1 < float(facts.pop("x-speech-seconds")) < 5
    for part in ("queue", "synth", "total"):
        assert int(facts.pop(f"x-speech-{part}-ms")) >= 0
    assert facts == {
        "x-speech-engine": "espeak",
        "x-speech-voice": "Maya",
        "x-speech-seed": "7",
        "x-speech-ignored": "nonsense",
    }
    assert "request r-7" in stack.worker.log()


# OpenAI's clients


@pytest.mark.parametrize("name", TYPES)
def test_the_python_client_gets_a_file(name: Any, stack: Stack, tmp_path: Path) -> None:
    speech = stack.client().audio.speech.create(
        model="tts-1", voice="alloy", input=TEXT, response_format=name
    )
    assert decoded(speech.content, name, tmp_path) > 1


@pytest.mark.parametrize("name", TYPES)
def test_the_python_client_streams_a_file(name: Any, stack: Stack, tmp_path: Path) -> None:
    streaming = stack.client().audio.speech.with_streaming_response
    with streaming.create(
        model="gpt-4o-mini-tts", voice="verse", input=TEXT, response_format=name
    ) as response:
        data = b"".join(response.iter_bytes(1000))
    assert decoded(data, name, tmp_path) > 1


def test_the_python_client_lists_and_describes_models(stack: Stack) -> None:
    client = stack.client()
    assert "gpt-4o-mini-tts" in {model.id for model in client.models.list()}
    assert client.models.retrieve("tts-1").owned_by == "vibevoice"


def test_the_python_client_raises_its_own_errors(stack: Stack) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        stack.client(api_key="wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    client = stack.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.audio.speech.create(model="fake_id", voice="alloy", input="Hi.")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.audio.speech.create(model="tts-1", voice="alloy", input="Hi.", speed=9)
    assert wrong.value.param == "speed"
    assert wrong.value.request_id


def test_what_the_worker_refuses_is_the_callers_error(stack: Stack) -> None:
    extra = {"voice_url": "http://127.0.0.1:1/a.wav"}
    with pytest.raises(openai.BadRequestError) as refused:
        stack.client(max_retries=2).audio.speech.create(
            model="tts-1", voice="alloy", input=TEXT, extra_body=extra
        )
    assert (refused.value.code, refused.value.param) == ("invalid_value", "voice_url")
    assert "leads to no public http address" in refused.value.message


def test_a_file_that_does_not_fit_is_refused_with_the_formats_that_do(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        stack.client(max_retries=2).audio.speech.create(
            model="tts-1", voice="alloy", input="ha " * 1365, response_format="pcm", speed=0.25
        )
    assert (refused.value.code, refused.value.param) == ("audio_too_large", "response_format")
    assert refused.value.message.endswith("(allowed: a shorter text)")
    with pytest.raises(openai.BadRequestError, match="allowed: mp3, opus, aac, a shorter text"):
        stack.client().audio.speech.create(
            model="tts-1", voice="alloy", input="ha " * 1365, response_format="wav", speed=0.65
        )


def test_too_many_requests_are_tried_again(stack: Stack, tmp_path: Path) -> None:
    stack.worker.api.fail("runsync", 429)
    with pytest.raises(openai.RateLimitError) as limited:
        stack.client().audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
    assert limited.value.code == "rate_limit_exceeded"
    assert limited.value.response.headers["retry-after"] == "5"
    stack.worker.api.fail("runsync", 503)
    speech = stack.client(max_retries=1).audio.speech.create(
        model="tts-1", voice="alloy", input=TEXT, response_format="wav"
    )
    assert decoded(speech.content, "wav", tmp_path) > 1


def test_the_npm_client_speaks(stack: Stack, tmp_path: Path) -> None:
    run = subprocess.run(
        [require_node(), "test/client.mjs", f"{stack.bridge.url}/v1", TOKEN, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    told = json.loads(run.stdout)
    for name in TYPES:
        for kind in ("whole", "streamed"):
            assert decoded((tmp_path / f"{kind}.{name}").read_bytes(), name, tmp_path) > 1
    assert "tts-1" in told["models"]
    assert told["events"][-1] == "speech.audio.done"
    assert decoded((tmp_path / "events.mp3").read_bytes(), "mp3", tmp_path) > 1
    assert told["errors"] == [
        ["AuthenticationError", 401, "invalid_api_key"],
        ["NotFoundError", 404, "model_not_found"],
        ["BadRequestError", 400, "missing_required_parameter"],
    ]


# Callers who leave, and jobs that fail


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker that does what the text says; see `tests.fake_worker`."""
    folder = tmp_path_factory.mktemp("told")
    with (
        RunPodApi() as api,
        worker(api, folder / "worker", FAKE, MAX_CONCURRENCY="4", MAX_RETRIES="0") as one,
        bridge(**settings(api, RUNPOD_WAIT_SECONDS="1")) as door,
    ):
        yield Stack(door, one)
    assert api.violations == []


class Leaving(httpx.HTTPTransport):
    """Leaves the first request before its answer, when `until` returns, and by a reset:
    Cloudflare's edge sees every leaving; workerd by itself takes a closed connection for one that
    only has no more to say, until an answer begins. `again` is set at the next request."""

    def __init__(self, until: Callable[[], object]) -> None:
        super().__init__()
        self.again = threading.Event()
        self._until: Callable[[], object] | None = until

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        until, self._until = self._until, None
        if until is None:
            self.again.set()
            return super().handle_request(request)
        target = request.url.raw_path.decode()
        lines = [f"{request.method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        with socket.create_connection((request.url.host, request.url.port or 80)) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.sendall("\r\n".join([*lines, "", ""]).encode() + request.read())
            until()
        raise httpx.ReadTimeout("left", request=request)


def whats(stack: Stack, text: str) -> list[str]:
    return [what for _, what in stack.worker.journal(text)]


def speaking(stack: Stack, text: str) -> None:
    stack.worker.api.until(lambda: "frame" in whats(stack, text))


def jobs_of(stack: Stack, text: str) -> list[Job]:
    jobs = stack.worker.api.jobs.values()
    return [job for job in jobs if job.wire["input"]["input"] == text]


def test_a_client_that_leaves_stops_the_job(told: Stack) -> None:
    text = "frames9 held1"
    leaving = Leaving(lambda: speaking(told, text))
    client = told.client(http_client=httpx.Client(transport=leaving))
    with pytest.raises(openai.APITimeoutError):
        client.audio.speech.create(model="tts-1", voice="alloy", input=text)
    told.worker.api.until(lambda: "cancelled" in whats(told, text))
    assert [job.status for job in jobs_of(told, text)] == ["CANCELLED"]


def test_a_job_that_outlasts_the_wait_is_waited_for(told: Stack) -> None:
    text = "frames40 held20"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            told.client().audio.speech.create,
            model="tts-1", voice="alloy", input=text, response_format="pcm",
        )  # fmt: skip
        told.worker.api.until(lambda: told.worker.api.seen("status"))
        told.worker.go_on(text)
        assert len(asked.result().content) == 40 * 3200 * 2


def test_a_failed_job_is_not_paid_for_three_times(told: Stack) -> None:
    text = "frames4 fail1"
    with pytest.raises(openai.InternalServerError) as failed:
        told.client(max_retries=2).audio.speech.create(model="tts-1", voice="alloy", input=text)
    assert "failed as it was told to" in failed.value.message
    assert whats(told, text).count("start") == 1


@pytest.mark.clock
def test_a_clients_own_retry_joins_the_job_that_it_left(
    told: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A job that was left waits 2 s for it, of which a slow machine needs the most.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0)
    text = "frames26 held13"
    api = told.worker.api
    more = {"RUNPOD_WAIT_SECONDS": "1", "VIBEVOICE_BUCKET": "R2"}
    leaving = Leaving(lambda: speaking(told, text))
    with (
        bridge(**settings(api, **more)) as door,
        httpx.Client(transport=leaving) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        client = Stack(door, told.worker).client(max_retries=1, http_client=http)
        asked = pool.submit(
            client.audio.speech.create,
            model="tts-1", voice="alloy", input=text, response_format="pcm",
        )  # fmt: skip
        assert leaving.again.wait(60)
        (job,) = jobs_of(told, text)
        count = len(api.seen("status", job.id))
        api.until(lambda: len(api.seen("status", job.id)) > count + 1)
        told.worker.go_on(text)
        assert len(asked.result().content) == 26 * 3200 * 2
    assert [job.status for job in jobs_of(told, text)] == ["COMPLETED"]


# Pieces while the worker speaks


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("streaming")
    with (
        RunPodApi() as api,
        worker(api, folder / "worker", FAKE, MAX_CONCURRENCY="4", STREAM_JOBS="true") as one,
        bridge(**settings(api, RUNPOD_STREAM="true")) as door,
    ):
        yield Stack(door, one)
    assert api.violations == []


def test_a_stream_begins_while_the_worker_speaks(streaming: Stack) -> None:
    text = "frames40 held20"
    create = streaming.client().audio.speech.with_streaming_response.create
    with create(model="tts-1", voice="alloy", input=text, response_format="pcm") as response:
        chunks = response.iter_bytes()
        data = next(chunks)
        streaming.worker.go_on(text)
        data += b"".join(chunks)
    assert len(data) == 40 * 3200 * 2


@pytest.mark.parametrize("name", TYPES)
def test_a_stream_is_one_file_in_every_format_and_at_its_speed(
    name: Any, streaming: Stack, tmp_path: Path
) -> None:
    create = streaming.client().audio.speech.with_streaming_response.create
    with create(
        model="tts-1", voice="alloy", input="frames40", response_format=name, speed=2
    ) as response:
        assert response.headers["content-type"] == TYPES[name]
        assert ("content-length" in response.headers) == (name == "flac")  # which comes whole
        data = response.read()
    assert decoded(data, name, tmp_path) == pytest.approx(40 * 3200 / 24_000 / 2, rel=0.1)


def test_a_client_that_leaves_a_stream_stops_the_job(streaming: Stack) -> None:
    text = "frames400 delay100"
    create = streaming.client().audio.speech.with_streaming_response.create
    with create(model="tts-1", voice="alloy", input=text, response_format="pcm") as response:
        next(response.iter_bytes())
    streaming.worker.api.until(lambda: "cancelled" in whats(streaming, text))


def test_a_stream_that_fails_is_an_error_event_and_no_end(streaming: Stack) -> None:
    case = {"speech": {"input": "frames40 delay10 fail30", "stream_format": "sse"}}
    lines = send(streaming.bridge.url, TOKEN, case).text.strip().split("\r\n\r\n")
    assert "speech.audio.delta" in lines[0]
    assert json.loads(lines[-1].removeprefix("data: "))["type"] == "error"


def test_a_raw_stream_that_fails_does_not_end_like_a_whole_one(streaming: Stack) -> None:
    case = {"speech": {"input": "frames40 delay10 fail31", "response_format": "pcm"}}
    with pytest.raises(httpx.RemoteProtocolError):
        send(streaming.bridge.url, TOKEN, case)


# What a new user does and reads


def test_the_readme_names_every_setting_and_header() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (`.+?) \|", readme, re.M)
    documented = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    read = re.findall(r'this\.\w+\(\s*"([A-Z_]+)"', (ROOT / "settings.js").read_text())
    headers = re.findall(r'"(X-Speech-[\w-]+)"', (ROOT / "facts.js").read_text())
    assert len(read) > 10
    assert set(read) | set(headers) <= documented
    assert {name for name in documented if name.isupper() or name[:2] == "X-"} == {*read, *headers}


def test_wrangler_takes_the_example_as_it_is(tmp_path: Path) -> None:
    run = wrangler("deploy", "--dry-run", "--outdir", str(tmp_path / "out"), folder=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "--dry-run: exiting now." in run.stdout


def test_make_bridge_serves_in_front_of_make_serve(local_api: int, tmp_path: Path) -> None:
    require_program("make", "make")
    require_program("curl", "curl")
    require_node()
    if not (Path(sys.prefix) / ".node").exists():
        pytest.skip("needs the virtual environment of `make setup`")
    with reserved_port() as port:
        command = ["make", "-s", "bridge", f"VENV={sys.prefix}"]
        command += [f"PORT={local_api}", f"BRIDGE_PORT={port}"]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"CI": "true"}, start_new_session=True,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    assert (
                        httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).status_code == 200
                    )
                    break
                except httpx.TransportError:
                    ended = process.poll() is not None or time.monotonic() > deadline
                    assert not ended, (tmp_path / "log").read_text()
                    time.sleep(0.1)
            readme = (ROOT / "README.md").read_text().replace("127.0.0.1:8787", f"127.0.0.1:{port}")
            (curl,) = re.findall(r"^```bash\n(.*?)^```", readme, re.M | re.S)
            (python,) = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
            subprocess.run(["bash", "-euo", "pipefail", "-c", curl], cwd=tmp_path, check=True)
            subprocess.run([sys.executable, "-c", python], cwd=tmp_path, check=True)
            for name in ("mp3", "wav"):
                assert decoded((tmp_path / f"fox.{name}").read_bytes(), name, tmp_path) > 1
        finally:
            os.killpg(process.pid, 15)
            process.wait(60)
