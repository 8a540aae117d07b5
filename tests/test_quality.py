"""A chunk that came out badly is repeated, the best take is kept, and the rest is said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audio.chunk_audio import KeptChunkAudio
from audio.pcm import Samples
from audio.spool import Spool
from engines.base import Plan, PlannedChunk, Turn, Voice
from request.errors import Cancelled, EngineError
from synthesis.cancel import CancelToken
from synthesis.quality import Flaw, QualityRetry, Recorded, flaws
from tests.fake_engine import CAPABILITIES, FakeEngine, FakeSpeech, Reason
from text.pace import Pace

SENTENCE = "This sentence has exactly fifty characters, I say."
USUAL = 50 * 0.065
Script = list[tuple[float, Reason]]


class Takes(FakeEngine):
    """Each chunk of each speech comes out as the script says: seconds and reason."""

    def __init__(self, *speeches: Script) -> None:
        super().__init__(capabilities=replace(CAPABILITIES, varies=True))
        self.script = list(speeches)

    def start(self, plan: Plan) -> FakeSpeech:
        chunks = self.script.pop(0)
        self.audio = [np.full(round(seconds * 24_000), 0.5, np.float32) for seconds, _ in chunks]
        self.reasons = {index: reason for index, (_, reason) in enumerate(chunks)}
        return super().start(plan)


PLAN = Plan(
    chunks=tuple(PlannedChunk((Turn(0, SENTENCE),), seed=7) for _ in range(3)),
    voices=(Voice("Alice"),),
)
GOOD: tuple[float, Reason] = (USUAL, "eos")
Record = Callable[..., tuple[list[Recorded[KeptChunkAudio]], list[str]]]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    def record(
        engine: FakeEngine, max_retries: int = 1, pace: Pace | None = None, plan: Plan = PLAN
    ) -> tuple[list[Recorded[KeptChunkAudio]], list[str]]:
        retry = QualityRetry(engine, pace or Pace(3), max_retries, CancelToken())
        spool = Spool(tmp_path)
        recorded = retry.record(plan, lambda: KeptChunkAudio(spool, 24_000, 1))
        spool.close()
        return recorded, list(flaws(recorded))

    return record


def test_good_takes_are_made_once(record: Record) -> None:
    engine = Takes([GOOD, GOOD, GOOD])
    recorded, warnings = record(engine)
    assert [(each.flaw, each.attempts) for each in recorded] == [(Flaw.NONE, 1)] * 3
    assert (len(engine.plans), warnings) == (1, [])


@pytest.mark.parametrize(
    "bad", [(USUAL, "cap"), (0, "empty"), (USUAL / 4, "eos"), (USUAL * 4, "eos")]
)
def test_only_the_bad_chunk_is_repeated_with_the_same_seed_and_voice(
    record: Record, bad: tuple[float, Reason]
) -> None:
    engine = Takes([GOOD, bad, GOOD], [GOOD])
    recorded, warnings = record(engine)
    assert [each.attempts for each in recorded] == [1, 2, 1]
    assert [each.flaw for each in recorded] == [Flaw.NONE] * 3
    assert warnings == []
    repeat = engine.plans[1]
    assert repeat.chunks == (replace(PLAN.chunks[1], attempt=2),)
    assert (repeat.voices, repeat.options) == (PLAN.voices, PLAN.options)


@pytest.mark.parametrize("said", ["OK", "Hi", "7"])
def test_a_few_words_that_ramble_are_repeated(record: Record, said: str) -> None:
    chunk = PlannedChunk((Turn(0, said),), seed=7)
    plan = replace(PLAN, chunks=(chunk,) * 3)
    good: tuple[float, Reason] = (0.7, "eos")
    recorded, warnings = record(Takes([good, (6, "eos"), (2.5, "eos")], [good]), plan=plan)
    assert [each.attempts for each in recorded] == [1, 2, 1]
    assert warnings == []


def test_of_two_bad_takes_the_less_bad_is_kept_and_said(record: Record) -> None:
    engine = Takes([GOOD, (USUAL, "cap"), (0, "empty")], [(0, "empty"), (USUAL * 9, "eos")])
    recorded, warnings = record(engine)
    assert [each.flaw for each in recorded] == [Flaw.NONE, Flaw.CUT, Flaw.ODD_LENGTH]
    assert [each.take.seconds for each in recorded[1:]] == [
        pytest.approx(USUAL, abs=0.01),
        pytest.approx(USUAL * 9, abs=0.01),
    ]
    assert warnings == [
        "chunks[1]: hit its length limit, so its end may be cut off (2 attempts)",
        "chunks[2]: is much longer or shorter than its text, so words may be missing or repeated "
        "(2 attempts)",
    ]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_repeats_are_bounded(record: Record, retries: int) -> None:
    cut: Script = [(USUAL, "cap")]
    engine = Takes([GOOD, GOOD, *cut], *[cut] * retries)
    recorded, warnings = record(engine, retries)
    assert recorded[2].attempts == 1 + retries
    assert engine.script == []
    assert len(warnings) == 1


def test_an_engine_that_never_varies_is_not_asked_again(record: Record) -> None:
    engine = Takes([GOOD, (USUAL, "cap"), (USUAL * 9, "eos")])
    engine.capabilities = CAPABILITIES
    recorded, warnings = record(engine)
    assert [each.flaw for each in recorded] == [Flaw.NONE, Flaw.CUT, Flaw.NONE]
    assert warnings == ["chunks[1]: hit its length limit, so its end may be cut off"]


def test_a_slow_voice_is_not_held_to_the_first_expectation(record: Record) -> None:
    slow: tuple[float, Reason] = (USUAL * 2.5, "eos")
    pace = Pace(2)
    for _ in range(20):
        pace.learn("Alice", SENTENCE, slow[0])
    recorded, _ = record(Takes([slow, slow, slow]), pace=pace)
    assert [each.attempts for each in recorded] == [1, 1, 1]


def test_no_sound_at_all_is_an_error(record: Record) -> None:
    nothing: Script = [(0, "empty")] * 3
    with pytest.raises(EngineError, match="made no sound"):
        record(Takes(nothing, nothing))


def test_samples_that_are_no_numbers_are_an_error(record: Record) -> None:
    broken: Samples = np.full(9600, np.nan, np.float32)
    engine = FakeEngine(audio=lambda _: broken)
    with pytest.raises(EngineError, match="no numbers"):
        record(engine)
    assert engine.speeches[0].cancelled


def test_a_recorder_cancelled_before_it_starts_speaks_nothing(tmp_path: Path) -> None:
    engine = FakeEngine()
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        QualityRetry(engine, Pace(3), 1, token).record(
            PLAN, lambda: KeptChunkAudio(Spool(tmp_path), 24_000, 1)
        )
    assert engine.speeches[0].cancelled
