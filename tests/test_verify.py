"""Takes are heard beside the synthesis of the next; bad ones are repeated; words have times."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.pcm import Samples
from config import Settings
from delivery.answer import FACTS_LIMIT, Delivered, facts_limit
from engines.base import Plan, Turn, Voice
from request.errors import EngineError, RequestError
from request.model import SpeechRequest, parse_request
from synthesis.inference import VibeVoiceInference
from synthesis.quality import Progress
from synthesis.result import AudioPart, HeardChunk, Result
from tests.fake_engine import CAPABILITIES, FakeEngine, FakeSpeech
from tests.http_server import serving, wait_for
from text.heard import Heard, HeardWord
from worker.jobs import _bounded

TEXT = "Here is the first of the sentences. There is the second of them all. Now comes a third one."
BAD = 0.1
"""The level of a take that this ear mishears: an engine that knows it needs no model."""


class Ear:
    """Hears what the samples' level says. A word takes as long as its share of the text."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="ear")
        self.heard: list[str] = []
        self.threads: set[str] = set()
        self.held = threading.Event()
        self.held.set()
        self.error: EngineError | None = None
        self.most = self.waiting = 0

    def load(self) -> Future[None]:
        return self.pool.submit(lambda: None)

    def hear(
        self, turns: Sequence[Turn], voices: Sequence[Voice], language: str | None, samples: Samples
    ) -> Future[Heard]:
        assert (len(voices), language) == (len(turns), None)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return self.pool.submit(self._hear, "\n".join(turn.text for turn in turns), samples)

    def _hear(self, said: str, samples: Samples) -> Heard:
        self.threads.add(threading.current_thread().name)
        assert self.held.wait(30)
        self.waiting -= 1
        self.heard.append(said)
        if self.error:
            raise self.error
        level = float(np.abs(samples).max())
        good = level > 1.5 * BAD
        share = len(samples) / 24_000 / len(said)
        words, at = [], 0
        for word in said.split():
            at = said.index(word, at)
            words.append(HeardWord(at, at + len(word), at * share, (at + len(word)) * share))
            at += len(word)
        missing = () if good else ("second",)
        problem = "" if good else "1 of its words were not heard"
        return Heard(
            said, 0.0 if good else round(0.5 - level, 2), missing, (), problem, tuple(words)
        )

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


class Varies(FakeEngine):
    """Each speech has the levels of its chunks' takes."""

    def __init__(self, *levels: Sequence[float]) -> None:
        super().__init__(capabilities=replace(CAPABILITIES, varies=True))
        self.levels = list(levels)

    def start(self, plan: Plan) -> FakeSpeech:
        self.audio = [np.full(24_000 * 4, level, np.float32) for level in self.levels.pop(0)]
        return super().start(plan)


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    yield ear
    ear.held.set()
    ear.close()


Serve = Callable[..., VibeVoiceInference]


@pytest.fixture
def serve(tmp_path: Path, ear: Ear) -> Iterator[Serve]:
    made: list[VibeVoiceInference] = []

    def serve(engine: FakeEngine, **env: str) -> VibeVoiceInference:
        given = {"VIBEVOICE_VOLUME": str(tmp_path), "MAX_CHUNK_CHARS": "100", **env}
        given["MIN_LAST_CHUNK_CHARS"] = "0"
        made.append(VibeVoiceInference(Settings.from_env(given), engine, verifier=ear))
        return made[-1]

    yield serve
    for each in made:
        each.close()


def request(inference: VibeVoiceInference, text: str = TEXT, **fields: Any) -> SpeechRequest:
    asked = {"text": text, "output_format": "wav", "loudness": None, **fields}
    return parse_request(asked, inference.defaults)[0]


def spoken(inference: VibeVoiceInference, folder: Path, **fields: Any) -> Result:
    async def speak() -> Result:
        async with inference.plan(request(inference, **fields)) as planned:
            return (await inference.generate(planned, folder)).result

    return asyncio.run(speak())


PARAGRAPHS = "\n\n".join(f"{n} {TEXT[:70]}" for n in range(3))


def test_a_chunk_that_was_misheard_is_made_again_and_the_answer_says_so(
    serve: Serve, tmp_path: Path
) -> None:
    engine = Varies([0.5, BAD, 0.5], [0.6])
    result = spoken(serve(engine), tmp_path, text=PARAGRAPHS, verify="repeat")
    assert [len(plan.chunks) for plan in engine.plans] == [3, 1]
    assert engine.plans[1].chunks[0].attempt == 2
    assert [chunk.attempts for chunk in result.chunks] == [1, 2, 1]
    assert [chunk.facts["wer"] for chunk in result.chunks] == [0, 0, 0]
    assert result.chunks[1].facts["heard"] == f"1 {TEXT[:70]}"
    assert result.chunks[1].facts["missing"] == []
    assert result.warnings == ()
    assert result.timings["verify_sec"] >= 0


