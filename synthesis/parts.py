"""From a plan to the parts of a stream, in the thread that works.

Each frame goes as it comes. What has left cannot be taken back: a bad chunk is not repeated, only
reported, and the level is not measured but remembered from what the voice said before.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from audio.chunk_audio import ChunkAudio, Join
from audio.codecs import Encoder
from audio.loudness import Level, LoudnessMeter
from audio.pcm import Samples
from audio.spool import Extent, Spool
from engines.base import SAMPLE_RATE, End, Frame
from synthesis.cancel import CancelToken
from synthesis.plan import GrowingText, PlannedRequest, Services
from synthesis.quality import AnyAudio, QualityRetry, Recorded, flaws
from synthesis.result import AudioPart, HeardChunk, Result, Spoken, heard_chunk, result_of
from synthesis.verify import Hearing

MOST_PART_BYTES = 512 * 1024
"""RunPod takes stream pieces below 1 MB, and base64 adds a third."""
_BLOCK_SHARE = 0.25
"""Of the sound that a listener has ahead: so much of it may wait for its block to be full."""
_LIVE_BLOCK = 1 << 14
Parts = Generator[AudioPart, None, Result]
LiveParts = Generator[AudioPart | HeardChunk | Result, None, None]


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream is cut. Frames are trimmed, levelled and encoded one by one until the listener
    is ahead, then in blocks of up to `longest_block_sec`, which cost less; parts grow up to
    `longest_part_sec`. With 0 every frame is a block, and every block is a part. `parts_ahead`
    parts are made before one is taken; a stream of which none is taken for `stalled_sec` fails.
    `sample_rate` in Hz is the settings' where it is None. A text whose file should be larger than
    `most_bytes` is refused before it is spoken."""

    longest_part_sec: float = 4.0
    longest_block_sec: float = 1.0
    parts_ahead: int = 4
    stalled_sec: float | None = None
    sample_rate: int | None = None
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """Where a request is worked on: what it shares with others, what ends it, its own folder.
    `load_sec` is how long it waited for its model."""

    services: Services
    token: CancelToken
    folder: Path
    load_sec: float = 0.0


class PartEncoder:
    """Joins chunks with their silences, levels and encodes them, and groups the bytes: the first
    leave at once, later ones in ever larger parts, since each costs its receiver a request. At most
    `block` samples are encoded at a time. `heard` measures what was levelled."""

    def __init__(
        self,
        planned: PlannedRequest,
        format_name: str,
        gain_db: float | None,
        longest_sec: float,
        block: int,
        heard: LoudnessMeter | None = None,
    ) -> None:
        self.join = Join(planned.pauses())
        self.encode_sec = 0.0
        self._rate, self._longest, self._block = planned.rate, longest_sec, block
        self._heard = heard
        self._level = Level(planned.rate, gain_db)
        self._encoder = Encoder(format_name, planned.rate)
        self._bytes = bytearray()
        self._count = self._left = 0
        self._wanted = 0.0
        self._since = time.monotonic()

    @property
    def due(self) -> float:
        """When who listens from the begin has heard all that was added (monotonic seconds)."""
        return self._since + self._count / self._rate

    def add(self, samples: Samples) -> Iterator[AudioPart]:
        """The parts that a chunk's next samples complete."""
        return self._encoded(self.join.feed(samples))

    def close(self) -> Iterator[AudioPart]:
        """The silence after all chunks, and the last part."""
        yield from self._encoded(self.join.finish())
        self._bytes += self._encoder.encode(self._level.flush())
        self._bytes += self._encoder.close()
        yield self._taken(is_last=True)

    def _encoded(self, joined: Iterable[Samples]) -> Iterator[AudioPart]:
        size = self._block
        blocks = (each[at : at + size] for each in joined for at in range(0, len(each), size))
        for block in blocks:
            self._count += len(block)
            began = time.monotonic()
            levelled = self._level.feed(block)
            if self._heard is not None:
                self._heard.add(levelled)
            self._bytes += self._encoder.encode(levelled)
            self.encode_sec += time.monotonic() - began
            seconds = (self._count - self._left) / self._rate
            if self._bytes and (seconds >= self._wanted or len(self._bytes) >= MOST_PART_BYTES):
                self._left = self._count
                self._wanted = min(self._longest, max(0.25, 2 * self._wanted))
                yield self._taken(is_last=False)

    def _taken(self, is_last: bool) -> AudioPart:
        head = self._encoder.head
        part = AudioPart(bytes(self._bytes), self._rate, is_last, self._count, head)
        self._bytes.clear()
        return part


