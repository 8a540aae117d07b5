"""Loudness normalisation: one constant gain an answer, then a true-peak limiter.

`LoudnessMeter` measures chunks (BS.1770, in LUFS). `gain_to` turns the measurement into a gain in
dB. `Level` applies the gain and the limiter to a stream. Samples are finite float32 of shape (n,),
with full scale at 1.0.
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
"""The loudness of a voice that was never measured. The model gets voices at -25 dBFS RMS, and its
speech is about as loud as the voice that it gets."""
MOST_GAIN_DB = 30.0
SHORTEST_S = 0.4
"""Seconds. A shorter chunk has no loudness, because BS.1770 measures blocks of this length."""
LONGEST_S = 60
"""Seconds. Longer chunks are measured in parts: pyloudnorm takes 2 GB for an hour at once."""

MARGIN_DB = 0.15
"""The limiter's target lies this far below the ceiling: `alimiter` overshoots by up to 0.12 dB."""
_PHASES = 8
_BLOCK_S = 0.5
_ATTACK_S, _RELEASE_S = 0.005, 0.05
_SETTLED_S = 2 * (_ATTACK_S + _RELEASE_S)
"""Seconds after its last peak until the filter is left. The gain of `alimiter` is back at 1 after
half of them."""


class LoudnessMeter:
    """The integrated loudness (BS.1770) of all added chunks, in LUFS. `rate` is in Hz.

    The gate of BS.1770 works on each chunk separately. The result is the mean power of the chunks,
    weighted by duration. Chunks shorter than 0.4 s, and chunks that the gate finds silent, do not
    count.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._energy = 0.0
        self._duration = 0.0

    def add(self, samples: Samples) -> None:
        """Measures a chunk's samples, shape (n,)."""
        if len(samples) < SHORTEST_S * self._rate:
            return
        import pyloudnorm  # imports scipy, which takes 0.8 s; an answer without a level needs none

        meter = pyloudnorm.Meter(self._rate)
        for part in np.array_split(samples, math.ceil(len(samples) / (LONGEST_S * self._rate))):
            loudness = float(meter.integrated_loudness(part))
            if math.isfinite(loudness):
                self._energy += len(part) * 10 ** (loudness / 10)
                self._duration += len(part)

    def integrated(self) -> float | None:
        """The loudness in LUFS, or None where no chunk counted."""
        return 10 * math.log10(self._energy / self._duration) if self._duration else None


def gain_to(target_lufs: float, measured: float | None, most_db: float = MOST_GAIN_DB) -> float:
    """The constant gain in dB from `measured` to `target_lufs`, both in LUFS, within +-`most_db`.

    0.0 where `measured` is None.
    """
    if measured is None:
        return 0.0
    return max(-most_db, min(most_db, target_lufs - measured))


class LoudnessMemory:
    """The last measured loudness of each voice before any gain, in LUFS.

    A stream needs it, because its gain is set before its audio can be measured. A voice that was
    never measured has `TYPICAL_LUFS`. The `most` last used voices are kept. Safe for many threads.
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

    FFmpeg's `alimiter` (5 ms look-ahead, 50 ms release) sees samples, not the peaks between them.
    But it turns all channels down by the highest one. So the signal is oversampled 8 times, and its
    8 phases are the filter's channels. The first phase is the signal itself, which comes back
    limited by its true peak. Where no phase is too high, it comes back bit for bit.

    The filter holds the interpreter lock (GIL) and costs as much as the oversampling. So it is
    entered only where a phase is too high, and left once its gain is back at 1. The samples are the
    same as if it ran all the time. As many samples come out as go in. At 24 kHz they are held for
    less than 60 ms.

    The oversampling passes frequencies up to 0.9 of Nyquist. Above that, white noise can exceed the
    ceiling by 1 dB; speech has no energy there.
    """

    def __init__(self, rate: int, ceiling_dbtp: float = CEILING_DBTP) -> None:
        self._rate = rate
        self._limit = 10 ** ((ceiling_dbtp - MARGIN_DB) / 20)
        self._ahead = int(rate * _ATTACK_S) - 1
        self._settled = round(rate * _SETTLED_S)
        self._graph: Graph | None = None  # the filter; None while it would change no sample
        self._oversampler = Resampler(rate, _PHASES * rate)
        self._held = silence(0)  # samples whose phases are not all known yet
        self._finer = silence(0)
        self._newest = silence(0)  # the look-ahead: fed, but not yet given out
        self._low_for = 0  # samples since the last one above the limit

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
            # No phase of these samples is above the limit, so zeros may stand for them.
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
    graph.threads = 1  # FFmpeg's default is one a core, up to 16, and this filter uses one
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
    """A constant gain, then the limiter, on a stream at `rate` Hz.

    With `gain_db` None there is neither, and samples pass unchanged.
    """

    def __init__(
        self, rate: int, gain_db: float | None, ceiling_dbtp: float = CEILING_DBTP
    ) -> None:
        self._limiter = None if gain_db is None else Limiter(rate, ceiling_dbtp)
        self._gain = np.float32(10 ** ((gain_db or 0.0) / 20))

    def feed(self, samples: Samples) -> Samples:
        return samples if self._limiter is None else self._limiter.feed(samples * self._gain)

    def flush(self) -> Samples:
        return silence(0) if self._limiter is None else self._limiter.flush()
