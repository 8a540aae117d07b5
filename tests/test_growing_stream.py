"""A text that comes section by section is one stream: one plan, one seed, one gain."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.pcm import Samples
from config import Settings
from request.errors import EngineError, RequestError
from request.model import SpeechRequest
from synthesis.inference import VibeVoiceInference
from synthesis.parts import StreamOptions
from synthesis.plan import GrowingPlan, Section
from synthesis.result import AudioPart, Result, StreamStart
from synthesis.stream import Stalled, StreamItem
from tests.fake_engine import FakeEngine, HeldEngine
from tests.http_server import wait_for
from tests.test_stream import noise, request, streamed

SECTIONS = [Section("One."), Section("Two.", 40), Section("[pause:500ms] Three.", 600)]
FRAMES = StreamOptions(longest_part_sec=0, longest_block_sec=0)


def said(words: str) -> Samples:
    """Other samples for other words, whichever chunk of whichever plan they are."""
    return noise(sum(map(ord, words)))


class SaysWords(FakeEngine):
    def samples(self, chunk: int) -> Samples:
        return said(" ".join(turn.text for turn in self.plans[-1].chunks[chunk].turns))


@pytest.fixture
def engine() -> FakeEngine:
    return SaysWords()


@pytest.fixture
def inference(tmp_path: Path, engine: FakeEngine) -> Iterator[VibeVoiceInference]:
    made = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    yield made
    made.close()


async def feed(sections: Sequence[Section], wait_sec: float = 0) -> AsyncGenerator[Section, None]:
    for section in sections:
        await asyncio.sleep(wait_sec)
        yield section


def grown(
    inference: VibeVoiceInference,
    asked: SpeechRequest,
    sections: Sequence[Section] = SECTIONS,
    wait_sec: float = 0,
) -> list[StreamItem]:
    async def main() -> list[StreamItem]:
        stream = inference.stream(asked, FRAMES, feed(sections, wait_sec))
        return [item async for item in stream]

    return asyncio.run(main())


def pcm(items: Sequence[object]) -> bytes:
    return b"".join(item.data for item in items if isinstance(item, AudioPart))


def results(items: Sequence[object]) -> list[Result]:
    return [item for item in items if isinstance(item, Result)]


def test_sections_one_by_one_and_all_at_once_are_the_same_samples_as_one_text(
    inference: VibeVoiceInference,
) -> None:
    at_once = grown(inference, request("-"))
    one_by_one = grown(inference, request("-"), wait_sec=0.05)
    text = "One. [pause:40ms] Two. [pause:500ms] Three."
    whole, result = streamed(inference, request(text))
    for items in (at_once, one_by_one):
        assert pcm(items) == b"".join(whole)
        total = sum(each.duration_sec for each in results(items))
        assert total == pytest.approx(result.duration_sec, abs=1e-5)


def test_each_section_comes_as_it_begins_then_its_parts_then_its_result(
    inference: VibeVoiceInference,
) -> None:
    start, *items = grown(inference, request("-"))
    assert isinstance(start, StreamStart)
    kinds = [type(item) for item in items]
    assert [kind for at, kind in enumerate(kinds) if at == 0 or kind != kinds[at - 1]] == [
        Section,
        AudioPart,
        Result,
    ] * 3
    assert [item for item in items if isinstance(item, Section)] == SECTIONS


def test_a_silence_is_a_number_that_scales_with_speed_and_yields_to_the_texts_own(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    for speed in (1.0, 2.0):
        items = grown(inference, request("-", speed=speed))
        starts = [result.chunks[0].start_sec for result in results(items)]
        assert starts == [0, 0.04 / speed, 0.5 / speed]
    words = [turn.text for plan in engine.plans for turn in plan.chunks[0].turns]
    assert words == ["One.", "Two.", "Three."] * 2


def test_one_seed_is_drawn_and_one_gain_is_kept_for_all_sections(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    inference.models.lease().loudness.remember("Alice", -30.0)
    start, *items = grown(inference, request("-", seed=None, loudness=-20))
    assert isinstance(start, StreamStart)
    assert start.gain_db == 10.0
    assert (
        inference.models.lease().loudness.recall("Alice") != -30.0
    )  # the first section was measured
    assert {result.gain_db for result in results(items)} == {10.0}
    assert {result.seed for result in results(items)} == {start.seed}
    assert {plan.chunks[0].seed for plan in engine.plans} == {start.seed}


def test_speakers_keep_their_voices_and_who_is_new_gets_another(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    lines = ["Speaker 1: Hi.", "Speaker 2: Ho.", "And on.", "Speaker 1: Hm."]
    items = grown(inference, request("-"), [Section(line) for line in lines])
    assert [plan.voices[0].name for plan in engine.plans] == ["Alice", "Frank", "Frank", "Alice"]
    assert [result.speakers for result in results(items)] == [(1,), (2,), (), (1,)]
    grown(inference, request("-", speakers=["Frank", "Alice"]), [Section(line) for line in lines])
    named = [plan.voices[0].name for plan in engine.plans[4:]]
    assert named == ["Frank", "Alice", "Alice", "Frank"]


def test_who_speaks_before_the_first_label_is_not_speaker_0(inference: VibeVoiceInference) -> None:
    plan = GrowingPlan(inference, inference.models.lease(), request("-", speakers={"0": "Frank"}))
    lines = ["Hi.", "Speaker 0: Ho.", "Speaker 1: Hm."]
    assert [plan.add(Section(line), 0.0).voices for line in lines] == [
        ("Alice",),
        ("Frank",),
        ("Alice",),
    ]


def test_many_short_sections_grow_no_more_than_one_text(inference: VibeVoiceInference) -> None:
    plan = GrowingPlan(
        inference, inference.models.lease(), request("-", pronunciations={"a": "b" * 100})
    )
    spoken = 0
    with pytest.raises(RequestError, match="pronunciations: make the text more than"):
        for _ in range(1_000):
            spoken += plan.add(Section("a a."), 0.0).text.characters
    assert 4_000 < spoken < 4_500


def test_a_stream_that_is_closed_ends_its_planning(
    inference: VibeVoiceInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = threading.Event(), threading.Event()

    def endless(*_: object, check: Callable[[], None] = lambda: None) -> None:
        began.set()
        try:
            while True:
                check()
                time.sleep(0.001)
        finally:
            ended.set()

    monkeypatch.setattr("synthesis.plan.plan_text", lambda *given: endless(check=given[-1]))

    async def leave(asked: SpeechRequest) -> None:
        async with aclosing(inference.stream(asked)):
            assert await asyncio.to_thread(began.wait, 10)

    async def cancel(work: Coroutine[Any, Any, object]) -> None:
        working = asyncio.create_task(work)
        assert await asyncio.to_thread(began.wait, 10)
        working.cancel()

    asked = request("One.")
    ways: list[Callable[[], Coroutine[Any, Any, None]]] = [
        lambda: leave(asked),
        lambda: cancel(inference.plan(asked).__aenter__()),
        lambda: cancel(inference.dry_run(asked)),
    ]
    for way in ways:
        began.clear()
        ended.clear()
        asyncio.run(way())
        assert ended.wait(10)


def test_a_voice_is_warned_about_once(inference: VibeVoiceInference) -> None:
    items = grown(inference, request("-", speaker_name="nobody"))
    assert [len(result.warnings) for result in results(items)] == [1, 0, 0]


def test_a_plan_that_grows_is_never_changed(inference: VibeVoiceInference) -> None:
    plan = GrowingPlan(inference, inference.models.lease(), request("-", seed=None))
    first = plan.add(SECTIONS[0], 0.0)
    before = repr(first)
    second = plan.add(SECTIONS[1], 0.0)
    assert repr(first) == before
    assert (first.seed, first.lead_ms, second.lead_ms) == (second.seed, 0, 40)
    assert first.plan.voices[0] is second.plan.voices[0]


def test_the_next_section_is_asked_for_once_the_one_before_is_made(
    tmp_path: Path,
) -> None:
    engine = HeldEngine(lambda _: np.full(3200 * 4, 0.5, np.float32))
    inference = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    asked: list[int] = []

    async def sections() -> AsyncGenerator[Section, None]:
        for number in range(3):
            asked.append(number)
            yield Section("One.")

    async def main() -> None:
        async with aclosing(inference.stream(request("-"), FRAMES, sections())) as stream:
            assert isinstance(await anext(stream), StreamStart)
            assert isinstance(await anext(stream), Section)
            engine.permits.release(4)  # its frames, not its end
            for _ in range(3):
                assert isinstance(await anext(stream), AudioPart)
            assert asked == [0]
            engine.permits.release(1)
            while not isinstance(item := await anext(stream), Section):
                assert isinstance(item, AudioPart | Result)
            assert asked == [0, 1]
            await asyncio.to_thread(wait_for, lambda: len(engine.speeches) == 2)
        assert engine.speeches[1].cancelled

    asyncio.run(main())
    inference.close()


def test_what_is_not_taken_fails_the_stream_and_frees_its_thread(tmp_path: Path) -> None:
    engine = FakeEngine(lambda _: np.full(3200 * 100, 0.5, np.float32))
    inference = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    options = StreamOptions(longest_part_sec=0, longest_block_sec=0, stalled_sec=0.05)

    async def main() -> None:
        async with aclosing(inference.stream(request("One."), options)) as stream:
            await asyncio.to_thread(wait_for, lambda: engine.speeches)
            await asyncio.to_thread(wait_for, lambda: engine.speeches[0].cancelled)
            with pytest.raises(Stalled):
                while True:
                    await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(main())
    inference.close()


def test_a_failure_in_a_section_ends_the_stream_and_closes_what_feeds_it(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.fail_at = 2
    closed: list[bool] = []

    async def sections() -> AsyncGenerator[Section, None]:
        try:
            yield Section("One.")
            yield Section("Two.")
        finally:
            closed.append(True)

    async def main() -> None:
        async for _ in inference.stream(request("-"), FRAMES, sections()):
            pass

    with pytest.raises(EngineError, match="as it was told to"):
        asyncio.run(main())
    assert closed == [True]
    assert len(engine.plans) == 1
