"""A request as a stream of bytes: one continuous encode that leaves as it is made.

Chunks come out in the order of the text, whatever order the engine makes them in. What has left
cannot be taken back: a bad chunk is not repeated, only reported, and the level is not measured but
remembered from what the voice said before.
"""

import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio.chunk_audio import ChunkAudio
from audio.codecs import Encoder
from audio.loudness import Level, LoudnessMeter
from audio.pcm import Samples, silence
from engines.base import SAMPLE_RATE, End, Frame
from synthesis.job import Job, Result
from synthesis.quality import Recorded
from voices.catalogue import Voice

MOST_PIECE_BYTES = 512 * 1024
"""RunPod takes stream pieces below 1 MB, and base64 adds a third."""
LONGEST_PIECE_SEC = 4.0
LONGEST_BLOCK_SEC = 1.0
_BLOCK_SHARE = 0.25
"""Of the sound that a listener has ahead: so much of it may wait for its block to be full."""
_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class AudioPart:
    """The next bytes of the file. The last piece may be empty. `count` samples of the answer have
    been encoded up to its end; the encoder may hold the last of them."""

    data: bytes
    sample_rate: int
    is_last: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class StreamStart:
    """What is known before the first sound. `gain_db` is the stream's constant gain, or None;
    `guest` is the voice that came with the request, and warnings."""

    voices: tuple[str, ...]
    seed: int
    gain_db: float | None
    sample_rate: int
    warnings: tuple[str, ...]
    guest: tuple[Voice, list[str]] | None = None


class StreamJob(Job):
    """Yields the file in pieces, small ones first; returns what there is to say. `gain_db` is a
    gain to keep to.

    Frames are trimmed, levelled and encoded one by one until the listener is ahead, then in blocks
    of up to `longest_block_sec`, which cost less. With `longest_piece_sec` 0 every block leaves by
    itself. Of many streams the one comes first whose listener runs out of sound first."""

    longest_piece_sec = LONGEST_PIECE_SEC
    longest_block_sec = LONGEST_BLOCK_SEC
    gain_db: float | None = None

    def began(self) -> StreamStart:
        """To be asked once it is planned."""
        voices = tuple(voice.name for voice in self._plan.voices)
        if self.gain_db is None:
            self.gain_db = self.remembered_gain(self._plan)
        return StreamStart(
            voices, self.seed, self.gain_db, self.rate, tuple(self.warnings), self.guest
        )

    def follow(self, earlier: StreamStart, silence_ms: int) -> None:
        """Goes on with an answer after that silence, unless its text asks for another, and keeps to
        what holds for the whole of it. To be called before `plan`."""
        self.seed, self.gain_db, self.guest = earlier.seed, earlier.gain_db, earlier.guest
        self.lead_ms = silence_ms

    def run(self, folder: Path) -> Generator[AudioPart, None, Result]:
        text, plan = self.prepare()
        gain_db = self.remembered_gain(plan) if self.gain_db is None else self.gain_db
        level = Level(self.rate, gain_db)
        encoder = Encoder(self.request.output_format, self.rate)
        pieces = _Pieces(level, encoder, self.rate, self.longest_piece_sec)
        meter = LoudnessMeter(self.rate)
        pauses = self.pauses(text)
        recorded: list[Recorded[ChunkAudio]] = []
        starts: list[int] = []
        take, heard, pending = self._take(), list[Samples](), pauses[0]
        events = in_order(self.quality.events(plan), folder)
        blocks = in_blocks(events, lambda: self._block_sec(pieces.due))
        for event in self._made(blocks, pieces):
            made: list[AudioPart] = []
            with self._turn(pieces):
                samples = take.finish() if isinstance(event, End) else take.feed(event.samples)
                if len(samples):
                    made += [] if heard else pieces.add(silence(pending))
                    heard.append(samples)
                    made += pieces.add(samples)
                if isinstance(event, End) and heard:
                    meter.add(np.concatenate(heard))
            yield from made
            if isinstance(event, End):
                flaw = self.quality.judge(plan, event.chunk, take, event.reason)
                recorded.append(Recorded(take, flaw, 1))
                starts.append(pieces.count - take.count)
                if heard:
                    pending = pauses[event.chunk + 1]
                take, heard = self._take(), []
        self.mark("spoken")
        self.quality.report(recorded)
        self.remember_loudness(plan, meter.integrated())
        with self._turn(pieces):
            made = [*pieces.add(silence(pending)), pieces.close()]
        yield from made
        self.mark("encoded")
        result = self.result(text, plan, recorded, starts, pieces.count, gain_db)
        result.timings["encode_sec"] = round(pieces.encode_sec, 4)
        return result

    def _take(self) -> ChunkAudio:
        return ChunkAudio(self.rate, self.request.speed)

    def _turn(self, pieces: "_Pieces") -> AbstractContextManager[None]:
        return self.services.cpu.enter(self.quality.cancelled, pieces.due)

    def _made(self, blocks: Iterator[Frame | End], pieces: "_Pieces") -> Iterator[Frame | End]:
        """The same; each in its turn where the engine's work is this thread's."""
        in_caller = self.services.engine.capabilities.in_caller
        while True:
            with self._turn(pieces) if in_caller else nullcontext():
                event = next(blocks, None)
            if event is None:
                return
            yield event

    def _block_sec(self, due: float) -> float:
        return min(self.longest_block_sec, _BLOCK_SHARE * (due - time.monotonic()))


