import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from config import Settings
from engines.base import End, Engine, Frame, Plan, PlannedChunk, Turn, Voice
from engines.espeak.engine import EspeakEngine
from engines.registry import NAMES, create_engine
from engines.vibevoice.engine import VibeVoiceEngine
from request.errors import Cancelled, EngineError
from tests.engine_contract import EngineContract, by_chunk, in_threads
from tests.fake_engine import FakeEngine, ramp
from tests.real_engines import kokoro, piper


class TestEspeakEngine(EngineContract):
    def make_engine(self) -> Engine:
        return EspeakEngine()


@pytest.mark.models
class TestKokoroEngine(EngineContract):
    has_model = True

    def make_engine(self) -> Engine:
        return kokoro()

    def make_plan(self) -> Plan:
        return short_plan()


@pytest.mark.models
class TestPiperEngine(EngineContract):
    has_model = True
    deterministic = False  # its models draw random numbers that nobody can seed

    def make_engine(self) -> Engine:
        return piper()

    def make_plan(self) -> Plan:
        return short_plan()


def short_plan() -> Plan:
    """A second of sound, since a model makes it anew for each test."""
    chunks = (PlannedChunk((Turn(0, "Yes."),), 11), PlannedChunk((Turn(1, "No."),), 12))
    return Plan(chunks, (Voice("Alice"), Voice("Frank")))


class TestFakeEngine(EngineContract):
    def make_engine(self) -> Engine:
        return FakeEngine(delay=0.0002)


class TestInterleavingFakeEngine(EngineContract):
    def make_engine(self) -> Engine:
        return FakeEngine(interleave=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_engine_is_made_from_the_workers_settings_by_its_name(name: str) -> None:
    if name in ("vibevoice", "realtime"):
        pytest.importorskip("torch")  # which says how many jobs it takes
    engine = create_engine(name, Settings.from_env({}).engine_settings)
    assert (engine.capabilities.name, engine.ready, engine.lost) == (name, False, False)


def test_an_engine_is_told_no_secret_but_its_own() -> None:
    env = {"HF_TOKEN": "hush", "API_KEYS": "key"}
    told = Settings.from_env(env).engine_settings
    assert "hf_token" in told
    assert not {"api_keys", "s3_secret_access_key"} & told.keys()
    assert "hush" not in str(told)


def test_the_setting_takes_the_names_of_all_engines() -> None:
    assert get_args(Settings.model_fields["engine"].annotation) == ("auto", *NAMES)


def test_vibevoice_is_made_from_the_settings_that_name_it(tmp_path: Path) -> None:
    env = {
        "MODEL_PATH": "some/model",
        "MODEL_REVISION": "v2",
        "VIBEVOICE_CODE": f"{tmp_path}/code",
        "VIBEVOICE_VOLUME": f"{tmp_path}/volume",
        "HF_HOME": f"{tmp_path}/home",
        "MODEL_CACHES": "/one:/two",
        "HF_TOKEN": "hush",
        "VIBEVOICE_RUNTIME": "reference",
        "MAX_SLOTS": "3",
        "VIBEVOICE_ATTENTION": "flash",
        "VIBEVOICE_GRAPHS": "off",
    }
    made = vars(create_engine("vibevoice", Settings.from_env(env).engine_settings))
    wanted = VibeVoiceEngine(
        "some/model",
        revision="v2",
        code=tmp_path / "code",
        volume=tmp_path / "volume",
        hub_cache=tmp_path / "home" / "hub",
        further_caches=[Path("/one"), Path("/two")],
        token="hush",
        runtime="reference",
        slots=3,
        attention="flash",
        graphs=False,
    )
    known = ("_model", "_revision", "_code", "_volume", "_hub", "_attention", "_graphs", "_slots")
    assert {name: made[name] for name in known} == {name: vars(wanted)[name] for name in known}
    assert made["_runtime_name"] == "reference"


PLAN = Plan(
    chunks=tuple(PlannedChunk((Turn(0, "ignored"),), seed) for seed in (5, 6)),
    voices=(Voice("Alice"),),
)


def test_the_fake_engine_speaks_the_samples_it_was_given() -> None:
    given = [np.full(5, 0.5, np.float32), np.zeros(0, np.float32)]
    events = list(FakeEngine(audio=given, frame=2, reasons={0: "cap"}).start(PLAN))
    assert [len(event.samples) for event in events if isinstance(event, Frame)] == [2, 2, 1]
    assert np.array_equal(by_chunk(events)[0], given[0])
    assert events[3:] == [End(0, "cap", 5), End(1, "empty", 6)]


def test_the_fake_engine_interleaves_frames_of_its_chunks() -> None:
    events = list(FakeEngine(interleave=True, frame=4000).start(PLAN))
    assert [(event.chunk, isinstance(event, End)) for event in events] == [
        (0, False),
        (1, False),
        (0, False),
        (1, False),
        (0, True),
        (1, True),
    ]
    assert np.array_equal(by_chunk(events)[1], ramp(1))


def test_the_fake_engine_fails_at_the_frame_it_was_told() -> None:
    reader = iter(FakeEngine(fail_at=1).start(PLAN))
    assert isinstance(next(reader), Frame)
    with pytest.raises(EngineError):
        next(reader)


def test_the_fake_engine_remembers_its_plans_and_who_was_cancelled() -> None:
    engine = FakeEngine()
    first, second = engine.start(PLAN), engine.start(PLAN)
    second.cancel()
    assert engine.plans == [PLAN, PLAN]
    assert [speech.cancelled for speech in engine.speeches] == [False, True]
    assert engine.speeches == [first, second]


def test_a_slow_fake_engine_is_cancelled_while_it_waits() -> None:
    speech = FakeEngine(delay=threading.TIMEOUT_MAX).start(PLAN)
    waiting = threading.Event()

    def work(number: int) -> None:
        if number:
            assert waiting.wait(60)
            speech.cancel()
        else:
            waiting.set()
            with pytest.raises(Cancelled):
                next(iter(speech))

    in_threads(2, work)
