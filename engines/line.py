"""A lock that serves first whoever needs it soonest, and lets go of cancelled waiters."""

import threading
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from speech.errors import Cancelled


class Line:
    """One holder at a time. Whoever sets a waiter's `cancelled` calls `wake` after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int]] = []
        self._numbers = count()
        self._held = False

    @contextmanager
    def enter(self, cancelled: threading.Event, due: float = 0.0) -> Iterator[None]:
        """The one with the least `due` comes first, of equals the one who came first. Raises
        `Cancelled` if that is set by the time the turn comes, or while it waits."""
        ticket = (due, next(self._numbers))
        with self._changed:
            insort(self._waiting, ticket)
            try:
                self._changed.wait_for(
                    lambda: cancelled.is_set() or (not self._held and self._waiting[0] == ticket)
                )
                if cancelled.is_set():
                    raise Cancelled
                self._held = True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held = False
                self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
