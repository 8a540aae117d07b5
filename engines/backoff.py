"""How long to wait before what was lost is started again."""

from collections.abc import Callable

_STEADY_SEC = _LONGEST_PAUSE_SEC = 60


class Backoff:
    """Exponential back-off: pauses of 1, 2, 4 ... 60 s, and of 1 s again after a minute of work.
    `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._losses = 0
        self._now = now
        self._due = 0.0

    def in_a_row(self, works_since: float | None) -> int:
        """Losses until now, of what has worked since then; None for what never worked."""
        steady = works_since is not None and self._now() - works_since >= _STEADY_SEC
        return 0 if steady else self._losses

    def lost(self, worked_since: float | None) -> None:
        self._losses = self.in_a_row(worked_since) + 1
        self._due = self._now() + min(_LONGEST_PAUSE_SEC, 2 ** min(self._losses - 1, 6))

    def left(self) -> float:
        """Seconds until the next start."""
        return max(0.0, self._due - self._now())
