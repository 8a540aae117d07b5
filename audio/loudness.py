"""How loud an answer is, and one constant gain with a true-peak limiter to change that.

`LoudnessMeter` measures chunk by chunk, `gain_to` turns the measurement into decibels, `Level`
applies them to a stream. Samples are finite, mono float32, full scale at 1.0.
"""

import math
import threading

import av
import numpy as np
from av.filter import Graph
from cachetools import LRUCache

from audio.pcm import Resampler, Samples, silence

CEILING_DBTP = -1.5
TYPICAL_LUFS = -23.0
"""Voices are given to the model at -25 dBFS RMS, and it speaks as it was spoken to."""
MOST_GAIN_DB = 30.0
SHORTEST_S = 0.4
"""A shorter chunk has no loudness: BS.1770 measures in blocks of this length."""
LONGEST_S = 60
"""Longer chunks are measured in parts: pyloudnorm takes 2 GB for an hour in one piece."""

MARGIN_DB = 0.15
"""How far below the ceiling the limiter works: alimiter may miss its own mark by 0.12 dB."""
_PHASES = 8
_BLOCK_S = 0.5
_ATTACK_S, _RELEASE_S = 0.005, 0.05
_SETTLED_S = 2 * (_ATTACK_S + _RELEASE_S)
"""That long after its last peak alimiter's gain has been back at 1 for half of the time."""