def test_of_bad_takes_the_one_with_the_fewest_errors_is_kept(serve: Serve, tmp_path: Path) -> None:
    engine = Varies([0.09], [0.1], [0.05])
    result = spoken(serve(engine, MAX_RETRIES="2"), tmp_path, text=TEXT[:70], verify="repeat")
    assert result.chunks[0].facts["wer"] == 0.4
    assert result.chunks[0].facts["missing"] == ["second"]
    assert result.warnings == ("chunks[0]: 1 of its words were not heard (3 attempts)",)


def test_warn_repeats_nothing_and_says_what_was_not_heard(serve: Serve, tmp_path: Path) -> None:
    engine = Varies([0.5, BAD, 0.5])
    result = spoken(serve(engine), tmp_path, text=PARAGRAPHS, verify="warn")
    assert len(engine.plans) == 1
    assert result.warnings == ("chunks[1]: 1 of its words were not heard",)
    assert [chunk.facts.get("wer") for chunk in result.chunks] == [0, 0.4, 0]


def test_an_engine_that_does_not_vary_is_not_asked_again(serve: Serve, tmp_path: Path) -> None:
    engine = FakeEngine(audio=[np.full(48_000, BAD, np.float32)])
    result = spoken(serve(engine), tmp_path, text=TEXT[:70], verify="repeat")
    assert (len(engine.plans), result.chunks[0].attempts) == (1, 1)
    assert result.warnings == ("chunks[0]: 1 of its words were not heard",)


def test_nothing_is_heard_unless_it_is_asked_for(serve: Serve, ear: Ear, tmp_path: Path) -> None:
    result = spoken(serve(Varies([0.5])), tmp_path, text=TEXT[:70])
    assert ear.heard == []
    assert "heard" not in result.chunks[0].facts
    assert (result.words, result.subtitles) == (None, None)


def test_the_setting_counts_where_a_request_does_not_say(
    serve: Serve, ear: Ear, tmp_path: Path
) -> None:
    inference = serve(Varies([BAD], [0.5], [0.5]), VERIFY="repeat")
    assert spoken(inference, tmp_path, text=TEXT[:70]).chunks[0].attempts == 2
    count = len(ear.heard)
    spoken(inference, tmp_path, text=TEXT[:70], verify="off")
    assert len(ear.heard) == count


def test_chunks_are_made_while_earlier_ones_are_heard_and_few_wait_in_memory(
    serve: Serve, ear: Ear, tmp_path: Path
) -> None:
    text = "\n\n".join(f"{n} {TEXT[:70]}" for n in range(8))
    engine = Varies([0.5] * 8)
    ear.held.clear()
    inference, progress = serve(engine), Progress()

    def release() -> None:
        wait_for(lambda: progress.chunks_done == 8)
        ear.held.set()

    releasing = threading.Thread(target=release)
    releasing.start()

    async def speak() -> Result:
        async with inference.plan(request(inference, text, verify="warn")) as planned:
            return (await inference.generate(planned, tmp_path, progress)).result

    result = asyncio.run(speak())
    releasing.join()
    assert len(result.chunks) == len(ear.heard) == 8
    assert ear.most <= 2
    assert ear.threads == {"ear_0"}


def test_a_chunk_that_could_not_be_heard_is_said_and_the_answer_is_not_lost(
    serve: Serve, ear: Ear, tmp_path: Path
) -> None:
    ear.error = EngineError("recognition failed")
    result = spoken(serve(Varies([0.5])), tmp_path, text=TEXT[:70], verify="warn")
    assert result.warnings == ("chunks[0]: was not heard: recognition failed",)
    assert "heard" not in result.chunks[0].facts


@pytest.mark.parametrize(
    "fields", [{"verify": "warn"}, {"timestamps": "word"}, {"subtitles": "srt"}]
)
def test_without_a_recogniser_it_is_refused_before_any_work(
    fields: dict[str, str], tmp_path: Path
) -> None:
    engine = FakeEngine()
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)})
    inference = VibeVoiceInference(settings, engine)
    with pytest.raises(RequestError) as refused:
        spoken(inference, tmp_path, **fields)
    assert refused.value.problems[0].field == next(iter(fields))
    assert engine.plans == []
    inference.close()


def test_the_answers_words_are_the_callers_with_their_places_and_times(
    serve: Serve, tmp_path: Path
) -> None:
    text = "It **costs** $5 today, and no more than that. [pause 1s] So there."
    result = spoken(serve(Varies([0.5, 0.5])), tmp_path, text=text, timestamps="word")
    assert result.words is not None
    assert [text[word.text_start : word.text_end] for word in result.words] == [
        "It", "costs", "$5", "today", "and", "no", "more", "than", "that", "So", "there",
    ]  # fmt: skip
    assert [word.word for word in result.words][2] == "$5"
    times = [sec for word in result.words for sec in (word.start_sec, word.end_sec)]
    assert times == sorted(times)
    assert result.words[9].start_sec == pytest.approx(5.0, abs=0.01)
    assert result.words[-1].end_sec == pytest.approx(result.duration_sec, abs=0.01)


