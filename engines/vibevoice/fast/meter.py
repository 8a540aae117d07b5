"""How long frames take, for the log and for `/metrics`."""

import logging
import time
from collections.abc import Callable

_SAID_SEC = 60
_SHARE = 0.05  # of the newest frame in the mean

log = logging.getLogger("vibevoice")


class Meter:
    """Written by one thread, read by any. `frame_seconds` is a moving mean, 0 before the first
    frame. `state` is what the log says beside it, once a minute while there is work."""

    def __init__(
        self, state: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.frame_seconds = 0.0
        self._state, self._clock = state, clock
        self._frames, self._seconds = 0, 0.0
        self._said = clock()

    def add(self, frames: int, seconds: float) -> None:
        """So many frames were started, one after the other, and took so long with all else."""
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
