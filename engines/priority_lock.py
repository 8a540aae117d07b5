"""A lock that serves first whoever needs it soonest, and lets go of cancelled waiters."""

import threading
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from request.errors import Cancelled


@dataclass(order=True, slots=True)
class _Waiter:
    due: float
    number: int
    cancelled: threading.Event = field(compare=False)
    turn: threading.Event = field(default_factory=threading.Event, compare=False)


class PriorityLock:
    """At most `places` holders at a time, by the earliest deadline first. A place goes from its
    holder to the next waiter directly, so nobody else is woken. Whoever sets a waiter's `cancelled`
    calls `wake` after it."""

    def __init__(self, places: int = 1) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._numbers = count()
        self._free = places

    @contextmanager
    def enter(self, cancelled: threading.Event, due: float = 0.0) -> Iterator[None]:
        """The one with the least `due` comes first, of equals the one who came first. Raises
        `Cancelled` if that is set by the time the turn comes, or while it waits."""
        waiter = _Waiter(due, next(self._numbers), cancelled)
        with self._lock:
            if has_place := self._free > 0:
                self._free -= 1
            else:
                insort(self._waiting, waiter)
        if not has_place:
            self._wait(waiter)
        try:
            if cancelled.is_set():
                raise Cancelled
            yield
        finally:
            self._leave()

    def _wait(self, waiter: _Waiter) -> None:
        """Until a place is handed over."""
        if waiter.cancelled.is_set():  # and its `wake` may have come before it was in the line
            self.wake()
        waiter.turn.wait()
        with self._lock:
            if waiter in self._waiting:  # woken without a place
                self._waiting.remove(waiter)
                raise Cancelled

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.pop(0).turn.set()
            else:
                self._free += 1

    def wake(self) -> None:
        with self._lock:
            for waiter in self._waiting:
                if waiter.cancelled.is_set():
                    waiter.turn.set()
