"""The WebSocket: text as it is written, speech as it is made, an end at once."""

import asyncio
import gc
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.protocol import SocketProtocol
from audio.pcm import Samples
from config import Settings
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine, HeldEngine
from tests.http_server import ROOT, Server, serving

PATH = "/v1/audio/speech/stream"
PLAIN = {
    "type": "session.config",
    "voice": "Alice",
    "loudness": None,
    "seed": 1,
    "max_buffer_delay_ms": 60_000,  # however slow the client is, its pieces are one text
}
SECOND = 24_000


def steady(_: int) -> Samples:
    """One second of a constant: 24,000 samples, whatever the text."""
    return np.full(SECOND, 0.25, np.float32)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(audio=steady)


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, engine: FakeEngine) -> Iterator[Start]:
    with ExitStack() as stack:

        def one(engine: FakeEngine = engine, **env: str) -> Server:
            settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path), **env})
            inference = VibeVoiceInference(settings, engine, settings.max_streams)
            return stack.enter_context(serving(inference))

        yield one


@pytest.fixture
def server(start: Start) -> Server:
    return start()


class Talk:
    """A client that keeps what it hears apart: messages, and the bytes of each utterance."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self.audio: dict[int, bytes] = {}
        self.order: list[str] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def next(self) -> "dict[str, Any] | bytes":
        async with asyncio.timeout(120):
            data = await self.socket.recv()
        if isinstance(data, bytes):
            number = next(m for m in reversed(self.messages) if m["type"] == "audio.start")
            self.audio[number["utterance"]] = self.audio.get(number["utterance"], b"") + data
            self.order.append("audio")
            return data
        message: dict[str, Any] = json.loads(data)
        self.messages.append(message)
        self.order.append(message["type"])
        return message

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            message = await self.next()
            if isinstance(message, dict) and message["type"] == kind:
                return message
            if isinstance(message, dict) and message["type"] == "error":
                raise AssertionError(message)

    async def quiet(self, seconds: float = 0.3) -> None:
        """Nothing more comes."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                raise AssertionError(await self.socket.recv())

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]


@asynccontextmanager
async def talking(server: Server, **config: Any) -> AsyncIterator[Talk]:
    url = f"ws://127.0.0.1:{server.port}{PATH}"
    # Whoever closes has to read until then.
    async with connect(url, max_size=None, max_queue=None) as socket:
        talk = Talk(socket)
        await talk.say(**{"kind": "session.config", **PLAIN, **config, "type": "session.config"})
        yield talk


def code_of(message: "dict[str, Any] | bytes") -> str:
    assert isinstance(message, dict) and message["type"] == "error", message
    return str(message["error"]["code"])


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not happened():
            await asyncio.sleep(0.01)


