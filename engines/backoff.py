"""Exponential back-off between starts of a process that is lost again and again."""

from collections.abc import Callable

_STEADY_SEC = _LONGEST_PAUSE_SEC = 60


class Backoff:
    """Pauses of 1, 2, 4 ... 60 s. After a minute of work the next pause is 1 s again.

    `now` is a monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.losses = 0
        """The number of losses in a row."""
        self._now = now
        self._due = 0.0

    def lost(self, worked_since: float | None) -> None:
        """Records a loss. `worked_since` is a time on the clock, None if it never worked."""
        now = self._now()
        steady = worked_since is not None and now - worked_since >= _STEADY_SEC
        self.losses = 1 if steady else self.losses + 1
        self._due = now + min(_LONGEST_PAUSE_SEC, 2 ** min(self.losses - 1, 6))

    def left(self) -> float:
        """Seconds until the next start."""
        return max(0.0, self._due - self._now())