def live_parts(
    context: Context,
    planned: PlannedRequest,
    gain_db: float | None,
    options: StreamOptions,
    growing: GrowingText | None = None,
    result_first: bool = False,
) -> LiveParts:
    """Yields the file while it is spoken, then what there is to say. Of many streams the one comes
    first whose listener runs out of sound first. What was heard of a chunk comes when it is known,
    and never delays a part. With `result_first` what is not known with the last part comes after
    the result, which does without it. `growing` is the text of a plan that grows."""
    with hearing_of(context, planned) as hearing:
        yield from _live_parts(context, planned, gain_db, options, growing, hearing, result_first)


def _live_parts(
    context: Context,
    planned: PlannedRequest,
    gain_db: float | None,
    options: StreamOptions,
    growing: GrowingText | None,
    hearing: Hearing | None,
    result_first: bool,
) -> LiveParts:
    rate, speed, form = planned.rate, planned.request.speed, planned.request.output_format
    services, token = context.services, context.token
    model = planned.model
    loading = load(context, planned)
    if hearing:
        hearing.load()  # a stream does not wait for it, and says of each chunk what failed
    quality = QualityRetry(model.engine, model.pace, 0, token, hearing=hearing)
    out = PartEncoder(planned, form, gain_db, options.longest_part_sec, _LIVE_BLOCK)
    meter = LoudnessMeter(rate)

    def turn() -> AbstractContextManager[None]:
        return services.cpu.enter(token.event, out.due)

    def block_sec() -> float:
        return min(options.longest_block_sec, _BLOCK_SHARE * (out.due - time.monotonic()))

    takes: list[Recorded[ChunkAudio]] = []
    take, heard = ChunkAudio(rate, speed), list[Samples]()
    events = in_blocks(in_order(quality.events(planned.plan, growing), context.folder), block_sec)
    if model.engine.capabilities.in_caller:
        events = _in_turns(events, turn)
    told = 0
    for event in events:
        if hearing and isinstance(event, Frame):
            hearing.feed(event.chunk, event.samples)
        with turn():
            samples = take.finish() if isinstance(event, End) else take.feed(event.samples)
            heard.append(samples)
            parts = list(out.add(samples))
            if isinstance(event, End):
                meter.add(np.concatenate(heard))
        yield from parts
        if isinstance(event, End):
            plan = growing.whole(planned.plan) if growing else planned.plan
            flaw = quality.judge(plan, event.chunk, take, event.reason)
            takes.append(Recorded(take, flaw, 1))
            out.join.end_chunk()
            take, heard = ChunkAudio(rate, speed), []
            if hearing:
                hearing.end(event.chunk)
        while hearing and hearing.done(told):
            takes[told] = replace(takes[told], heard=hearing.of(told))
            yield heard_chunk(planned, told, takes[told], out.join, hearing.note(told))
            told += 1
    spoken = spoken_of(context, planned, quality, takes, loading, gain_db)
    model.loudness.remember(planned.cast, meter.integrated())
    with turn():
        parts = list(out.close())
    yield from parts

    def result() -> Result:
        total_sec = time.monotonic() - planned.asked_at
        return result_of(services, spoken, out.join, form, out.encode_sec, total_sec)

    if result_first:
        yield result()
    if hearing:
        for index in range(told, len(takes)):
            takes[index] = replace(takes[index], heard=hearing.of(index))
            yield heard_chunk(planned, index, takes[index], out.join, hearing.note(index))
        phases = {**spoken.phases, **quality.cost}
        spoken = replace(
            spoken, takes=tuple(takes), warnings=flaws(takes) + quality.notes, phases=phases
        )
    if not result_first:
        yield result()


