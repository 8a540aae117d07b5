"""A request as a stream: the same samples as a file, sooner, and gone when nobody listens."""

import asyncio
import io
import threading
from collections.abc import Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.codecs import FORMATS
from audio.pcm import Samples
from config import Settings
from engines.base import End, Frame
from engines.priority_lock import PriorityLock
from request.errors import Cancelled, EngineError
from request.model import Defaults, SpeechRequest, parse_request
from synthesis.cancel import CancelToken
from synthesis.inference import VibeVoiceInference
from synthesis.parts import (
    MOST_PART_BYTES,
    Context,
    StreamOptions,
    in_order,
    live_parts,
)
from synthesis.plan import plan_request
from synthesis.result import AudioPart, Result, StreamStart
from tests.fake_engine import FakeEngine
from tests.http_server import wait_for

JOB = StreamOptions()
TEXT = "One. [pause:100ms] Two. [pause:0ms] Three. [pause:300ms]"


def noise(chunk: int) -> Samples:
    return np.random.default_rng(chunk).uniform(-0.5, 0.5, 20_000 + chunk).astype(np.float32)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(audio=noise)


@pytest.fixture
def inference(tmp_path: Path, engine: FakeEngine) -> Iterator[VibeVoiceInference]:
    made = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    yield made
    made.close()


def request(text: str = TEXT, **fields: Any) -> SpeechRequest:
    fields = {"output_format": "pcm", "loudness": None, "seed": 1, **fields}
    return parse_request({"text": text, **fields}, Defaults())[0]


def streamed(
    inference: VibeVoiceInference, asked: SpeechRequest, options: StreamOptions = JOB
) -> tuple[list[bytes], Result]:
    async def main() -> tuple[list[bytes], Result]:
        first, *parts, result = [item async for item in inference.stream(asked, options)]
        assert isinstance(first, StreamStart) and isinstance(result, Result)
        return [part.data for part in parts if isinstance(part, AudioPart)], result

    return asyncio.run(main())


def filed(inference: VibeVoiceInference, asked: SpeechRequest) -> tuple[bytes, Result]:
    async def main() -> tuple[bytes, Result]:
        with inference.workspace() as folder:
            async with inference.plan(asked) as planned:
                file = await inference.generate(planned, Path(folder))
            return file.path.read_bytes(), file.result

    return asyncio.run(main())


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("speed", [1, 1.3])
def test_without_levelling_a_stream_carries_the_samples_of_a_file(
    inference: VibeVoiceInference, engine: FakeEngine, interleave: bool, speed: float
) -> None:
    engine.interleave = interleave
    pieces, result = streamed(inference, request(speed=speed))
    data, filed_result = filed(inference, request(speed=speed))
    assert b"".join(pieces) == data
    assert result.chunks == filed_result.chunks
    assert result.duration_sec == filed_result.duration_sec == round(len(data) / 48_000, 6)


@pytest.mark.parametrize("output_format", ["mp3", "opus", "flac", "wav"])
def test_the_pieces_are_one_file(inference: VibeVoiceInference, output_format: str) -> None:
    pieces, result = streamed(inference, request(output_format=output_format))
    with av.open(io.BytesIO(b"".join(pieces)), "r") as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert abs(seconds - result.duration_sec) < 0.08


