"""The bridge in front of the second door: its bytes go straight through, and whatever goes wrong on
either side is seen on the other."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from config import Settings
from synthesis.inference import VibeVoiceInference
from tests.bridge import Bridge, bridge
from tests.fake_engine import FakeEngine
from tests.http_server import server_process, serving, wait_for
from tests.openai_speech import CASES, TYPES, answers_of, check, decoded, send

pytestmark = pytest.mark.process
TOKEN = "sk-test"
KEY = "the-server's-key"
LONG = 3200 * 1000


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    folder = tmp_path_factory.mktemp("direct")
    with (
        server_process(folder / "server", API_KEYS=KEY, HOST="127.0.0.1") as server,
        bridge(**settings(server.url)) as one,
    ):
        yield one


def settings(url: str) -> dict[str, str]:
    return {"SPEECH_URL": url, "RUNPOD_API_KEY": KEY, "AUTH_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def answers(door: Bridge) -> dict[str, httpx.Response]:
    return answers_of(door.url, TOKEN)


@pytest.mark.parametrize("name", CASES)
def test_the_contract_holds(name: str, answers: dict[str, httpx.Response], tmp_path: Path) -> None:
    check(name, answers, tmp_path)
    if "audio" in CASES[name]:
        assert ("content-length" in answers[name].headers) == (CASES[name]["audio"] == "flac")


@pytest.mark.parametrize("name", TYPES)
def test_the_python_client_streams_a_file(name: str, door: Bridge, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=f"{door.url}/v1", api_key=TOKEN, max_retries=0)
    create = client.audio.speech.with_streaming_response.create
    with create(model="tts-1", voice="nova", input="One.", response_format=name) as response:  # type: ignore[arg-type]
        data = b"".join(response.iter_bytes(1000))
    assert decoded(data, name, tmp_path) > 0.3


def test_the_servers_own_voices_are_listed_with_the_maps(door: Bridge) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    listed = httpx.get(f"{door.url}/v1/audio/voices", headers=headers, timeout=60).json()["data"]
    assert {"alloy", "Alice"} <= {voice["id"] for voice in listed}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(audio=lambda _: np.full(LONG, 0.25, np.float32), delay=0.02)


@contextmanager
def in_front_of(engine: FakeEngine, folder: Path) -> Iterator[Bridge]:
    here = Settings.from_env({"VIBEVOICE_VOLUME": str(folder), "API_KEYS": KEY})
    inference = VibeVoiceInference(here, engine, here.max_streams)
    with (
        serving(inference) as server,
        bridge(**settings(server.url)) as one,
    ):
        yield one


def test_audio_that_fails_at_the_server_breaks_off_at_the_bridge(
    engine: FakeEngine, tmp_path: Path
) -> None:
    engine.fail_at = 20
    case = {"speech": {"response_format": "pcm"}}
    with (
        in_front_of(engine, tmp_path) as one,
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
    ):
        send(one.url, TOKEN, case)
    (broken,) = [line for line in one.log().splitlines() if "broke_off" in line]
    assert (json.loads(broken)["broke_off"], json.loads(broken)["code"]) == (502, "upstream_error")


def test_the_servers_error_event_goes_through(engine: FakeEngine, tmp_path: Path) -> None:
    engine.fail_at = 20
    with in_front_of(engine, tmp_path) as one:
        text = send(one.url, TOKEN, {"speech": {"stream_format": "sse"}}).text
    *_, last = text.strip().split("\r\n\r\n")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["message"]) == (
        "server_error",
        "the fake engine failed as it was told to",
    )
    assert "[DONE]" not in text


def test_a_failure_before_the_first_sound_is_the_servers_own_error(
    engine: FakeEngine, tmp_path: Path
) -> None:
    engine.fail_at = 0
    with in_front_of(engine, tmp_path) as one:
        answer = send(one.url, TOKEN, {"speech": {}})
    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["message"] == "the fake engine failed as it was told to"


def test_a_client_that_leaves_stops_the_servers_engine(engine: FakeEngine, tmp_path: Path) -> None:
    with in_front_of(engine, tmp_path) as one:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key=TOKEN, max_retries=0)
        create = client.audio.speech.with_streaming_response.create
        with create(model="tts-1", voice="alloy", input="Long.", response_format="pcm") as response:
            next(response.iter_bytes(1000))
        wait_for(lambda: engine.speeches[0].cancelled)
