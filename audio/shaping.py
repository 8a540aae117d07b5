"""Filters for one chunk's audio: trim quiet edges, change the tempo, fade the edges.

Every filter is a stream: call `feed` with arrays of any length, then `flush` once. The output does
not depend on how the input was cut. Samples are finite float32 of shape (n,). At speed 1.0 all
samples outside the fades pass bit for bit.

No filter knows of other chunks. `audio.chunk_audio.Join` adds the silence between two of them, so
speech never overlaps speech.
"""

from typing import Protocol

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from audio.pcm import Samples, silence

QUIET_DBFS = -54.0
"""A 10 ms window whose RMS lies below this is quiet. 0 dBFS is an RMS of 1.0."""
KEPT_BEFORE_S, KEPT_AFTER_S, HELD_S, FADE_S = 0.05, 0.08, 0.5, 0.01
SLOWEST, FASTEST = 0.25, 4.0


class Filter(Protocol):
    """A streaming filter: (n,) samples in, those that are ready out."""

    def feed(self, samples: Samples) -> Samples: ...

    def flush(self) -> Samples: ...


class Trim:
    """Cuts a chunk's quiet edges by an absolute threshold, so that one pass is enough.

    Windows lie on a 10 ms grid from the first sample; the last may be shorter. 50 ms are kept
    before the first loud window and 80 ms after the last. At most 500 ms are held back. So of a
    longer silence all but the last 500 ms is given out, even at the end of a chunk. A chunk without
    a loud window gives no samples.
    """

    def __init__(self, rate: int) -> None:
        self._window = round(rate / 100)
        self._before = round(rate * KEPT_BEFORE_S)
        self._after = round(rate * KEPT_AFTER_S)
        self._most = round(rate * HELD_S)
        self._seen = 0
        self._held = silence(0)  # the newest samples, neither given out nor dropped yet
        self._open = silence(0)  # the incomplete last window; its samples may be given out already
        self._loud_end: int | None = None  # where the last loud window ended, counted in _seen
        self.lead = 0
        """Samples that were cut before the first one that was kept."""

    def feed(self, samples: Samples) -> Samples:
        self._seen += len(samples)
        self._held = np.concatenate([self._held, samples])
        unjudged = np.concatenate([self._open, samples])
        start = self._seen - len(unjudged)
        whole = len(unjudged) - len(unjudged) % self._window
        self._open = unjudged[whole:]
        loud = start + self._window * _loud(unjudged[:whole].reshape(-1, self._window))
        if len(loud):
            self._note(int(loud[0]), int(loud[-1]) + self._window)
        if self._loud_end is None:
            self._take(start + whole - self._before)
            return silence(0)
        return self._take(max(self._loud_end + self._after, self._seen - self._most))

    def flush(self) -> Samples:
        if len(self._open) and len(_loud(self._open.reshape(1, -1))):
            self._note(self._seen - len(self._open), self._seen)
        if self._loud_end is None:
            return silence(0)
        return self._take(self._loud_end + self._after)

    def _note(self, first: int, end: int) -> None:
        if self._loud_end is None:
            self._take(first - self._before)
            self.lead = self._seen - len(self._held)
        self._loud_end = end

    def _take(self, to: int) -> Samples:
        """Removes the held samples before position `to`, counted from the first, and gives them."""
        count = max(0, to - (self._seen - len(self._held)))
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _loud(windows: Samples) -> NDArray[np.intp]:
    """The indices of the loud windows; `windows` has shape (count, samples)."""
    return np.flatnonzero(np.square(windows).mean(axis=1) >= 10 ** (QUIET_DBFS / 10))


