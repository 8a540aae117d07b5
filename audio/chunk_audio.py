"""A chunk's audio on its way to the answer.

A `ChunkAudio` resamples and shapes a chunk's frames as they come. A `KeptChunkAudio` also appends
them to a spool that all takes of a request share. So chunks may come in any order and interleave.
The bytes of a take that is not used stay in the spool until it closes. A `Join` concatenates
chunks with the silences between them. No object here is safe for two threads at once.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from audio.pcm import SAMPLE_RATE, Resampler, Samples, silence
from audio.shaping import Shaper
from audio.spool import Extent, Spool
from request.errors import EngineError

_BLOCK = 1 << 16


class ChunkAudio:
    """A take: the audio of one attempt at a chunk, at the answer's `rate` in Hz.

    `speed` is the tempo factor; 2.0 halves the length. `count` is the length so far, in samples at
    `rate`. `lead_sec` is how much quiet was cut before it, once the take is finished.
    """

    def __init__(self, rate: int, speed: float) -> None:
        self.count = 0
        self.lead_sec = 0.0
        self._rate, self._speed = rate, speed
        self._resampler = Resampler(SAMPLE_RATE, rate)
        self._shaper = Shaper(rate, speed)

    @property
    def seconds(self) -> float:
        """The take's length in seconds as the engine spoke it, before the change of speed."""
        return self.count / self._rate * self._speed

    def feed(self, samples: Samples) -> Samples:
        """Shapes the chunk's next samples.

        Takes (n,) samples at `SAMPLE_RATE`, and gives those at the answer's rate that are ready.
        Raises `EngineError` on NaN and infinity.
        """
        if not np.isfinite(samples).all():
            raise EngineError("the engine made samples that are no numbers")
        return self._out(self._shaper.feed(self._resampler.feed(samples)))

    def place_sec(self, spoken_sec: float) -> float:
        """Where in the finished take something is that the engine spoke at `spoken_sec`."""
        place = (spoken_sec - self.lead_sec) / self._speed
        return min(max(0.0, place), self.count / self._rate)

    def finish(self) -> Samples:
        """The samples that were still held back, at the answer's rate. Nothing may follow."""
        last = self._shaper.feed(self._resampler.flush())
        last = np.concatenate([last, self._shaper.flush()])
        self.lead_sec = self._shaper.lead / self._rate
        del self._resampler, self._shaper  # their buffers are many times a finished take
        return self._out(last)

    def _out(self, samples: Samples) -> Samples:
        self.count += len(samples)
        return samples


class KeptChunkAudio(ChunkAudio):
    """A take whose samples are kept in a spool, so that they can be read again."""

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
        """All samples of the take, in blocks of at most 65,536."""
        for extent in self._extents:
            yield from self._spool.read(extent)


class Join:
    """Concatenates chunks in their order, with silences between them. All lengths are in samples.

    `pauses` has one silence before all chunks, then one after each chunk. The pause after a chunk
    without samples is dropped; the pause before it stays due. `starts` has the offset at which each
    ended chunk begins. `count` is the length so far.
    """

    def __init__(self, pauses: Sequence[int]) -> None:
        self.count = 0
        self.starts: list[int] = []
        self._pending, self._pauses = pauses[0], pauses[1:]
        self._start: int | None = None  # of the chunk that has begun to sound

    def feed(self, samples: Samples) -> Iterator[Samples]:
        """The chunk's next samples. The silence that is due comes before the chunk's first."""
        if not len(samples):
            return
        if self._start is None:
            yield from self.finish()
            self._start = self.count
        self.count += len(samples)
        yield samples

    def end_chunk(self) -> None:
        """Ends the current chunk; the next `feed` begins the chunk after it."""
        self.starts.append(self.count if self._start is None else self._start)
        if self._start is not None:
            self._pending = self._pauses[len(self.starts) - 1]
            self._start = None

    def finish(self) -> Iterator[Samples]:
        """The silence that is due, in blocks of at most 65,536 samples."""
        self.count += self._pending
        for at in range(0, self._pending, _BLOCK):
            yield silence(min(_BLOCK, self._pending - at))
