"""The recogniser among the models of a worker: one for all, loaded, leased and unloaded as they."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from engines.base import Turn, Voice
from engines.manager import ModelManager, Policy
from engines.memory import Memory
from request.errors import EngineError
from synthesis.inference import VibeVoiceInference
from tests.fake_recognizer import FakeRecognizer, managed, tones
from tests.http_server import Server, serving, wait_for
from tests.real_speech import WHISPER, require_packages
from tests.test_models_http import ENV, Slow, engines, resident
from tests.test_transcription import ask, wav
from transcription.registry import register_recognizer
from transcription.verifier import SpeechVerifier

__all__ = ["engines"]  # the fixture
ROOT = Path(__file__).resolve().parent.parent
SAID = ("file", wav(tones(440, 880)))
EAR = "fake-ear"


class Ear(FakeRecognizer):
    """One whose load waits for `go`, and fails while `broken`."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        super().__init__(gate)
        self.go, self.broken, self.loads = threading.Event(), False, 0
        self.go.set()

    def load(self) -> None:
        if not self.ready:
            assert self.go.wait(30)
            self.loads += 1
            if self.broken:
                raise EngineError("the ear is broken")
        super().load()


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def inference(engines: dict[str, Slow], tmp_path: Path) -> VibeVoiceInference:
    assert set(engines) == {ENV["ENGINE"], *ENV["MODELS"].split(",")}
    env = {"VIBEVOICE_VOLUME": str(tmp_path), **ENV, "MODEL_RESIDENT_CAP": "2"}
    return VibeVoiceInference(Settings.from_env(env), concurrency=4)


@pytest.fixture
def server(inference: VibeVoiceInference, ear: Ear) -> Iterator[Server]:
    with serving(inference, recognizer=ear) as server:
        yield server


def test_it_is_loaded_by_its_first_recording_and_listed(server: Server, ear: Ear) -> None:
    assert resident(server) == ["espeak"]
    assert ask(server, SAID).json["text"] == "tone 440 tone 880"
    assert resident(server) == ["espeak", EAR]
    named = server.call("GET", "/v1/models/whisper-1").json
    assert (named["alias_of"], named["resident"], named["default"]) == (EAR, True, True)
    assert server.call("GET", "/v1/capabilities").json["transcription"]["resident"] is True
    assert ask(server, SAID).status == 200
    assert ear.loads == 1


def test_it_is_loaded_and_unloaded_on_demand(server: Server, ear: Ear) -> None:
    assert server.call("POST", "/v1/models/whisper-1/load").json["resident"] is True
    assert ear.ready
    assert server.call("POST", f"/v1/models/{EAR}/unload").json["resident"] is False
    assert not ear.ready
    told = server.call("GET", "/metrics").body.decode()
    assert f'vibevoice_model_loads_total{{model="{EAR}"}} 1.0' in told
    assert f'vibevoice_model_unloads_total{{model="{EAR}"}} 1.0' in told
    assert f'vibevoice_model_resident{{model="{EAR}"}} 0.0' in told


def test_recordings_that_come_together_wait_for_one_load_and_hold_it(
    server: Server, ear: Ear, inference: VibeVoiceInference
) -> None:
    ear.go.clear()
    ear.gate = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        hearing = [pool.submit(ask, server, SAID) for _ in range(2)]
        wait_for(lambda: inference.models.manager.usage(EAR).holds == 2)
        assert server.speak(voice="Alice").status == 200  # waits for no load
        ear.go.set()
        wait_for(lambda: len(ear.asked) == 2)
        refused = server.call("POST", f"/v1/models/{EAR}/unload")
        assert (refused.status, refused.error["code"]) == (409, "model_in_use")
        ear.gate.set()
        assert [each.result().status for each in hearing] == [200, 200]
    assert ear.loads == 1
    assert inference.models.manager.usage(EAR).holds == 0


