"""A lock that serves its waiters in the order they came, and lets go of cancelled ones."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from speech.errors import Cancelled


class Line:
    """One holder at a time. Whoever sets a waiter's `cancelled` calls `wake` after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def enter(self, cancelled: threading.Event) -> Iterator[None]:
        """Raises `Cancelled` if that is set by the time the turn comes, or while it waits."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
        try:
            with self._changed:
                self._changed.wait_for(lambda: cancelled.is_set() or self._waiting[0] is ticket)
            if cancelled.is_set():
                raise Cancelled
            yield
        finally:
            with self._changed:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
