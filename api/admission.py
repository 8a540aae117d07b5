"""Admission control: how many answers are spoken, or sockets are open, at the same time, and how
many may wait for that.

First in, first out, with a bounded queue: one request more is refused at once. A seat that becomes
free goes to the first in the queue directly, so nobody who comes later can take it.
"""

import asyncio
import math
import time
from collections import deque
from typing import Self

from api.errors import busy

_LONGEST_WAIT_SEC = 60.0
_FIRST_GUESS_SEC = 2.0


class AdmissionControl:
    """Belongs to one event loop. `taken` and `waiting` may be read by any thread."""

    def __init__(
        self, count: int, most_waiting: int, longest_wait_sec: float = _LONGEST_WAIT_SEC
    ) -> None:
        self.count = count
        self.taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._most_waiting = most_waiting
        self._longest_wait = longest_wait_sec
        self._usual_sec = _FIRST_GUESS_SEC

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def seat(self) -> "Seat":
        return Seat(self)

    async def take(self, first: bool = False) -> None:
        """Waits for a seat, with `first` in front of all others and in a full queue too. Raises a
        503 where the queue is full or the wait too long."""
        if self.taken < self.count:
            self.taken += 1
            return
        if len(self._queue) >= self._most_waiting and not first:
            told = f"All {self.count} places are taken, and {len(self._queue)} wait."
            raise busy(told, self.soon())
        place = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if first else self._queue.append)(place)
        try:
            async with asyncio.timeout(self._longest_wait):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():  # handed over while the wait ended
                self.free()
            else:
                self._queue.remove(place)
            if isinstance(error, TimeoutError):
                problem = f"No place became free in {self._longest_wait:g} s."
                raise busy(problem, self.soon()) from None
            raise

    def free(self) -> None:
        """Hands a seat to the first who still waits."""
        for place in self._queue:
            if not place.done():  # one who was just cancelled leaves the queue by himself
                self._queue.remove(place)
                place.set_result(None)
                return
        self.taken -= 1

    def note(self, seconds: float) -> None:
        """How long a seat was held, for `soon`."""
        self._usual_sec += 0.1 * (seconds - self._usual_sec)

    def soon(self) -> int:
        """Seconds after which it is worth another try."""
        ahead = (self.waiting + 1) / self.count
        return min(60, max(1, math.ceil(self._usual_sec * ahead)))


class Seat:
    """One answer's seat: taken once and kept until `leave` or the end of the block. Whoever left it
    in the middle of an answer takes the next one that is free, before all who never had one."""

    def __init__(self, admission: AdmissionControl) -> None:
        self._admission = admission
        self._since: float | None = None
        self._had_one = False

    async def take(self) -> float:
        """Seconds that were waited for it; none where it is held. Raises what
        `AdmissionControl.take` does."""
        if self._since is not None:
            return 0.0
        asked = time.monotonic()
        await self._admission.take(first=self._had_one)
        self._since = time.monotonic()
        self._had_one = True
        return self._since - asked

    def leave(self) -> None:
        if self._since is not None:
            self._admission.note(time.monotonic() - self._since)
            self._since = None
            self._admission.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
