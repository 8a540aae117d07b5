"""Several models behind one server: chosen, listed, loaded and unloaded over HTTP."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from config import Settings
from engines.base import Engine, EngineSettings
from engines.registry import create_engine
from request.errors import EngineError
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import CAPABILITIES, FakeEngine
from tests.http_server import Server, serving, wait_for
from tests.test_socket import talking

VOICES = {"espeak": ("Alice", "Frank"), "piper": ("Joe",), "kokoro": ("Alice", "Maya")}


class Slow(FakeEngine):
    """An engine whose load waits for `go`, and fails while `broken`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.capabilities = replace(CAPABILITIES, name=name, voices=VOICES[name])
        self.go, self.broken, self.closed = threading.Event(), False, False
        self.go.set()

    def load(self) -> None:
        self.go.wait(30)
        if self.broken:
            raise EngineError("it is broken")
        super().load()

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Slow]:
    """The engines of the server, the latest of each name."""
    made = {name: Slow(name) for name in VOICES}

    def create(name: str, settings: EngineSettings, **more: bool) -> Engine:
        if name == "upstream":
            return create_engine(name, settings, **more)
        if made[name].closed:
            made[name] = Slow(name)
        return made[name]

    monkeypatch.setattr("synthesis.inference.create_engine", create)
    return made


ENV = {"ENGINE": "espeak", "MODELS": "piper,kokoro", "MODEL_ALIASES": "my-tts=piper",
       "MODEL_MIN_RESIDENCY_SEC": "0"}  # fmt: skip


@pytest.fixture
def server(engines: dict[str, Slow], tmp_path: Path) -> Iterator[Server]:
    assert set(engines) == {ENV["ENGINE"], *ENV["MODELS"].split(",")}
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path), **ENV})
    with serving(VibeVoiceInference(settings, concurrency=4)) as server:
        yield server


def resident(server: Server) -> list[str]:
    data = server.call("GET", "/v1/models").json["data"]
    return [each["id"] for each in data if each.get("resident") and "alias_of" not in each]


def test_a_request_is_answered_by_the_model_that_it_names(
    server: Server, engines: dict[str, Slow]
) -> None:
    for model, engine in [("tts-1", "espeak"), ("Piper", "piper"), ("my-tts", "piper")]:
        answer = server.speak(model=model, voice="Alice")
        assert (answer.status, answer.headers["x-speech-engine"]) == (200, engine)
    assert [len(each.speeches) for each in engines.values()] == [1, 2, 0]
    assert resident(server) == ["espeak", "piper"]
    unknown = server.speak(model="kokoro-2")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert "(allowed: espeak, piper, kokoro," in unknown.error["message"]


def test_each_model_has_its_own_voices(server: Server) -> None:
    def own(path: str) -> list[str]:
        data = server.call("GET", path).json["data"]
        return [voice["id"] for voice in data if "alias_of" not in voice]

    assert own("/v1/audio/voices") == ["Alice", "Frank"]
    assert own("/v1/audio/voices?model=my-tts") == ["Joe"]
    assert server.call("GET", "/v1/audio/voices?model=none").status == 404
    assert server.speak(model="piper", voice="Joe").headers["x-speech-voice"] == "Joe"


def test_a_model_is_loaded_and_unloaded_on_demand(server: Server, engines: dict[str, Slow]) -> None:
    loaded = server.call("POST", "/v1/models/my-tts/load")
    assert (loaded.status, loaded.json["resident"], loaded.json["alias_of"]) == (200, True, "piper")
    first = engines["piper"]
    assert first.ready
    for _ in range(2):
        assert server.call("POST", "/v1/models/piper/unload").json["resident"] is False
    assert first.closed
    assert server.speak(model="piper").status == 200
    assert engines["piper"] is not first
    stays = server.call("POST", "/v1/models/espeak/unload")
    assert (stays.status, stays.error["code"]) == (409, "model_in_use")
    assert server.call("POST", "/v1/models/none/load").status == 404
    told = server.call("GET", "/metrics").body.decode()
    assert 'vibevoice_model_loads_total{model="piper"} 2.0' in told
    assert 'vibevoice_model_unloads_total{model="piper"} 1.0' in told
    assert 'vibevoice_model_resident{model="kokoro"} 0.0' in told


def test_a_failed_load_is_told_and_the_next_request_tries_again(
    server: Server, engines: dict[str, Slow]
) -> None:
    engines["piper"].broken = True
    failed = server.speak(model="piper")
    assert (failed.status, failed.error["message"]) == (500, "it is broken")
    assert server.call("GET", "/ping").status == 200  # the default speaks
    assert server.speak(model="piper").status == 200