def test_text_in_pieces_is_spoken_sentence_by_sentence(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            for piece in ("Hel", "lo there.", " How are", " you? I am", " fine."):
                await talk.say("input.text", text=piece)
            first = await talk.until("audio.done")  # before the text is whole
            await talk.say("input.done")
            done = await talk.until("session.done")
        starts = talk.kinds("audio.start")
        assert [each["sentence_text"] for each in starts] == [
            "Hello there.",
            "How are you?",
            "I am fine.",
        ]
        assert [(each["text_start"], each["text_end"]) for each in starts] == [
            (0, 12),
            (13, 25),
            (26, 36),
        ]
        # A second each, 40 ms between: the silence that chunks of one text have.
        assert [each["start_ms"] for each in starts] == [0, 1000, 2040]
        assert [each["end_ms"] for each in talk.kinds("audio.done")] == [1000, 2040, 3080]
        assert first["total_bytes"] == 2 * SECOND
        assert (done["total_sentences"], done["duration_ms"]) == (3, 3080)
        assert len(talk.audio[1]) == 2 * SECOND * 3 + 2 * 2 * 960
        assert talk.order[0] == "audio.start" and talk.order[1] == "audio"

    run(scenario)


def test_the_silence_between_two_sentences_is_that_of_one_text(server: Server) -> None:
    pieces = ("One one. ", "Two two. ", "[pause:500ms] Three three.\n\n", "Four four.")

    async def scenario() -> None:
        async with talking(server) as talk:
            for piece in pieces:
                await talk.say("input.text", text=piece)
            await talk.say("input.done")
            await talk.until("session.done")
        # A second each; a chunk's silence, the one that was asked for, a paragraph's.
        assert [each["end_ms"] for each in talk.kinds("audio.done")] == [1000, 2040, 3540, 5140]

    run(scenario)


def test_the_example_in_the_docs_works(server: Server, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "streaming.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    code = code.replace(":8000", f":{server.port}")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    # "Hello there." and "How are you?", a second each, and the silence between.
    assert len((tmp_path / "hello.pcm").read_bytes()) == 2 * (2 * SECOND + 960)


def test_a_sentence_without_a_sure_end_is_spoken_after_the_delay(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server, max_buffer_delay_ms=50) as talk:
            await talk.say("input.text", text="Hello there.")
            assert (await talk.until("audio.done"))["sentence_index"] == 0
            await talk.say("input.text", text=" More.")
            assert (await talk.until("audio.done"))["sentence_index"] == 1

    run(scenario)


def test_after_a_cancel_nothing_of_it_comes_and_the_text_heard_is_told(start: Start) -> None:
    engine = HeldEngine(steady)
    server = start(engine)

    async def scenario() -> None:
        async with talking(server) as talk:
            text = "One two three four. Five six seven eight. Nine ten."
            await talk.say("input.text", text=text)
            await talk.say("input.done")
            engine.permits.release(8 + 1 + 4)  # one sentence and half of the next
            await talk.until("audio.done")
            await talk.until("audio.start")
            await talk.next()
            await talk.say("cancel", played_ms=500)
            cancelled = await talk.until("cancelled")
            # Half of a second of "One two three four.": 9 of 19 characters, two whole words.
            assert cancelled == {
                "type": "cancelled",
                "utterance": 1,
                "utterance_index": 0,
                "text_spoken": "One two",
                "played_ms": 500,
            }
            await until(lambda: engine.speeches[1].cancelled)
            engine.permits.release(100)
            await talk.quiet()
            assert len(engine.speeches) == 2
            await talk.say("input.text", text="Again.")
            await talk.say("input.done")
            assert (await talk.until("session.done"))["utterance"] == 2

    run(scenario)


@pytest.mark.parametrize(
    ("played", "spoken"),
    [
        (0, ""),
        (999, "One two three"),
        (1000, "One two three four."),
        (1039, "One two three four."),
        (1560, "One two three four. Five six"),
        (2040, "One two three four. Five six seven eight."),
        (99_999, "One two three four. Five six seven eight."),
    ],
)
def test_a_cancel_after_the_end_still_tells_what_was_heard(
    server: Server, played: int, spoken: str
) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One two three four. Five six seven eight.")
            await talk.say("input.done")
            await talk.until("session.done")
            await talk.say("cancel", played_ms=played)
            told = await talk.until("cancelled")
            assert (told["text_spoken"], told["played_ms"]) == (spoken, min(played, 2040))

    run(scenario)


@pytest.mark.parametrize("paced", [False, True])
def test_pause_and_resume_lose_and_repeat_no_sample_wherever_they_come(
    server: Server, engine: FakeEngine, paced: bool
) -> None:
    engine.audio = lambda _: np.linspace(0.1, 0.9, SECOND, dtype=np.float32)
    engine.delay = 0.02  # so that a pause meets every place: in a sentence, at its end, between two

    async def spoken(pause_after: int | None) -> bytes:
        async with talking(server, paced=paced) as talk:
            await talk.say("input.text", text="One. Two.")
            await talk.say("input.done")
            if pause_after is not None:
                for _ in range(pause_after):
                    await talk.next()
                await talk.say("pause")
                paused = await talk.until("paused")
                if talk.kinds("session.done"):  # all was out before the pause came
                    return talk.audio[1]
                heard = len(talk.audio.get(1, b""))
                assert paused["pts_ms"] == pytest.approx(heard / 48, abs=0.01)
                await talk.quiet()
                await talk.say("resume")
                assert (await talk.until("resumed"))["pts_ms"] == paused["pts_ms"]
            await talk.until("session.done")
            return talk.audio[1]

    async def scenario() -> None:
        whole = await spoken(pause_after=None)
        places = range(1, 92, 9) if paced else range(1, 19)
        for heard in await asyncio.gather(*map(spoken, places)):
            assert heard == whole

    run(scenario)


@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_paced_audio_comes_in_frames_of_20_ms(server: Server, rate: int) -> None:
    async def scenario() -> None:
        async with talking(server, paced=True, sample_rate=rate) as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            assert (await talk.until("audio.start"))["sample_rate"] == rate
            sizes = []
            while isinstance(frame := await talk.next(), bytes):
                sizes.append(len(frame))
            assert sizes == [rate // 50 * 2] * 50

    run(scenario)


def test_two_contexts_are_spoken_in_turn_and_cancelled_each_for_itself(
    server: Server, engine: FakeEngine
) -> None:
    async def scenario() -> None:
        engine.delay = 0.05
        async with talking(server) as talk:
            await talk.say("input.text", text="First one. And on.", context_id="a")
            await talk.say("input.text", text="Second one.", context_id="b")
            await talk.say("input.done", context_id="b")
            await talk.until("audio.start")
            await talk.next()
            await talk.say("cancel", context_id="a", played_ms=0)
            told = await talk.until("cancelled")
            assert (told["context_id"], told["utterance"]) == ("a", 1)
            done = await talk.until("session.done")
            assert (done["context_id"], done["utterance"]) == ("b", 2)
            after = talk.order[talk.order.index("cancelled") :]
            assert (after[:2], after[-2:]) == (
                ["cancelled", "audio.start"],
                ["audio.done", "session.done"],
            )
            assert set(after[2:-2]) == {"audio"}
            assert len(talk.audio[2]) == 2 * SECOND
            assert talk.kinds("audio.start")[-1]["context_id"] == "b"

    run(scenario)


def test_each_context_is_flushed_after_its_own_delay(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server, max_buffer_delay_ms=100) as talk:
            await talk.say("input.text", text="First one.", context_id="a")
            await talk.say("input.text", text="Second one.", context_id="b")
            assert (await talk.until("audio.done"))["context_id"] == "a"
            await talk.say("input.done", context_id="a")
            assert (await talk.until("session.done"))["context_id"] == "a"
            assert (await talk.until("audio.done"))["context_id"] == "b"

    run(scenario)


def test_a_cancel_of_what_is_not_spoken_yet_leaves_the_pause_as_it_is(start: Start) -> None:
    engine = HeldEngine(steady)
    server = start(engine)

    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="First one.", context_id="a")
            await talk.say("input.done", context_id="a")
            await talk.say("input.text", text="Second one.", context_id="b")
            await talk.until("audio.start")
            await talk.say("pause")
            paused = await talk.until("paused")
            assert (paused["utterance"], paused["context_id"]) == (1, "a")
            engine.permits.release(9)  # eight frames and the end: only the pause holds them
            await talk.say("cancel", context_id="b")
            assert (await talk.until("cancelled"))["context_id"] == "b"
            await talk.quiet()
            await talk.say("resume")
            await talk.until("resumed")
            assert (await talk.until("session.done"))["context_id"] == "a"
            assert len(talk.audio[1]) == 2 * SECOND

    run(scenario)


def test_a_cancel_ends_the_pause_even_when_all_was_sent_before(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One two.")
            await talk.say("input.done")
            await talk.until("session.done")
            await talk.say("pause")
            assert (await talk.until("paused"))["pts_ms"] == 1000
            await talk.say("cancel")
            await talk.until("cancelled")
            await talk.say("input.text", text="Again.")
            await talk.say("input.done")
            assert (await talk.until("session.done"))["utterance"] == 2

    run(scenario)


def test_what_was_heard_does_not_grow_in_a_pause(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("api.socket.playback.time", SimpleNamespace(monotonic=lambda: now))

    async def scenario() -> None:
        nonlocal now
        async with talking(server) as talk:
            await talk.say("input.text", text=" ".join(["One two three."] * 8))
            await talk.say("input.done")
            await talk.until("session.done")  # 8.28 s of sound, in no time
            for seconds in (1, 2):
                now += seconds
                await talk.say("pause")
                await talk.until("paused")
                now += 3
                for _ in range(2):  # a second answer: the pause ends after the first
                    await talk.say("resume")
                    await talk.until("resumed")
            await talk.say("cancel")
            assert (await talk.until("cancelled"))["played_ms"] == 3000

    run(scenario)


def test_what_was_sent_before_is_heard_before(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("api.socket.playback.time", SimpleNamespace(monotonic=lambda: now))

    async def scenario() -> None:
        nonlocal now
        async with talking(server) as talk:
            for name in "ab":
                await talk.say("input.text", text="One. Two. Three. Four.", context_id=name)
                await talk.say("input.done", context_id=name)
            await talk.until("session.done")
            await talk.until("session.done")
            now += 0.5  # of 4 s that the first takes
            await talk.say("cancel", context_id="b")
            told = await talk.until("cancelled")
            assert (told["text_spoken"], told["played_ms"]) == ("", 0)

    run(scenario)


def test_half_a_surrogate_pair_is_spoken_and_told_like_any_letter(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One \ud83d two.", context_id="\udc00")
            await talk.say("input.done", context_id="\udc00")
            started = await talk.until("audio.start")
            assert started["sentence_text"] == "One \ud83d two."
            assert (await talk.until("session.done"))["context_id"] == "\udc00"

    run(scenario)


def test_two_sockets_do_not_hear_each_other(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as one, talking(server) as two:
            await one.say("input.text", text="One. ")
            await two.say("input.text", text="Two. ")
            await one.say("input.done")
            await two.say("input.done")
            await asyncio.gather(one.until("session.done"), two.until("session.done"))
            assert one.kinds("audio.start")[0]["sentence_text"] == "One."
            assert two.kinds("audio.start")[0]["sentence_text"] == "Two."

    run(scenario)


def test_a_configuration_cannot_change_under_an_open_utterance(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One")
            await talk.say("session.config", voice="Frank")
            error = await talk.next()
            assert isinstance(error, dict)
            assert error["error"]["code"] == "utterance_open"

    run(scenario)


BAD: list[tuple[Any, str, str | None]] = [
    ("not json", "invalid_json", None),
    (b"\x00\x01", "invalid_json", None),
    ("[]", "invalid_value", "type"),
    ({"type": "shout"}, "invalid_value", "type"),
    ({"type": "input.text"}, "invalid_type", "text"),
    ({"type": "input.text", "text": "a" * 5000}, "string_above_max_length", "text"),
    ({"type": "input.text", "text": "a", "context_id": 7}, "invalid_value", "context_id"),
    ({"type": "cancel"}, "no_utterance", None),
    ({"type": "cancel", "played_ms": -1}, "invalid_value", "played_ms"),
    ({"type": "session.config", "speed": 9}, "invalid_value", "speed"),
    ({"type": "session.config", "model": "other"}, "model_not_found", "model"),
    ({"type": "session.config", "session": "Alice"}, "invalid_type", "session"),
    ({"type": "session.config", "session": {"speed": 9}}, "invalid_value", "speed"),
    ({"type": "session.config", "sample_rate": 44_100}, "invalid_value", "sample_rate"),
    ({"type": "session.config", "response_format": "mp3", "paced": True}, "invalid_value", "paced"),
    (
        {"type": "session.config", "max_buffer_delay_ms": 1e9},
        "invalid_value",
        "max_buffer_delay_ms",
    ),
]


def test_garbage_is_answered_and_the_session_goes_on(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            for message, code, param in BAD:
                sent = message if isinstance(message, str | bytes) else json.dumps(message)
                await talk.socket.send(sent)
                error = await talk.next()
                assert isinstance(error, dict)
                assert error["type"] == "error"
                assert error["message"] == error["error"]["message"]
                assert (error["error"]["code"], error["error"]["param"]) == (code, param), message
            await talk.say("session.config", seed=1)
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.until("session.done")

    run(scenario)


def test_after_refused_settings_nothing_is_spoken_until_good_ones_come(
    server: Server, engine: FakeEngine
) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("session.config", voice="Alice", speed=9)
            assert code_of(await talk.next()) == "invalid_value"
            await talk.say("input.text", text="One.")
            assert code_of(await talk.next()) == "not_configured"
            await talk.say("input.done")
            assert (await talk.until("session.done"))["total_sentences"] == 0
            await talk.say("session.config", seed=1)
            await talk.say("input.text", text="Two.")
            await talk.say("input.done")
            assert (await talk.until("session.done"))["total_sentences"] == 1
            assert [start["sentence_text"] for start in talk.kinds("audio.start")] == ["Two."]

    run(scenario)
    assert len(engine.speeches) == 1


def test_refused_settings_leave_an_open_utterance_as_it_is(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One")
            await talk.say("session.config", voice="Frank")
            assert code_of(await talk.next()) == "utterance_open"
            await talk.say("input.text", text=" more.")
            await talk.say("input.text", text="Other.", context_id="b")
            assert code_of(await talk.next()) == "not_configured"
            await talk.say("input.done")
            await talk.until("session.done")
            assert [start["sentence_text"] for start in talk.kinds("audio.start")] == ["One more."]

    run(scenario)


def test_settings_may_be_wrapped_and_are_then_answered(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say(
                "session.config", session={"voice": "Frank", "seed": 1, "sample_rate": 48_000}
            )
            assert await talk.next() == {
                "type": "session.configured",
                "response_format": "pcm",
                "sample_rate": 48_000,
                "split_granularity": "sentence",
            }
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.until("session.done")
            assert talk.kinds("audio.start")[0]["sample_rate"] == 48_000
            assert talk.kinds("audio.done")[0]["voice"] == "Frank"

    run(scenario)


@pytest.mark.parametrize(
    ("fields", "voice", "ignored"),
    [
        ({"speaker": "Frank"}, "Frank", None),
        ({"voice": "Frank", "speaker": "Maya"}, "Frank", ["speaker"]),
        ({"voice": "Frank", "word_timestamps": True, "a": 1, "b": None}, "Frank",
         ["a", "word_timestamps"]),
        ({"session": {"speaker": "Frank", "stream_audio": True}}, "Frank", ["stream_audio"]),
    ],
)  # fmt: skip
def test_a_speaker_is_a_voice_and_ignored_fields_are_named_once(
    server: Server, fields: dict[str, Any], voice: str, ignored: list[str] | None
) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("session.config", **fields)
            await talk.say("input.text", text="One. Two.")
            await talk.say("input.done")
            await talk.until("session.done")
            starts = talk.kinds("audio.start")
            assert [start.get("ignored") for start in starts] == [ignored, None]
            assert {done["voice"] for done in talk.kinds("audio.done")} == {voice}

    run(scenario)


def test_a_commit_speaks_the_text_so_far_without_its_end(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.commit")
            assert await talk.next() == {"type": "input.committed"}
            await talk.say("input.text", text="One half", context_id="a")
            await talk.say("input.commit", context_id="a")
            committed = await talk.until("input.committed")
            assert (committed["utterance"], committed["context_id"]) == (1, "a")
            assert (await talk.until("audio.start"))["sentence_text"] == "One half"
            await talk.say("input.text", text=" and more.", context_id="a")
            await talk.say("input.done", context_id="a")
            assert (await talk.until("session.done"))["total_sentences"] == 2

    run(scenario)


def test_every_done_is_answered_in_turn_also_without_text(
    server: Server, engine: FakeEngine
) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.done")
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.say("input.done", context_id="b")
            ends = [await talk.until("session.done") for _ in range(3)]
            assert [end["total_sentences"] for end in ends] == [0, 1, 0]
            assert [(end["utterance"], end["utterance_index"]) for end in ends] == [
                (1, 0), (2, 1), (3, 2)
            ]  # fmt: skip
            assert ends[2]["context_id"] == "b" and ends[2]["duration_ms"] == 0
            await talk.say("cancel", played_ms=60_000)  # means what is still played
            cancelled = await talk.until("cancelled")
            assert (cancelled["utterance"], cancelled["text_spoken"]) == (2, "One.")

    run(scenario)
    assert len(engine.speeches) == 1


def test_a_message_that_is_too_large_ends_the_session(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            with pytest.raises(ConnectionClosed) as caught:
                await talk.say("input.text", text="a" * 300_000)
                await talk.next()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009

    run(scenario)


def test_too_many_open_utterances_are_refused(server: Server, engine: FakeEngine) -> None:
    engine.delay = 0.05

    async def scenario() -> None:
        async with talking(server) as talk:
            for number in range(9):
                await talk.say("input.text", text="One", context_id=str(number))
            while True:
                message = await talk.next()
                if isinstance(message, dict) and message["type"] == "error":
                    break
            assert message["error"]["code"] == "too_many_contexts"

    run(scenario)


def test_a_failing_engine_ends_the_utterance_with_an_error_and_no_done(
    server: Server, engine: FakeEngine
) -> None:
    engine.fail_at = 3

    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One. Two. Three.")
            await talk.say("input.done")
            while True:
                message = await talk.next()
                if isinstance(message, dict) and message["type"] == "error":
                    break
            assert message["utterance"] == 1
            assert message["error"]["type"] == "server_error"
            assert not talk.kinds("audio.done")
            assert 'vibevoice_errors_total{code="engine_failed",door="ws"} 1.0' in metrics(server)
            await talk.quiet()
            engine.fail_at = None
            await talk.say("input.text", text="Again.")
            await talk.say("input.done")
            assert (await talk.until("session.done"))["utterance"] == 2

    run(scenario)


def test_a_client_who_leaves_stops_the_engine(server: Server, engine: FakeEngine) -> None:
    engine.audio = lambda _: np.full(3200 * 10_000, 0.25, np.float32)

    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.until("audio.start")
            await talk.next()
        await until(lambda: engine.speeches[0].cancelled)
        await until(lambda: "vibevoice_active_sessions 0.0" in metrics(server))
        await until(lambda: "vibevoice_active_streams 0.0" in metrics(server))

    run(scenario)


def metrics(server: Server) -> str:
    return server.call("GET", "/metrics").body.decode()


@pytest.mark.clock
def test_who_does_not_read_holds_the_engine_and_little_memory(start: Start) -> None:
    engine = HeldEngine()  # 64 MB of PCM a sentence
    engine.permits.release(30_000)
    server = start(engine)

    async def scenario() -> None:
        process = psutil.Process()
        async with talking(server) as talk:
            await talk.say("input.text", text="One. Two.")
            await talk.say("input.done")
            await talk.until("audio.start")
            await talk.next()
            talk.socket.transport.pause_reading()
            before, made = process.memory_info().rss, 0
            while made < engine.frames:
                made = engine.frames
                await asyncio.sleep(1)
            assert made * 6400 < 40e6
            assert process.memory_info().rss - before < 40e6
            assert len(engine.speeches) == 1
            talk.socket.transport.abort()

    run(scenario)


@pytest.fixture
def protocols(monkeypatch: pytest.MonkeyPatch) -> list[SocketProtocol]:
    """The server's sides of the sockets, each once it takes messages."""
    kept: list[SocketProtocol] = []
    monkeypatch.setattr(SocketProtocol, "start_keepalive", lambda self: kept.append(self))
    return kept


@pytest.mark.parametrize("last", [None, "pause", "cancel", "session.close"])
def test_who_does_not_read_is_dropped_whatever_was_asked(
    server: Server, engine: FakeEngine, protocols: list[SocketProtocol], last: str | None
) -> None:
    engine.audio = lambda _: np.full(3200 * 10_000, 0.25, np.float32)

    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.until("audio.start")
            await talk.next()  # so that the engine is at work
            talk.socket.transport.pause_reading()
            await asyncio.sleep(0.3)
            if last:
                await talk.say(last)
            (protocol,) = protocols
            protocol.loop.call_soon_threadsafe(protocol.keepalive_timeout)
            await until(lambda: "vibevoice_active_sessions 0.0" in metrics(server))
            await until(lambda: engine.speeches[0].cancelled)
            talk.socket.transport.abort()

    run(scenario)


STATES: dict[str, list[dict[str, Any]]] = {
    "silent": [],
    "waiting for text": [{"type": "input.text", "text": "One"}],
    "speaking": [{"type": "input.text", "text": "One. Two. "}],
    "paused": [{"type": "input.text", "text": "One. Two. "}, {"type": "pause"}],
    "cancelled": [{"type": "input.text", "text": "One. Two. "}, {"type": "cancel"}],
    "asking too much": [{"type": "resume"}] * 200,
    "closing": [{"type": "input.text", "text": "One. Two. "}, {"type": "session.close"}],
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("abrupt", [True, False], ids=["by a reset", "by a close"])
def test_a_client_may_leave_in_any_state(
    server: Server, engine: FakeEngine, caplog: pytest.LogCaptureFixture, state: str, abrupt: bool
) -> None:
    engine.delay = 0.02

    async def leaves(after: float) -> None:
        async with talking(server) as talk:
            for message in STATES[state]:
                await talk.socket.send(json.dumps(message))
            await asyncio.sleep(after)
            if abrupt:
                talk.socket.transport.abort()

    async def scenario() -> None:
        await asyncio.gather(*(leaves(place / 50) for place in range(10)))
        await until(lambda: "vibevoice_active_sessions 0.0" in metrics(server))
        await until(lambda: "vibevoice_active_streams 0.0" in metrics(server))

    run(scenario)
    gc.collect()  # a task whose error nobody asked for is complained about here
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_waiting_for_the_engine_is_no_silence(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    for module in ("session", "playback"):
        monkeypatch.setattr(f"api.socket.{module}.time", SimpleNamespace(monotonic=lambda: now))
    engine = HeldEngine(steady)
    server = start(engine, SESSION_IDLE_SEC="0.1")

    async def scenario() -> None:
        nonlocal now
        async with talking(server) as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.until("audio.start")
            now += 10
            await talk.quiet()
            engine.permits.release(9)  # eight frames and the end
            await talk.until("session.done")

    run(scenario)


def test_a_silent_session_is_closed(start: Start) -> None:
    server = start(SESSION_IDLE_SEC="0.3")

    async def scenario() -> None:
        async with talking(server) as talk:
            error = await talk.next()
            assert isinstance(error, dict)
            assert error["error"]["code"] == "session_closed"
            with pytest.raises(ConnectionClosed) as caught:
                await talk.next()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4408

    run(scenario)


def test_silence_begins_with_the_last_sound(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    for module in ("session", "playback"):
        monkeypatch.setattr(f"api.socket.{module}.time", SimpleNamespace(monotonic=lambda: now))
    engine = HeldEngine(steady)
    server = start(engine, SESSION_IDLE_SEC="0.1")

    async def scenario() -> None:
        nonlocal now
        async with talking(server) as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.until("audio.start")
            now += 10  # the engine takes its time
            engine.permits.release(9)  # eight frames and the end
            await talk.until("session.done")
            now += 0.09
            await talk.quiet()
            now += 0.02
            error = await talk.next()
            assert isinstance(error, dict)
            assert error["error"]["code"] == "session_closed"

    run(scenario)


def test_session_close_ends_it(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("session.close")
            with pytest.raises(ConnectionClosed) as caught:
                await talk.next()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1000

    run(scenario)


def test_every_other_format_is_a_file_a_sentence(server: Server) -> None:
    async def scenario() -> None:
        async with talking(server, response_format="wav") as talk:
            await talk.say("input.text", text="One. Two.")
            await talk.say("input.done")
            await talk.until("session.done")
            assert talk.audio[1].count(b"RIFF") == 2

    run(scenario)


def test_all_sentences_of_an_utterance_have_one_gain(server: Server, engine: FakeEngine) -> None:
    tone = (np.sin(2 * np.pi * 997 * np.arange(72_000) / 24_000) * 0.05).astype(np.float32)
    engine.audio = lambda _: tone

    async def scenario() -> None:
        async with talking(server, loudness=-20.003) as talk:
            await talk.say("input.text", text="One. Two.")
            await talk.say("input.done")
            await talk.until("session.done")
            pcm = np.frombuffer(talk.audio[1], "<i2").astype(np.float64)
            assert np.array_equal(pcm[12_000:60_000], pcm[-60_000:-12_000])

    run(scenario)


def test_a_key_is_needed_and_may_come_as_a_subprotocol(start: Start) -> None:
    server = start(API_KEYS="the-key", HOST="127.0.0.1", MAX_SESSIONS="1")
    url = f"ws://127.0.0.1:{server.port}{PATH}"

    async def scenario() -> None:
        for headers, names in (
            ({}, None),
            ({"Authorization": "Bearer no"}, None),
            ({}, ["key.no"]),
        ):
            with pytest.raises(InvalidStatus) as caught:
                await connect(url, additional_headers=headers, subprotocols=names)  # type: ignore[arg-type]
            assert caught.value.response.status_code == 401
            body = json.loads(caught.value.response.body or b"")
            assert body["error"]["code"] == "invalid_api_key"
        async with connect(url, additional_headers={"Authorization": "Bearer the-key"}):
            with pytest.raises(InvalidStatus) as caught:
                await connect(url, additional_headers={"Authorization": "Bearer the-key"})
            assert caught.value.response.status_code == 503
        async with connect(url, subprotocols=["speech", "key.the-key"]) as socket:  # type: ignore[list-item]
            assert socket.subprotocol == "speech"

    run(scenario)


def test_pages_of_other_sites_may_not_listen(server: Server) -> None:
    async def scenario() -> None:
        url = f"ws://127.0.0.1:{server.port}{PATH}"
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, origin="https://evil.example")  # type: ignore[arg-type]
        assert caught.value.response.status_code == 403

    run(scenario)


def test_an_utterance_without_a_word_is_silence(server: Server, engine: FakeEngine) -> None:
    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="...")
            await talk.say("input.done")
            await talk.until("session.done")
            (start,) = talk.kinds("audio.start")
            (done,) = talk.kinds("audio.done")
            assert (start["sentence_text"], done["end_ms"]) == ("...", 300)
            assert done["warnings"]

    run(scenario)
    assert engine.speeches == []