def test_times_follow_the_speed_and_the_quiet_that_was_cut(serve: Serve, tmp_path: Path) -> None:
    quiet = np.zeros(24_000, np.float32)
    loud = np.full(24_000 * 2, 0.5, np.float32)
    engine = FakeEngine(audio=[np.concatenate([quiet, loud])])
    result = spoken(serve(engine), tmp_path, text="abcde abcde abcde.", speed=2, timestamps="word")
    # 18 characters in 3 s: the second word begins at 1 s, of which 0.95 s were cut.
    assert result.words is not None
    assert [word.start_sec for word in result.words] == [0, 0.025, 0.525]
    assert result.duration_sec == pytest.approx(1.025, abs=0.01)


def test_subtitles_hold_the_text_with_its_punctuation(serve: Serve, tmp_path: Path) -> None:
    text = "It costs $5 today. And then, \u201cnothing\u201d more."
    result = spoken(serve(Varies([0.5])), tmp_path, text=text, subtitles="vtt")
    assert result.words is None
    assert result.subtitles is not None
    assert result.subtitles.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:0")
    assert 'It costs $5 today. And then, "nothing"\nmore.\n' in result.subtitles


def test_a_stream_tells_what_was_heard_after_the_audio_and_delays_none_of_it(
    serve: Serve, ear: Ear
) -> None:
    ear.held.clear()
    inference = serve(Varies([0.5, BAD]))
    asked = request(inference, PARAGRAPHS.rpartition("\n\n")[0], verify="repeat", timestamps="word")

    async def listen() -> list[object]:
        items: list[object] = []
        async for item in inference.stream(asked):
            items.append(item)
            if isinstance(item, AudioPart) and item.is_last:
                assert not any(isinstance(each, HeardChunk) for each in items)
                ear.held.set()
        return items

    items = asyncio.run(listen())
    told = [item for item in items if isinstance(item, HeardChunk)]
    assert [each.index for each in told] == [0, 1]
    assert [each.facts["missing"] for each in told] == [[], ["second"]]
    assert told[1].words[0].start_sec == pytest.approx(4.6, abs=0.01)
    result = items[-1]
    assert isinstance(result, Result)
    assert result.warnings == ("chunks[1]: 1 of its words were not heard",)
    assert result.words == told[0].words + told[1].words


def test_a_request_that_ends_drops_what_waits_to_be_heard(serve: Serve, ear: Ear) -> None:
    ear.held.clear()
    inference = serve(Varies([0.5] * 3))

    async def leave() -> None:
        stream = inference.stream(request(inference, PARAGRAPHS, verify="warn"))
        async for item in stream:
            if isinstance(item, AudioPart) and item.is_last:
                break
        await stream.aclose()

    asyncio.run(leave())
    ear.held.set()
    ear.pool.submit(lambda: None).result(5)
    assert len(ear.heard) <= 1


def test_words_that_runpod_would_refuse_are_left_out_before_the_chunks() -> None:
    answer = {"words": ["word"] * 3000, "subtitles": "1\n", "chunks": ["chunk"], "warnings": []}
    bounded = _bounded(answer, 10_000)
    assert bounded == {
        "words": None,
        "subtitles": "1\n",
        "chunks": ["chunk"],
        "warnings": ["words: left out, there are too many"],
    }


def test_facts_have_the_room_that_the_audio_leaves() -> None:
    assert facts_limit(Delivered({"audio_url": "https://x"})) == 900_000
    assert facts_limit(Delivered({"audio_base64": "a" * 9_400_000})) == 500_000
    assert facts_limit(Delivered({"audio_base64": "a" * 9_800_000})) == FACTS_LIMIT


def told(body: bytes) -> list[dict[str, Any]]:
    """The events that are no audio, without the last."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\r\n\r\n") if line]
    events = [json.loads(line) for line in lines[:-1]]
    return [event for event in events if event["type"] != "speech.audio.delta"]


@pytest.mark.parametrize("form", ["pcm", "flac"])
def test_events_tell_the_words_and_subtitles_over_http(serve: Serve, form: str) -> None:
    inference = serve(Varies([0.5]))
    asked = {"input": "Hello $5 there.", "response_format": form, "stream_format": "sse"}
    with serving(inference) as server:
        answer = server.speak(**asked, timestamps="word", subtitles="srt", verify="warn")
    heard, subtitles, done = told(answer.body)
    assert (heard["type"], heard["chunk"], heard["wer"]) == ("speech.audio.heard", 0, 0)
    assert [word["word"] for word in heard["words"]] == ["Hello", "$5", "there"]
    assert subtitles["type"] == "speech.audio.subtitles"
    assert "Hello $5 there." in subtitles["subtitles"]
    assert done["type"] == "speech.audio.done"


def test_what_has_no_place_in_plain_audio_is_ignored_and_said(serve: Serve, ear: Ear) -> None:
    with serving(serve(Varies([0.5]), VERIFY="warn")) as server:
        answer = server.speak(response_format="pcm", timestamps="word", subtitles="srt")
    assert answer.status == 200
    assert answer.headers["x-speech-ignored"] == "subtitles; timestamps"
    assert ear.heard == []