def test_requests_for_a_loaded_model_wait_for_no_load(
    engines: dict[str, Slow], tmp_path: Path
) -> None:
    env = {"VIBEVOICE_VOLUME": str(tmp_path), **ENV, "MAX_STREAMS": "2", "MAX_QUEUE": "2"}
    inference = VibeVoiceInference(Settings.from_env(env), concurrency=2)
    engines["piper"].go.clear()
    with serving(inference) as server, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(server.speak, model="piper", voice="Joe") for _ in range(2)]
        wait_for(lambda: inference.models.manager.usage("piper").holds == 2)
        for _ in range(4):
            assert server.speak(voice="Alice").headers["x-speech-engine"] == "espeak"
        too_many = server.speak(model="piper")  # as many as may wait for a seat
        assert (too_many.status, too_many.error["code"]) == (503, "queue_full")
        assert int(too_many.headers["retry-after"]) >= 1
        assert not any(each.done() for each in waiting)
        engines["piper"].go.set()
        assert {each.result().headers["x-speech-engine"] for each in waiting} == {"piper"}
    assert inference.models.manager.usage("piper").loads == 1


def test_nothing_is_unloaded_while_it_speaks(server: Server, engines: dict[str, Slow]) -> None:
    engines["piper"].delay = 0.3
    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(server.speak, model="piper")
        wait_for(lambda: bool(engines["piper"].speeches))
        assert server.call("POST", "/v1/models/piper/unload").status == 409
        assert speaking.result().status == 200
    wait_for(lambda: server.call("POST", "/v1/models/piper/unload").status == 200)


def test_capabilities_are_what_a_router_needs(server: Server, engines: dict[str, Slow]) -> None:
    assert server.speak(model="piper").status == 200
    models = server.call("GET", "/v1/capabilities").json["models"]
    assert [each["id"] for each in models] == ["espeak", "piper", "kokoro"]
    default, piper, kokoro = models
    assert (default["default"], piper["default"]) == (True, False)
    assert (default["resident"], piper["resident"], kokoro["resident"]) == (True, True, False)
    assert piper["voices"] == ["Joe"]
    assert piper["languages"] == ["en", "zh"]
    assert piper["sample_rate"] == 24_000
    assert piper["queue_depth"] == 0
    assert piper["real_time_factor"] > 0
    assert piper["first_audio_ms_p50"] >= 0
    assert kokoro["real_time_factor"] is kokoro["first_audio_ms_p50"] is None
    assert engines["kokoro"].closed  # asked, and not kept


def test_the_models_of_another_server_are_chosen_by_their_names(
    server: Server, engines: dict[str, Slow], tmp_path: Path
) -> None:
    env = {"VIBEVOICE_VOLUME": str(tmp_path), "ENGINE": "espeak", "MODELS": "upstream",
           "UPSTREAM_URL": server.url, "UPSTREAM_MODELS": "kokoro,my-tts",
           "UPSTREAM_VOICES": "Alice"}  # fmt: skip
    inference = VibeVoiceInference(Settings.from_env(env), FakeEngine(), concurrency=4)
    with serving(inference) as ours:
        listed = {each["id"]: each for each in ours.call("GET", "/v1/models").json["data"]}
        assert listed["upstream"]["alias_of"] == "kokoro"
        for model, meant in [("my-tts", "piper"), ("upstream", "kokoro"), ("MY-TTS", "piper")]:
            answer = ours.speak(model=model, voice="Alice")
            assert (answer.status, answer.headers["x-speech-engine"]) == (200, "upstream")
            assert len(engines[meant].speeches) > 0
        assert [len(each.speeches) for each in engines.values()] == [0, 2, 1]
        assert resident(ours) == ["fake", "kokoro", "my-tts"]
        assert ours.speak(model="piper").status == 404  # a model of the other, but not named here


def test_a_dry_run_and_a_session_know_the_model(server: Server) -> None:
    plan = server.speak(model="piper", voice="Joe", dry_run=True).json
    assert plan["chunks"][0]["turns"][0]["voice"] == "Joe"
    assert json.dumps(plan)
    assert resident(server) == ["espeak"]


def test_a_session_speaks_by_the_model_that_it_names(
    server: Server, engines: dict[str, Slow]
) -> None:
    async def scenario() -> None:
        async with talking(server, model="my-tts", voice="Joe") as talk:
            await talk.say("input.text", text="One sentence.")
            await talk.say("input.done")
            assert (await talk.until("audio.done"))["utterance"] == 1
        assert talk.audio[1]

    asyncio.run(scenario())
    assert [len(each.speeches) for each in engines.values()] == [0, 1, 0]
    assert {voice.name for voice in engines["piper"].plans[0].voices} == {"Joe"}
    assert "piper" in resident(server)


def test_a_model_that_takes_long_to_say_what_it_can_do_holds_up_no_other(
    server: Server, engines: dict[str, Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = threading.Event(), threading.Event()
    told = engines["piper"].capabilities

    def slowly(_: Slow) -> object:
        asked.set()
        assert go.wait(30)
        return told

    class Asked(Slow):
        capabilities = property(slowly, lambda *_: None)

    monkeypatch.setitem(engines, "piper", Asked("piper"))

    async def scenario() -> None:
        async with talking(server, model="piper") as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            assert await asyncio.to_thread(asked.wait, 30)
            answer = await asyncio.to_thread(server.speak)
            assert answer.headers["x-speech-engine"] == "espeak"
            go.set()
            await talk.until("audio.done")

    asyncio.run(scenario())


def test_what_an_engine_takes_is_known_before_it_was_loaded(server: Server) -> None:
    models = server.call("GET", "/v1/capabilities").json["models"]
    assert [each["memory_mb"] for each in models] == [0, 120, 168]
