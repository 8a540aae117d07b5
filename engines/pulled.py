"""A `Speech` whose work is done by the thread that iterates it, one piece of text at a time.

A lock is held while a piece is made, and released between pieces: a slow reader blocks no other
speech. The lock serves the earliest deadline first. A deadline is when the speech's listener has
heard all that was made, so a speech without sound yet precedes all that are ahead of real time.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np

from audio.pcm import Resampler, silence
from engines.base import SAMPLE_RATE, End, Frame, Plan, PlannedChunk, Samples
from engines.priority_lock import PriorityLock
from request.errors import Cancelled

_FRAME = 3200  # samples: 133 ms, as VibeVoice's


class PulledSpeech(ABC):
    """See `engines.base.Speech`. A subclass makes the pieces, at `rate` Hz, each in a `turn`."""

    def __init__(self, plan: Plan, lock: PriorityLock, rate: int) -> None:
        self.plan, self.rate = plan, rate
        self.cancelled = threading.Event()
        self.device_sec = 0.0  # of the current chunk
        self._lock = lock
        self._due = 0.0  # deadline: when the listener has heard all audio so far, monotonic seconds

    @abstractmethod
    def pieces(self, chunk: PlannedChunk) -> Iterator[Samples]:
        """The chunk's audio piece by piece, float32 at `rate`."""

    def cancel(self) -> None:
        self.cancelled.set()
        self._lock.wake()

    def turn(self) -> AbstractContextManager[None]:
        """Holds the lock for the block. Raises `Cancelled`."""
        return self._lock.enter(self.cancelled, self._due)

    def __iter__(self) -> Iterator[Frame | End]:
        self._due = time.monotonic()
        for event in self._events():
            if self.cancelled.is_set():
                raise Cancelled
            if isinstance(event, Frame):
                self._due += len(event.samples) / SAMPLE_RATE
            yield event

    def _events(self) -> Iterator[Frame | End]:
        for index, chunk in enumerate(self.plan.chunks):
            frame, self.device_sec = None, 0.0
            for samples in _framed(self._resampled(chunk)):
                frame = Frame(index, samples)
                yield frame
            yield End(index, "eos" if frame else "empty", chunk.seed, self.device_sec)

    def _resampled(self, chunk: PlannedChunk) -> Iterator[Samples]:
        converter = Resampler(self.rate, SAMPLE_RATE)
        for samples in self.pieces(chunk):
            yield np.clip(converter.feed(samples), -1, 1)  # the resampler may overshoot full scale
        yield np.clip(converter.flush(), -1, 1)


def _framed(parts: Iterable[Samples]) -> Iterator[Samples]:
    """Regroups samples into frames of `_FRAME`, given out once full; the last may be shorter."""
    rest = silence(0)
    for part in parts:
        rest = np.concatenate([rest, part])
        full = len(rest) - len(rest) % _FRAME
        yield from (rest[at : at + _FRAME] for at in range(0, full, _FRAME))
        rest = rest[full:]
    if len(rest):
        yield rest