class _Pieces:
    """Levels and encodes samples and groups the bytes: the first leave at once, later ones in ever
    larger pieces, since each costs its receiver a request."""

    def __init__(self, level: Level, encoder: Encoder, rate: int, longest_sec: float) -> None:
        self.count = 0
        self.encode_sec = 0.0
        self._longest = longest_sec
        self._level, self._encoder, self._rate = level, encoder, rate
        self._bytes = bytearray()
        self._left = 0
        self._wanted = 0.0
        self._since = time.monotonic()

    @property
    def due(self) -> float:
        """When who listens from the begin has heard all that was added (monotonic seconds)."""
        return self._since + self.count / self._rate

    def add(self, samples: Samples) -> Iterator[AudioPart]:
        for at in range(0, len(samples), _BLOCK):
            block = samples[at : at + _BLOCK]
            self.count += len(block)
            began = time.monotonic()
            self._bytes += self._encoder.encode(self._level.feed(block))
            self.encode_sec += time.monotonic() - began
            seconds = (self.count - self._left) / self._rate
            if self._bytes and (seconds >= self._wanted or len(self._bytes) >= MOST_PIECE_BYTES):
                self._left = self.count
                self._wanted = min(self._longest, max(0.25, 2 * self._wanted))
                yield self._taken(is_last=False)

    def close(self) -> AudioPart:
        self._bytes += self._encoder.encode(self._level.flush())
        self._bytes += self._encoder.close()
        return self._taken(is_last=True)

    def _taken(self, is_last: bool) -> AudioPart:
        piece = AudioPart(bytes(self._bytes), self._rate, is_last, self.count)
        self._bytes.clear()
        return piece


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
    in temporary files."""
    turn = 0
    waiting: dict[int, _Waiting] = {}
    for arrived in events:
        if arrived.chunk != turn:
            waiting.setdefault(arrived.chunk, _Waiting(folder)).add(arrived)
            continue
        yield arrived
        ended = isinstance(arrived, End)
        while ended:
            turn += 1
            ended = False
            for event in waiting.pop(turn).events(turn) if turn in waiting else ():
                yield event
                ended = isinstance(event, End)


class _Waiting:
    """Audio of a chunk whose turn has not come."""

    def __init__(self, folder: Path) -> None:
        self._audio = tempfile.SpooledTemporaryFile(max_size=1 << 20, dir=str(folder))  # noqa: SIM115
        self._end: End | None = None

    def add(self, event: Frame | End) -> None:
        if isinstance(event, End):
            self._end = event
        else:
            self._audio.write(event.samples.tobytes())

    def events(self, chunk: int) -> Iterator[Frame | End]:
        with self._audio:
            self._audio.seek(0)
            while block := self._audio.read(_BLOCK * 4):
                yield Frame(chunk, np.frombuffer(block, np.float32))
        if self._end is not None:
            yield self._end