def test_a_silent_chunk_leaves_the_same_pauses_as_in_a_file(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    quiet = np.zeros(0, np.float32)
    for silent in ([0], [1], [2], [0, 1], [1, 2]):
        engine.audio = [quiet if chunk in silent else noise(chunk) for chunk in range(3)]
        pieces, result = streamed(inference, request())
        data, filed_result = filed(inference, request())
        assert b"".join(pieces) == data
        assert result.chunks == filed_result.chunks
        assert result.warnings == filed_result.warnings


def test_the_first_piece_leaves_before_the_last_frame_is_made(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.audio = lambda _: np.full(3200 * 50, 0.5, np.float32)
    engine.delay = 0.02

    async def main() -> int:
        async with aclosing(inference.stream(request("One."))) as pieces:
            async for piece in pieces:
                if isinstance(piece, StreamStart):
                    continue
                assert isinstance(piece, AudioPart)
                assert 0 < len(piece.data) < 3200 * 10 * 2
                return len(piece.data)
        return 0

    assert asyncio.run(main())
    assert engine.speeches[0].cancelled


def test_what_is_planned_is_told_before_the_first_sound(inference: VibeVoiceInference) -> None:
    async def main() -> list[object]:
        asked = request("One.", speaker_name="nobody", seed=7)
        return [item async for item in inference.stream(asked)]

    first, *pieces, last = asyncio.run(main())
    assert isinstance(first, StreamStart) and isinstance(last, Result)
    assert (first.voices, first.seed, first.sample_rate) == (("Alice",), 7, 24_000)
    assert [warning.split(";")[0] for warning in first.warnings] == [
        "speaker_name: no voice 'nobody'"
    ]
    assert all(isinstance(piece, AudioPart) for piece in pieces)


def test_without_grouping_every_frame_is_a_piece_and_another_rate_is_only_that(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.audio = lambda _: np.full(3200 * 20, 0.5, np.float32)

    async def main() -> list[AudioPart]:
        options = StreamOptions(longest_part_sec=0, longest_block_sec=0, sample_rate=48_000)
        items = inference.stream(request("One."), options)
        return [item async for item in items if isinstance(item, AudioPart)]

    pieces = asyncio.run(main())
    assert len(pieces) >= 20
    assert max(len(piece.data) for piece in pieces) <= 3 * 6400 * 2
    assert {piece.sample_rate for piece in pieces} == {48_000}
    assert pieces[-1].count == 3200 * 20 * 2 == sum(len(piece.data) for piece in pieces) // 2


def test_who_is_ahead_gets_larger_blocks_and_the_first_frame_alone(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.audio = lambda _: np.full(3200 * 400, 0.5, np.float32)

    async def main() -> list[int]:
        items = inference.stream(request("One."), StreamOptions(longest_part_sec=0))
        return [len(item.data) // 2 async for item in items if isinstance(item, AudioPart)]

    counts = asyncio.run(main())
    assert sum(counts) == 3200 * 400
    assert counts[0] <= 3200
    assert max(counts) == 16_384
    assert len(counts) < 200


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("fields", [{}, {"speed": 1.3}])
def test_no_byte_depends_on_the_blocks(
    inference: VibeVoiceInference,
    engine: FakeEngine,
    output_format: str,
    fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.audio = lambda chunk: np.tile(noise(chunk), 12) * np.float32(0.05)
    asked = request(output_format=output_format, loudness=-12, **fields)
    inference.models.lease().loudness.remember("Alice", -29.0)
    monkeypatch.setattr(inference.models.lease().loudness, "remember", lambda *_: None)
    in_blocks, _ = streamed(inference, asked)
    in_frames, _ = streamed(inference, asked, StreamOptions(longest_block_sec=0))
    assert b"".join(in_blocks) == b"".join(in_frames)


def parts(inference: VibeVoiceInference, folder: Path, token: CancelToken) -> Generator[AudioPart]:
    planned = plan_request(inference, inference.models.lease(), request("One."), 0.0)
    context = Context(inference, token, folder)
    with closing(live_parts(context, planned, None, StreamOptions())) as made:
        yield from (part for part in made if isinstance(part, AudioPart))


def test_who_has_less_sound_ahead_comes_first(
    inference: VibeVoiceInference, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.audio = lambda _: np.full(24_000 * 120, 0.5, np.float32)
    inference.cpu = PriorityLock(1)
    pieces = {name: parts(inference, tmp_path, CancelToken()) for name in ("ahead", "new")}
    while next(pieces["ahead"]).count < 24_000 * 60:
        pass
    served: list[str] = []

    def pull(name: str) -> None:
        next(pieces[name])
        served.append(name)

    threads = [threading.Thread(target=pull, args=(name,)) for name in pieces]
    with inference.cpu.enter(threading.Event()):
        for place, thread in enumerate(threads):
            thread.start()
            wait_for(lambda place=place: len(inference.cpu._waiting) > place)
        assert served == []
    for thread in threads:
        thread.join(60)
    for made in pieces.values():
        made.close()
    assert served == ["new", "ahead"]


def test_who_is_cancelled_waits_for_no_turn(inference: VibeVoiceInference, tmp_path: Path) -> None:
    inference.cpu = PriorityLock(1)
    token = CancelToken(inference.cpu.wake)
    outcome: list[str] = []

    def pull() -> None:
        try:
            next(parts(inference, tmp_path, token))
        except Cancelled:
            outcome.append("cancelled")

    thread = threading.Thread(target=pull)
    with inference.cpu.enter(threading.Event()):
        thread.start()
        wait_for(lambda: bool(inference.cpu._waiting))
        token.cancel()
        thread.join(60)
        assert outcome == ["cancelled"]


def test_pieces_grow_and_stay_below_their_limit(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.audio = lambda _: np.full(24_000 * 60, 0.5, np.float32)
    pieces, _ = streamed(inference, request("One. [pause:10s] Two."))
    assert len(pieces[0]) < 48_000
    assert max(map(len, pieces)) <= MOST_PART_BYTES + 2 * 16_384
    assert len(pieces) < 60


def test_a_stream_takes_the_level_that_its_voice_had_before(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    tone = (np.sin(2 * np.pi * 997 * np.arange(72_000) / 24_000) * 0.05).astype(np.float32)
    engine.audio = lambda _: tone
    asked = request("One.", loudness=-20)
    _, first = streamed(inference, asked)
    assert first.gain_db == 3.0
    _, batch = filed(inference, asked)
    _, second = streamed(inference, asked)
    assert second.gain_db == batch.gain_db != first.gain_db
    _, other = streamed(inference, request("One.", loudness=-20, speaker_name="Frank"))
    assert other.gain_db == 3.0


def test_a_bad_chunk_is_reported_and_not_repeated(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.capabilities = replace(engine.capabilities, varies=True)
    engine.reasons = {1: "cap"}
    _, result = streamed(inference, request())
    assert [chunk.truncated for chunk in result.chunks] == [False, True, False]
    assert len(engine.plans) == 1
    assert result.warnings == ("chunks[1]: hit its length limit, so its end may be cut off",)


def test_a_failure_is_raised_after_the_pieces_before_it(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.fail_at = 12
    pieces = []

    async def main() -> None:
        async for piece in inference.stream(request()):
            pieces.append(piece)  # noqa: PERF401 - kept up to the failure

    with pytest.raises(EngineError, match="as it was told to"):
        asyncio.run(main())
    assert pieces


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_a_listener_who_leaves_stops_the_engine(
    inference: VibeVoiceInference, engine: FakeEngine, how: str
) -> None:
    engine.audio = lambda _: np.full(3200 * 10_000, 0.5, np.float32)
    threads = set(threading.enumerate())

    async def listen() -> None:
        async with aclosing(inference.stream(request("One."))) as pieces:
            async for piece in pieces:
                if how == "close" and isinstance(piece, AudioPart):
                    return

    async def main() -> None:
        task = asyncio.create_task(listen())
        if how == "cancel":
            while not engine.speeches:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await task
        assert engine.speeches[0].cancelled
        assert list(Path(inference._folder.name).iterdir()) == []

    asyncio.run(main())
    inference.close()
    assert set(threading.enumerate()) <= threads


def test_a_slow_listener_holds_the_engine_back(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    begun: list[int] = []

    def audio(chunk: int) -> Samples:
        begun.append(chunk)
        return np.full(24_000, 0.5, np.float32)

    engine.audio = audio

    async def main() -> int:
        asked = request("One. [pause:0ms] " * 200)
        async with aclosing(inference.stream(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, StreamStart):
                    continue
                await asyncio.sleep(0.5)
                return len(begun)
        return 0

    assert 1 <= asyncio.run(main()) < 20


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=60))
def test_any_interleaving_is_put_in_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    rest = {chunk: order.count(chunk) for chunk in range(5)}
    events: list[Frame | End] = []
    for index, chunk in enumerate(order):
        events.append(Frame(chunk, np.full(3, index, np.float32)))
        rest[chunk] -= 1
        if not rest[chunk]:
            events.append(End(chunk, "eos", chunk))
    events += [End(chunk, "empty", chunk) for chunk in range(5) if chunk not in order]
    ordered = list(in_order(events, tmp_path_factory.getbasetemp()))
    assert [event.chunk for event in ordered] == sorted(event.chunk for event in ordered)
    assert [event.chunk for event in ordered if isinstance(event, End)] == [0, 1, 2, 3, 4]
    for chunk in range(5):
        assert np.array_equal(_samples(ordered, chunk), _samples(events, chunk))


def _samples(events: list[Frame | End], chunk: int) -> Samples:
    frames = [e.samples for e in events if isinstance(e, Frame) and e.chunk == chunk]
    return np.concatenate([np.zeros(0, np.float32), *frames])