class LoudnessMeter:
    """The integrated loudness (BS.1770) of everything that was added, in LUFS.

    Each chunk is gated for itself; the whole is the mean of their powers, weighted by duration.
    Chunks shorter than 0.4 s, and those that the gate finds silent, do not count.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._energy = 0.0
        self._duration = 0.0

    def add(self, samples: Samples) -> None:
        if len(samples) < SHORTEST_S * self._rate:
            return
        import pyloudnorm  # brings scipy, 0.8 s: not for answers that are not levelled

        meter = pyloudnorm.Meter(self._rate)
        for part in np.array_split(samples, math.ceil(len(samples) / (LONGEST_S * self._rate))):
            loudness = float(meter.integrated_loudness(part))
            if math.isfinite(loudness):
                self._energy += len(part) * 10 ** (loudness / 10)
                self._duration += len(part)

    def integrated(self) -> float | None:
        """LUFS, or None where nothing could be measured."""
        return 10 * math.log10(self._energy / self._duration) if self._duration else None


def gain_to(target_lufs: float, measured: float | None, most_db: float = MOST_GAIN_DB) -> float:
    """The constant gain in dB that brings `measured` to the target, within +-`most_db`.

    0.0 where there was nothing to measure.
    """
    if measured is None:
        return 0.0
    return max(-most_db, min(most_db, target_lufs - measured))


class LoudnessMemory:
    """How loud each voice speaks before any gain, for those who cannot measure first.

    A voice that was never measured is taken for `TYPICAL_LUFS`. Safe to share between threads.
    """

    def __init__(self, most: int = 1000) -> None:
        self._heard: LRUCache[str, float] = LRUCache(most)
        self._lock = threading.Lock()

    def recall(self, voice: str) -> float:
        with self._lock:
            return self._heard.get(voice, TYPICAL_LUFS)

    def remember(self, voice: str, measured: float | None) -> None:
        """None is what too little sound gives, and changes nothing."""
        if measured is not None:
            with self._lock:
                self._heard[voice] = measured


class Limiter:
    """A streaming look-ahead limiter that keeps the true peak under a ceiling, in dBTP.

    FFmpeg's `alimiter` (5 ms ahead, 50 ms release) knows samples only, not the peaks between them.
    But it turns all channels down by the highest of them, so it is given the 8 phases of the
    8 times oversampled signal as channels, the first being the signal itself. That one comes back
    limited by its true peak, and bit by bit as it was where nothing is too high.
    The filter holds the interpreter lock and costs as much as the oversampling, so it is entered
    only where a phase is too high, and left once its gain is back at 1: the samples are the same.
    As many samples come out as go in; at 24 kHz they are held for less than 60 ms.

    The oversampling passes up to 0.9 of the Nyquist frequency. White noise can exceed the ceiling
    by 1 dB through what lies above that; speech has nothing there.
    """

    def __init__(self, rate: int, ceiling_dbtp: float = CEILING_DBTP) -> None:
        self._rate = rate
        self._limit = 10 ** ((ceiling_dbtp - MARGIN_DB) / 20)
        self._ahead = int(rate * _ATTACK_S) - 1
        self._settled = round(rate * _SETTLED_S)
        self._graph: Graph | None = None  # only while it may change a sample
        self._oversampler = Resampler(rate, _PHASES * rate)
        self._held = silence(0)  # samples whose phases are not all known yet
        self._finer = silence(0)
        self._newest = silence(0)  # what the filter looks at and has not let go
        self._low_for = 0

    def feed(self, samples: Samples) -> Samples:
        block = round(self._rate * _BLOCK_S)
        blocks = [samples[i : i + block] for i in range(0, len(samples), block)]
        return np.concatenate(
            [silence(0), *(self._advance(b, self._oversampler.feed(b)) for b in blocks)]
        )

    def flush(self) -> Samples:
        last = self._advance(silence(0), self._oversampler.flush())
        if self._graph is None:
            return np.concatenate([last, self._newest])
        self._graph.push(None)
        return np.concatenate([last, _pulled(self._graph)])

    def _advance(self, samples: Samples, oversampled: Samples) -> Samples:
        self._held = np.concatenate([self._held, samples])
        self._finer = np.concatenate([self._finer, oversampled])
        count = min(len(self._held), len(self._finer) // _PHASES)
        if not count:
            return silence(0)
        block, self._held = self._held[:count], self._held[count:]
        finer = self._finer[: count * _PHASES]
        self._finer = self._finer[count * _PHASES :]
        is_low = max(_peak(block), _peak(finer)) <= self._limit
        self._low_for = self._low_for + count if is_low else 0
        return self._limited(block, finer, is_low)

    def _limited(self, block: Samples, finer: Samples, is_low: bool) -> Samples:
        known = np.concatenate([self._newest, block])
        done = max(0, len(known) - self._ahead)
        if self._graph is None and is_low:
            self._newest = known[done:]
            return known[:done]
        if self._graph is None:
            self._graph = _limiting(self._rate, self._limit)
            # They are known to be low, so the peaks between them do not matter.
            _push(self._graph, self._rate, self._newest, silence(len(self._newest) * _PHASES))
        _push(self._graph, self._rate, block, finer)
        limited = _pulled(self._graph)
        self._newest = known[done:]
        if self._low_for >= self._settled:
            self._graph = None
        return limited


def _peak(samples: Samples) -> float:
    return max(float(samples.max()), -float(samples.min()))


def _limiting(rate: int, limit: float) -> Graph:
    graph = Graph()
    graph.threads = 1  # or as many as there are cores, up to 16, to do nothing
    source = f"sample_rate={rate}:sample_fmt=dbl:channel_layout=7.1:time_base=1/{rate}"
    times = f"attack={_ATTACK_S * 1000:g}:release={_RELEASE_S * 1000:g}"
    options = f"limit={limit}:{times}:level=false:latency=true"
    graph.link_nodes(
        graph.add("abuffer", source), graph.add("alimiter", options), graph.add("abuffersink")
    ).configure()
    return graph


def _push(graph: Graph, rate: int, samples: Samples, finer: Samples) -> None:
    if not len(samples):
        return
    phases = finer.reshape(-1, _PHASES).astype(np.float64)
    phases[:, 0] = samples
    frame = av.AudioFrame.from_ndarray(phases.reshape(1, -1), "dbl", "7.1")
    frame.sample_rate = rate
    graph.push(frame)


def _pulled(graph: Graph) -> Samples:
    ready = [silence(0)]
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return np.concatenate(ready)
        ready.append(frame.to_ndarray().reshape(-1, _PHASES)[:, 0].astype(np.float32))


class Level:
    """A constant gain, then the limiter. Without a gain nothing at all is changed."""

    def __init__(
        self, rate: int, gain_db: float | None, ceiling_dbtp: float = CEILING_DBTP
    ) -> None:
        self._limiter = None if gain_db is None else Limiter(rate, ceiling_dbtp)
        self._gain = np.float32(10 ** ((gain_db or 0.0) / 20))

    def feed(self, samples: Samples) -> Samples:
        return samples if self._limiter is None else self._limiter.feed(samples * self._gain)

    def flush(self) -> Samples:
        return silence(0) if self._limiter is None else self._limiter.flush()
