"""Measures how long steps take, for the log and for `/metrics`."""

import logging
import time
from collections.abc import Callable

_SAID_SEC = 60
_SHARE = 0.05  # the weight of the newest step in the moving mean

log = logging.getLogger("vibevoice")


class Meter:
    """The exponential moving mean of the time of a step. One thread writes it, any thread reads it.

    `frame_seconds` is in seconds, 0 before the first step. While there is work it is logged once a
    minute, together with the text that `state` gives.
    """

    def __init__(
        self, state: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.frame_seconds = 0.0
        self._state, self._clock = state, clock
        self._frames, self._seconds = 0, 0.0
        self._said = clock()

    def add(self, frames: int, seconds: float) -> None:
        """Adds `frames` steps, which took `seconds` together, with prefill and all else."""
        if not frames:
            return
        self._frames += frames
        self._seconds += seconds
        change = seconds / frames - self.frame_seconds
        self.frame_seconds += change * (_SHARE if self.frame_seconds else 1)
        if self._clock() - self._said >= _SAID_SEC:
            self._say()

    def _say(self) -> None:
        log.info(
            "%d frames in %.1f s: %.1f ms a frame; %s",
            self._frames,
            self._seconds,
            1000 * self._seconds / self._frames,
            self._state(),
        )
        self._frames, self._seconds = 0, 0.0
        self._said = self._clock()
