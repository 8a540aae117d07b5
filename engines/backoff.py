"""How long to wait before what was lost is started again."""

from collections.abc import Callable

_STEADY_SEC = _LONGEST_PAUSE_SEC = 60


class Backoff:
    """Exponential back-off: pauses of 1, 2, 4 ... 60 s, and of 1 s again after a minute of work.
    `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.losses = 0
        """In a row."""
        self._now = now
        self._due = 0.0

    def lost(self, worked_since: float | None) -> None:
        """`worked_since` is None for what never worked."""
        now = self._now()
        steady = worked_since is not None and now - worked_since >= _STEADY_SEC
        self.losses = 1 if steady else self.losses + 1
        self._due = now + min(_LONGEST_PAUSE_SEC, 2 ** min(self.losses - 1, 6))

    def left(self) -> float:
        """Seconds until the next start."""
        return max(0.0, self._due - self._now())
