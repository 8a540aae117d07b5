"""What was heard of an utterance's sentences, told on its socket beside the next ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Settings
from request.errors import EngineError
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine
from tests.http_server import Server, serving, wait_for
from tests.test_socket import Talk, run, talking
from tests.test_verify import Ear, ear

__all__ = ["ear"]  # the fixture
TEXT = "\U0001f642 It costs $5 now. And *that* is all."
Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, ear: Ear) -> Iterator[Start]:
    engine = FakeEngine(audio=lambda _: np.full(48_000, 0.5, np.float32))
    with ExitStack() as stack:

        def one(verifier: Ear | None = ear, **env: str) -> Server:
            settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path), **env})
            made = VibeVoiceInference(settings, engine, settings.max_streams, verifier=verifier)
            return stack.enter_context(serving(made))

        yield one


async def spoken(talk: Talk, text: str = TEXT, **config: Any) -> None:
    """All of an utterance is on its way."""
    await talk.say("session.config", loudness=None, **config)
    await talk.say("input.text", text=text)
    await talk.say("input.done")


def test_words_have_their_places_in_the_utterance_and_their_seconds(start: Start) -> None:
    server = start()

    async def scenario() -> None:
        async with talking(server) as talk:
            await spoken(talk, timestamps="word")
            await talk.until("session.done")
            first, second = talk.kinds("audio.heard")
            lines = talk.kinds("audio.start")
            assert [each["sentence_index"] for each in (first, second)] == [0, 1]
            assert (first["utterance"], first["chunk"], "wer" in first) == (1, 0, False)
            words = first["words"] + second["words"]
            assert [word["word"] for word in words] == [
                "It", "costs", "$5", "now", "And", "that", "is", "all",
            ]  # fmt: skip
            assert [TEXT[word["text_start"] : word["text_end"]] for word in words] == [
                word["word"] for word in words
            ]
            times = [sec for word in words for sec in (word["start_sec"], word["end_sec"])]
            assert times == sorted(times)
            quiet_sec = Settings().chunk_silence_ms / 1000
            assert second["words"][0]["start_sec"] == lines[1]["start_ms"] / 1000 + quiet_sec
            assert times[-1] <= talk.messages[-1]["duration_ms"] / 1000
            assert lines[0].get("ignored") is None

    run(scenario)


def test_the_next_sentence_does_not_wait_until_one_is_heard(
    start: Start,
    ear: Ear,
) -> None:
    server = start()
    ear.held.clear()

    async def scenario() -> None:
        async with talking(server) as talk:
            await spoken(talk, verify="warn")
            for _ in range(2):
                await talk.until("audio.done")
            assert not talk.kinds("audio.heard")
            ear.held.set()
            await talk.until("session.done")
            assert [each["wer"] for each in talk.kinds("audio.heard")] == [0, 0]
            assert "words" not in talk.kinds("audio.heard")[0]
            assert talk.messages[-1]["type"] == "session.done"

    run(scenario)


def test_what_cannot_be_heard_is_said_and_the_audio_is_whole(
    start: Start,
    ear: Ear,
) -> None:
    server = start()
    ear.error = EngineError("recognition failed")

    async def scenario() -> None:
        async with talking(server) as talk:
            await spoken(talk, timestamps="word")
            done = await talk.until("session.done")
            assert len(talk.audio[1]) == done["duration_ms"] * 48
            assert [each["warning"] for each in talk.kinds("audio.heard")] == [
                "chunks[0]: was not heard: recognition failed"
            ] * 2

    run(scenario)


def test_after_a_cancel_nothing_of_it_is_told_and_nothing_waits(
    start: Start,
    ear: Ear,
) -> None:
    server = start()
    ear.held.clear()

    async def scenario() -> None:
        async with talking(server) as talk:
            await spoken(talk, timestamps="word")
            for _ in range(2):
                await talk.until("audio.done")
            await talk.say("cancel")
            await talk.until("cancelled")
            await talk.quiet(1)  # who waits for the ear looks every 0.1 s
            ear.held.set()
            await spoken(talk, "Again.", timestamps="word")
            await talk.until("session.done")
            (heard,) = talk.kinds("audio.heard")
            assert (heard["utterance"], heard["words"][0]["word"]) == (2, "Again")

    run(scenario)
    wait_for(lambda: ear.heard[-1] == "Again.")
    assert len(ear.heard) <= 2  # the one that was being heard, and the new one


def test_a_session_that_does_not_ask_is_not_heard(start: Start, ear: Ear) -> None:
    server = start(VERIFY="warn")

    async def scenario() -> None:
        async with talking(server) as talk:
            await spoken(talk, subtitles="srt")
            await talk.until("session.done")
            assert talk.kinds("audio.start")[0]["ignored"] == ["subtitles"]

    run(scenario)
    assert ear.heard == []


def test_without_a_recogniser_the_utterance_is_refused(start: Start) -> None:
    server = start(verifier=None)

    async def scenario() -> None:
        async with talking(server) as talk:
            await spoken(talk, timestamps="word")
            refused = await talk.next()
            assert isinstance(refused, dict)
            assert (refused["type"], refused["error"]["param"]) == ("error", "timestamps")

    run(scenario)