@contextmanager
def hearing_of(context: Context, planned: PlannedRequest) -> Iterator[Hearing | None]:
    """What hears the request's takes while the block runs; None if it asks for nothing heard."""
    verifier, language = context.services.verifier, planned.request.language
    if verifier is None or planned.request.heard_for is None:
        yield None
        return
    hearing = Hearing(verifier, planned.plan, language, context.folder, context.token)
    try:
        yield hearing
    finally:
        hearing.close()


def load(
    context: Context, planned: PlannedRequest, hearing: Hearing | None = None
) -> tuple[float, float]:
    """Loads what hears; the model is loaded. Gives when that began and when it was done."""
    started_at = time.monotonic()
    context.token.check()
    if hearing and planned.plan.chunks:
        hearing.load().result()
    return started_at, time.monotonic()


def spoken_of(
    context: Context,
    planned: PlannedRequest,
    quality: QualityRetry,
    takes: Iterable[Recorded[AnyAudio]],
    loading: tuple[float, float],
    gain_db: float | None = None,
) -> Spoken[AnyAudio]:
    """What has just come to its end; `loading` is what `load` gave. Raises `EngineError` where
    nothing is to be heard."""
    kept, now, (started_at, loaded_at) = tuple(takes), time.monotonic(), loading
    phases = {
        "plan_sec": planned.planned_at - planned.asked_at,
        "queue_sec": started_at - planned.planned_at - context.load_sec,
        "load_sec": context.load_sec + loaded_at - started_at,
        "first_audio_sec": (quality.first_audio_at or now) - planned.asked_at,
        "synthesis_sec": now - loaded_at,
        **quality.cost,
    }
    return Spoken(planned, kept, gain_db, flaws(kept) + quality.notes, phases, now)


def _in_turns(
    events: Iterator[Frame | End], turn: Callable[[], AbstractContextManager[None]]
) -> Iterator[Frame | End]:
    """The same, each in its turn: for an engine whose work is this thread's."""
    while True:
        with turn():
            event = next(events, None)
        if event is None:
            return
        yield event


def in_blocks(
    events: Iterable[Frame | End], least_sec: Callable[[], float]
) -> Iterator[Frame | End]:
    """Joins a chunk's frames, which are in order, until they last `least_sec` or it ends."""
    waiting: list[Samples] = []
    for event in events:
        if isinstance(event, Frame):
            waiting.append(event.samples)
            if sum(map(len, waiting)) / SAMPLE_RATE < least_sec():
                continue
        if waiting:
            yield Frame(event.chunk, np.concatenate(waiting))
            waiting = []
        if isinstance(event, End):
            yield event


def in_order(events: Iterable[Frame | End], folder: Path) -> Iterator[Frame | End]:
    """Puts interleaved chunks in order: the chunk whose turn it is passes at once, the others wait
    on disk."""
    turn = 0
    waiting: defaultdict[int, list[Extent | End]] = defaultdict(list)
    with closing(Spool(folder)) as spool:
        for arrived in events:
            if arrived.chunk != turn:
                waiting[arrived.chunk].append(
                    spool.append(arrived.samples) if isinstance(arrived, Frame) else arrived
                )
                continue
            yield arrived
            ended = isinstance(arrived, End)
            while ended:
                turn += 1
                ended = False
                for entry in waiting.pop(turn, ()):
                    if isinstance(entry, End):
                        yield entry
                        ended = True
                    else:
                        yield from (Frame(turn, samples) for samples in spool.read(entry))
                if not waiting:
                    spool.clear()