def test_a_failed_load_is_told_and_the_next_recording_tries_again(server: Server, ear: Ear) -> None:
    ear.broken = True
    failed = ask(server, SAID)
    assert (failed.status, failed.error["message"]) == (500, "the ear is broken")
    ear.broken = False
    assert ask(server, SAID).status == 200


def test_it_makes_room_and_others_make_room_for_it(server: Server) -> None:
    for model, kept in [("piper", "piper"), (None, EAR), ("kokoro", "kokoro")]:
        answer = server.speak(model=model) if model else ask(server, SAID)
        assert answer.status == 200
        assert resident(server) == ["espeak", kept]
    told = server.call("GET", "/metrics").body.decode()
    assert f'vibevoice_model_evictions_total{{model="{EAR}"}} 1.0' in told


def test_a_damaged_recording_loads_nothing(server: Server, ear: Ear) -> None:
    assert ask(server, ("file", b"no audio")).status == 400
    assert ear.loads == 0


def test_each_take_that_is_verified_has_its_lease(ear: Ear) -> None:
    now = [0.0]
    manager = ModelManager(
        Policy(ttl_sec=10, least_sec=0), free=Memory, used=Memory, now=lambda: now[0]
    )
    ear.gate = threading.Event()
    with closing(manager), closing(SpeechVerifier(managed(manager, ear))) as verifier:

        def heard() -> Any:
            return verifier.hear(
                [Turn(0, "tone 440 tone 880")], [Voice("a")], "en", tones(440, 880)
            )

        first = heard()
        wait_for(lambda: ear.asked)
        now[0] = 100
        assert not manager.unload(EAR)
        assert manager.sweep() is None  # it is held
        ear.gate.set()
        assert first.result(30).wer == 0
        assert manager.sweep() == 110
        now[0] = 110
        manager.sweep()
        assert not ear.ready
        assert heard().result(30).wer == 0
    assert ear.loads == 2


def test_two_models_of_one_name_are_refused() -> None:
    manager = ModelManager(Policy())
    register_recognizer(manager, {})
    with pytest.raises(EngineError, match="two models with the name whisper"):
        register_recognizer(manager, {})
    manager.close()


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from config import Settings
from engines.base import Turn, Voice
from engines.memory import used_memory
from synthesis.inference import VibeVoiceInference
from tests.fake_recognizer import tone
from transcription.base import Clip, Options
from transcription.registry import create_verifier, register_recognizer
from transcription.transcriber import Transcriber

inference = VibeVoiceInference(Settings.from_env({
    "VIBEVOICE_VOLUME": sys.argv[1], "ENGINE": "espeak", "CPU_THREADS": "1"}))
manager = inference.models.manager
lease = register_recognizer(manager, inference.settings.recognizer_settings)
inference.verifier = create_verifier(lease)
transcriber = Transcriber(lease, 1, 60)
clip = tone(440, 2)

async def hear():
    async with transcriber.hear(Clip(clip), Options("en")) as (_, segments):
        return [segment async for segment in segments]

for turn in range(3):
    asyncio.run(hear())
    inference.verifier.hear([Turn(0, "Hello.")], [Voice("a")], "en", clip).result()
    loaded, usage = used_memory().host, manager.usage("whisper")
    assert manager.unload("whisper")
    left = used_memory().host
    print(usage.loads, *(round(size / 2**20) for size in (usage.size.host, loaded, left)))
transcriber.close()
inference.close()
"""


@pytest.mark.models
def test_whisper_is_loaded_once_for_both_and_gives_its_memory_back(tmp_path: Path) -> None:
    require_packages(*WHISPER, "rapidfuzz", "whisper_normalizer")
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [[int(number) for number in line.split()] for line in run.stdout.splitlines()]
    assert [row[0] for row in rows] == [1, 2, 3], rows
    assert all(row[1] > 60 for row in rows), rows
    # What the first use leaves for good are libraries; a third load takes no more than the second.
    assert rows[2][2] < rows[1][2] * 1.1, rows
    assert all(row[2] - row[3] > 60 for row in rows), rows
    assert rows[2][3] < rows[1][3] * 1.1, rows
