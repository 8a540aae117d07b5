"""Samples and their rate: the one place that names the internal format and resamples.

Audio inside the worker is mono float32 with full scale at 1.0, at VibeVoice's native 24 kHz until
the answer's own rate is asked for.
"""

import numpy as np
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Mono audio, shape (n,), full scale at 1.0."""

SAMPLE_RATE = 24_000
"""Hz. What VibeVoice makes, and what every engine hands over."""


def silence(count: int) -> Samples:
    return np.zeros(count, np.float32)


class Resampler:
    """A streaming sample-rate converter: feed pieces, then `flush`.

    The whole of what comes out has round(n * rate_out / rate_in) samples, without delay.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self._stream = None
        if rate_in != rate_out:
            self._stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32")

    def feed(self, samples: Samples) -> Samples:
        if self._stream is None:
            return samples
        converted: Samples = self._stream.resample_chunk(samples)
        return converted

    def flush(self) -> Samples:
        if self._stream is None:
            return silence(0)
        rest: Samples = self._stream.resample_chunk(silence(0), last=True)
        return rest


def resample(samples: Samples, rate_in: int, rate_out: int) -> Samples:
    """The same conversion for audio that is already whole."""
    converter = Resampler(rate_in, rate_out)
    return np.concatenate([converter.feed(samples), converter.flush()])