class Stretch:
    """Time stretching: changes the tempo and keeps the pitch, by FFmpeg's `atempo`.

    Of n samples it makes round(n / speed). Raises `ValueError` unless 0.25 <= speed <= 4, because
    `atempo=8` ends the process by SIGABRT.
    """

    def __init__(self, rate: int, speed: float) -> None:
        if not SLOWEST <= speed <= FASTEST:
            raise ValueError(f"speed is {speed}; it must be from {SLOWEST} to {FASTEST}")
        self._rate, self._speed = rate, speed
        self._graph = None if speed == 1.0 else _tempo(rate, speed)
        # The last samples of atempo depend on the sizes of its inputs, so all blocks are 20 ms.
        self._block = rate // 50
        self._waiting = silence(0)
        self._ready: list[Samples] = []
        self._fed = self._pushed = self._made = self._given = 0

    def feed(self, samples: Samples) -> Samples:
        if self._graph is None:
            return samples
        self._fed += len(samples)
        waiting = np.concatenate([self._waiting, samples])
        whole = len(waiting) - len(waiting) % self._block
        self._waiting = waiting[whole:]
        for block in waiting[:whole].reshape(-1, self._block):
            self._push(self._graph, block)
        return self._take(int(self._fed / self._speed))

    def flush(self) -> Samples:
        if self._graph is None:
            return silence(0)
        length = round(self._fed / self._speed)
        # Silence is fed until the last samples are out. The end of stream of atempo dropped up to
        # 60 ms of them, and gave no samples for less than 43 ms of input.
        while self._made < length:
            padded = np.concatenate([self._waiting, silence(self._block - len(self._waiting))])
            self._waiting = silence(0)
            self._push(self._graph, padded)
        return self._take(length)

    def _push(self, graph: Graph, block: Samples) -> None:
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._pushed
        self._pushed += len(block)
        graph.push(frame)
        while True:
            try:
                made = graph.pull()
            except BlockingIOError:
                return
            self._ready.append(made.to_ndarray()[0])
            self._made += len(self._ready[-1])

    def _take(self, to: int) -> Samples:
        """Those of the first `to` output samples that are ready and were not given out yet."""
        ready = np.concatenate([silence(0), *self._ready])
        count = max(0, to - self._given)
        taken = ready[:count]
        self._ready = [ready[count:]]
        self._given += len(taken)
        return taken


def _tempo(rate: int, speed: float) -> Graph:
    # One atempo refuses a tempo below 0.5 and skips samples above 2; a larger change takes two.
    stages = 1 if 0.5 <= speed <= 2.0 else 2
    graph = Graph()
    graph.threads = 1  # FFmpeg's default is one a core, up to 16, and this filter uses one
    source = f"sample_rate={rate}:sample_fmt=flt:channel_layout=mono:time_base=1/{rate}"
    tempos = [graph.add("atempo", repr(speed ** (1 / stages))) for _ in range(stages)]
    graph.link_nodes(graph.add("abuffer", source), *tempos, graph.add("abuffersink")).configure()
    return graph


class Fade:
    """Fades the first and the last 10 ms by a raised cosine. Holds back the newest 10 ms.

    Audio shorter than 20 ms is faded in over its first half and out over its second.
    """

    def __init__(self, rate: int) -> None:
        self._length = round(rate * FADE_S)
        self._held = silence(0)
        self._started = False

    def feed(self, samples: Samples) -> Samples:
        self._held = np.concatenate([self._held, samples])
        if not self._started:
            if len(self._held) < 2 * self._length:
                return silence(0)
            self._held[: self._length] *= _rise(self._length)
            self._started = True
        count = len(self._held) - self._length
        out, self._held = self._held[:count], self._held[count:].copy()
        return out

    def flush(self) -> Samples:
        rest, self._held = self._held, silence(0)
        length = self._length if self._started else len(rest) // 2
        if not self._started:
            rest[:length] *= _rise(length)
        rest[len(rest) - length :] *= _rise(length)[::-1]
        return rest


def _rise(length: int) -> Samples:
    steps = (np.arange(length) + 0.5) / max(1, length)
    return (0.5 - 0.5 * np.cos(np.pi * steps)).astype(np.float32)


class Shaper:
    """All filters of one chunk in their order: `Trim`, `Stretch`, `Fade`. `rate` is in Hz."""

    def __init__(self, rate: int, speed: float = 1.0) -> None:
        self._trim = Trim(rate)
        self._filters: tuple[Filter, ...] = (self._trim, Stretch(rate, speed), Fade(rate))
        self.count = 0
        """Samples given out so far."""

    @property
    def lead(self) -> int:
        """Quiet samples that were cut from the beginning so far."""
        return self._trim.lead

    def feed(self, samples: Samples) -> Samples:
        for stage in self._filters:
            samples = stage.feed(samples)
        self.count += len(samples)
        return samples

    def flush(self) -> Samples:
        rest = silence(0)
        for stage in self._filters:
            rest = np.concatenate([stage.feed(rest), stage.flush()])
        self.count += len(rest)
        return rest
