"""The fast runtime behind the engine wall, held against the reference on the paced checkpoint."""

import functools
from collections.abc import Iterator

import numpy as np
import pytest

from engines.base import End, Frame, Options, Plan, PlannedChunk, Samples, Turn
from engines.vibevoice.batch import Batch
from engines.vibevoice.engine import VibeVoiceEngine
from engines.vibevoice.fast import FastRuntime
from speech.voices import NO_VOICE
from tests import vibevoice_fixtures as vibevoice
from tests.engine_contract import EngineContract, by_chunk
from tests.vibevoice_fixtures import TEXT, plan, voice

torch = vibevoice.torch
pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)

TWO = (voice(), voice(200))


def new_engine(slots: int | None = None) -> VibeVoiceEngine:
    return VibeVoiceEngine(
        str(vibevoice.checkpoint()), volume=vibevoice.volume(), device="cpu", slots=slots
    )


@functools.cache
def engine() -> VibeVoiceEngine:
    return vibevoice.engine("fast")


def batch_of(engine: VibeVoiceEngine) -> Batch:
    runtime = engine._loaded()
    assert isinstance(runtime, FastRuntime)
    return runtime.batch


@pytest.fixture
def own() -> Iterator[VibeVoiceEngine]:
    """An engine that a test may break."""
    made = new_engine()
    made.load()
    yield made
    made.close()


class TestContract(EngineContract):
    def make_engine(self) -> VibeVoiceEngine:
        return new_engine()

    def make_plan(self) -> Plan:
        return Plan(
            (
                PlannedChunk((Turn(0, "Short."), Turn(1, "Very.")), seed=11),
                PlannedChunk((Turn(1, "And shorter."),), seed=12),
            ),
            TWO,
            Options(steps=1),
        )


class TestContractOfMixedBuckets(TestContract):
    """Chunks whose seed nobody asked for run in whatever bucket is cheapest."""

    deterministic = False

    def make_plan(self) -> Plan:
        usual = super().make_plan()
        return Plan(usual.chunks, usual.voices, Options(steps=1, repeatable=False))


def assert_close(one: Samples, other: Samples, bound: float = 1e-4) -> None:
    """Equal lengths, and relative root mean square of the difference below the bound."""
    assert one.shape == other.shape
    assert np.sqrt(np.mean((one - other) ** 2)) < bound * np.sqrt(np.mean(other**2))


def assert_as_reference(request: Plan) -> list[Frame | End]:
    ours, theirs = list(engine().start(request)), list(vibevoice.engine().start(request))
    spoken, wanted = by_chunk(ours), by_chunk(theirs)
    assert spoken.keys() == wanted.keys()
    for chunk, heard in wanted.items():
        if len(heard):
            assert_close(spoken[chunk], heard)
    ends = {event for event in theirs if isinstance(event, End)}
    assert {event for event in ours if isinstance(event, End)} == ends
    return ours


@pytest.mark.parametrize(
    "request_",
    [
        plan(TEXT),
        plan(TEXT, seed=8, attempt=2),
        plan(TEXT, voices=(voice(200, 2.03),), attempt=3),
        plan(TEXT, voices=(NO_VOICE,)),
        plan(TEXT, voices=(NO_VOICE,), attempt=2),
        plan(TEXT, options=Options(steps=10, cfg_scale=2.5)),
        plan(TEXT, options=Options(steps=3, disable_prefill=True)),
        plan(TEXT, options=Options(steps=2, disable_prefill=True), attempt=2),
        plan(TEXT, options=Options(steps=1)),
        plan(TEXT, "More of it.", options=Options(steps=2, frames_per_token=0.1, min_frames=5)),
        plan("One.", TEXT, "", "Four has more to say.", "... !?", "Six."),
        plan(
            (Turn(0, "I have none."), Turn(1, "I have one."), Turn(2, "Nor have I.")),
            voices=(NO_VOICE, voice(), NO_VOICE),
        ),
        plan(
            (Turn(0, "Hello there."), Turn(3, "How are you?"), Turn(1, "I am fine.")),
            (Turn(2, "Today?"), Turn(0, "There."), Turn(2, "Yes.")),
            voices=(voice(90, 0.41), voice(120, 1.1), voice(150, 0.7), voice(200, 0.9)),
        ),
    ],
    ids=str,
)
def test_what_comes_is_what_the_reference_makes(request_: Plan) -> None:
    assert_as_reference(request_)
