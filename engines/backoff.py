"""Exponential back-off between starts of a process that is lost again and again."""

from collections.abc import Callable

_STEADY_SEC = _LONGEST_PAUSE_SEC = 60


class Backoff:
    """Pauses of 1, 2, 4 ... 60 s. After a minute of work the next pause is 1 s again.

    `now` is a monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._losses = 0
        self._now = now
        self._due = 0.0

    def in_a_row(self, works_since: float | None) -> int:
        """The number of losses in a row. `works_since` is a time on the clock, None for never."""
        steady = works_since is not None and self._now() - works_since >= _STEADY_SEC
        return 0 if steady else self._losses

    def lost(self, worked_since: float | None) -> None:
        """Records a loss. `worked_since` is a time on the clock, None if it never worked."""
        self._losses = self.in_a_row(worked_since) + 1
        self._due = self._now() + min(_LONGEST_PAUSE_SEC, 2 ** min(self._losses - 1, 6))

    def left(self) -> float:
        """Seconds until the next start."""
        return max(0.0, self._due - self._now())
