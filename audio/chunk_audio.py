"""Takes: attempts at chunks, on their way to the answer.

A `ChunkAudio` resamples and shapes a chunk's frames as they come. A `KeptChunkAudio` also appends
them to a spool that all takes of a request share, so chunks may come in any order and interleave,
and a take that is not used leaves only dead bytes behind. Used by one thread.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from audio.pcm import SAMPLE_RATE, Resampler, Samples, silence
from audio.shaping import Shaper
from request.errors import EngineError

_BLOCK = 1 << 16
_BYTES = 4


class ChunkAudio:
    """One attempt at a chunk. `count` is its length so far, in samples at the answer's rate."""

    def __init__(self, rate: int, speed: float) -> None:
        self.count = 0
        self._rate, self._speed = rate, speed
        self._resampler = Resampler(SAMPLE_RATE, rate)
        self._shaper = Shaper(rate, speed)

    @property
    def seconds(self) -> float:
        """How long the engine spoke, before any change of speed."""
        return self.count / self._rate * self._speed

    def feed(self, samples: Samples) -> Samples:
        """Takes the chunk's next samples at the engine's rate and gives what is shaped of them.

        Raises `EngineError` on NaN.
        """
        if not np.isfinite(samples).all():
            raise EngineError("the engine made samples that are no numbers")
        return self._out(self._shaper.feed(self._resampler.feed(samples)))

    def finish(self) -> Samples:
        """The rest."""
        last = self._shaper.feed(self._resampler.flush())
        last = np.concatenate([last, self._shaper.flush()])
        del self._resampler, self._shaper  # their buffers are many times a finished take
        return self._out(last)

    def _out(self, samples: Samples) -> Samples:
        self.count += len(samples)
        return samples


class KeptChunkAudio(ChunkAudio):
    """A take that can be read again."""

    def __init__(self, spool: IO[bytes], rate: int, speed: float) -> None:
        super().__init__(rate, speed)
        self._spool = spool
        self._extents: list[tuple[int, int]] = []

    def _out(self, samples: Samples) -> Samples:
        if len(samples):
            start = self._spool.seek(0, 2)
            self._spool.write(samples.tobytes())
            end = start + len(samples) * _BYTES
            if self._extents and self._extents[-1][1] == start:
                start = self._extents.pop()[0]
            self._extents.append((start, end))
        return super()._out(samples)

    def read(self) -> Iterator[Samples]:
        """The take, in blocks."""
        for start, end in self._extents:
            for at in range(start, end, _BLOCK * _BYTES):
                self._spool.seek(at)
                block = self._spool.read(min(_BLOCK * _BYTES, end - at))
                yield np.frombuffer(block, np.float32)


@dataclass(frozen=True, slots=True)
class Join:
    """Takes in their order with silences between: `gaps[i]` samples come before take i, the last
    of them after all. `starts` are where the takes begin, `count` is the whole length."""

    takes: Sequence[KeptChunkAudio]
    gaps: Sequence[int]
    starts: Sequence[int]
    count: int

    @classmethod
    def of(cls, takes: Sequence[KeptChunkAudio], pauses: Sequence[int]) -> "Join":
        """`pauses` are the silences asked for: before all takes, then after each. A take without a
        sound has none of its own; the pause before it stays in force."""
        gaps, starts = [], []
        at, pending = 0, pauses[0]
        for take, pause in zip(takes, pauses[1:], strict=True):
            gaps.append(pending if take.count else 0)
            at += gaps[-1]
            starts.append(at)
            at += take.count
            pending = pause if take.count else pending
        return cls(takes, (*gaps, pending), starts, at + pending)

    def read(self) -> Iterator[Samples]:
        """The whole, in blocks."""
        for take, gap in zip(self.takes, self.gaps, strict=False):
            yield from _silences(gap)
            yield from take.read()
        yield from _silences(self.gaps[-1])


def _silences(count: int) -> Iterator[Samples]:
    for at in range(0, count, _BLOCK):
        yield silence(min(_BLOCK, count - at))
