"""A priority lock: the waiter with the earliest deadline gets it next. Waiters can be cancelled."""

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
    """A lock for at most `places` holders at a time, earliest deadline first.

    A holder hands its place directly to the next waiter, so no other waiter is woken. After setting
    a waiter's `cancelled`, call `wake`.
    """

    def __init__(self, places: int = 1) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._numbers = count()
        self._free = places

    @contextmanager
    def enter(self, cancelled: threading.Event, due: float = 0.0) -> Iterator[None]:
        """Holds a place for the block. The waiter with the smallest `due` gets the next free place.

        Waiters with equal `due` are served in order of arrival. `due` is a time in seconds on any
        clock that all waiters share. Raises `Cancelled` if `cancelled` is set before the place is
        held.
        """
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
        """Blocks until a place is handed over or the waiter is cancelled."""
        if waiter.cancelled.is_set():  # its `wake` may have come before it was among the waiters
            self.wake()
        waiter.turn.wait()
        with self._lock:
            if waiter in self._waiting:  # woken by its cancellation, without a place
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
