"""The internal sample format, and the resampler.

Audio inside the worker is mono float32 with full scale at 1.0. Its rate is VibeVoice's native
24 kHz until a chunk is resampled to the answer's rate.
"""

import numpy as np
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Mono audio, shape (n,), full scale at 1.0."""

SAMPLE_RATE = 24_000
"""Hz: VibeVoice's native rate, at which every engine gives its frames."""


def silence(count: int) -> Samples:
    """`count` zeros."""
    return np.zeros(count, np.float32)


class Resampler:
    """A streaming sample-rate converter (soxr), from `rate_in` to `rate_out` Hz.

    Feed arrays of any length, then call `flush` once. Of n samples it makes
    round(n * rate_out / rate_in), and the output has no delay against the input.
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
    """Converts a whole recording, shape (n,), from `rate_in` to `rate_out` Hz. See `Resampler`."""
    converter = Resampler(rate_in, rate_out)
    return np.concatenate([converter.feed(samples), converter.flush()])
