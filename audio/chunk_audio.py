"""A chunk's audio on its way to the answer.

A `ChunkAudio` resamples and shapes a chunk's frames as they come. A `KeptChunkAudio` also appends
them to a spool that all takes of a request share, so chunks may come in any order and interleave,
and a take that is not used leaves only dead bytes behind. A `Join` puts chunks one after the other
with the silences between them. Each is used by one thread.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from audio.pcm import SAMPLE_RATE, Resampler, Samples, silence
from audio.shaping import Shaper
from audio.spool import Extent, Spool
from request.errors import EngineError

_BLOCK = 1 << 16


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

    def __init__(self, spool: Spool, rate: int, speed: float) -> None:
        super().__init__(rate, speed)
        self._spool = spool
        self._extents: list[Extent] = []

    def _out(self, samples: Samples) -> Samples:
        if len(samples):
            start, end = self._spool.append(samples)
            if self._extents and self._extents[-1][1] == start:
                start, _ = self._extents.pop()
            self._extents.append((start, end))
        return super()._out(samples)

    def read(self) -> Iterator[Samples]:
        """The take, in blocks."""
        for extent in self._extents:
            yield from self._spool.read(extent)


class Join:
    """Chunks in their order with silences between. `pauses` are the silences asked for, in samples:
    before all chunks, then after each. A chunk without a sound has none of its own; the pause
    before it stays in force. `starts` are where the chunks begin, `count` is the length so far."""

    def __init__(self, pauses: Sequence[int]) -> None:
        self.count = 0
        self.starts: list[int] = []
        self._pending, self._pauses = pauses[0], pauses[1:]
        self._start: int | None = None  # of the chunk that has begun to sound

    def feed(self, samples: Samples) -> Iterator[Samples]:
        """The chunk's next samples, with what lies before the first of them."""
        if not len(samples):
            return
        if self._start is None:
            yield from self.finish()
            self._start = self.count
        self.count += len(samples)
        yield samples

    def end_chunk(self) -> None:
        self.starts.append(self.count if self._start is None else self._start)
        if self._start is not None:
            self._pending = self._pauses[len(self.starts) - 1]
            self._start = None

    def finish(self) -> Iterator[Samples]:
        """The silence that is due."""
        self.count += self._pending
        for at in range(0, self._pending, _BLOCK):
            yield silence(min(_BLOCK, self._pending - at))


def joined_count(counts: Iterable[int], pauses: Sequence[int]) -> int:
    """The length of a join of chunks of these lengths, all in samples."""
    total, pending = 0, pauses[0]
    for count, pause in zip(counts, pauses[1:], strict=True):
        if count:
            total, pending = total + pending + count, pause
    return total + pending
