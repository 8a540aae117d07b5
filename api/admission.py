"""Admission control: a limit on answers spoken, or sockets open, at the same time.

Seats are given first in, first out. The queue is bounded: a request beyond its length is refused at
once. A freed seat is handed directly to the first in the queue, so a later request cannot take it.
"""

import asyncio
import math
import time
from collections import deque
from typing import Self

from starlette.types import Scope

from api.errors import busy

_LONGEST_WAIT_SEC = 60.0
_FIRST_GUESS_SEC = 2.0


_HEALTH_PATHS = ("/ping", "/health")


def check_connection(scope: Scope) -> None:
    """Raises `ApiError` 503 beyond `most_connections`, except for health checks."""
    if scope.get("state", {}).get("is_spare") and scope["path"] not in _HEALTH_PATHS:
        raise busy("Too many connections are open.", 1, {"Connection": "close"})


class AdmissionControl:
    """A number of seats, and a bounded queue for them.

    `count` is the number of seats, `taken` how many are held. `most_waiting` bounds the queue, and
    `longest_wait_sec` the time in it. An object belongs to one event loop; any thread may read
    `taken` and `waiting`.
    """

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
        """The length of the queue."""
        return len(self._queue)

    def seat(self) -> "Seat":
        """A seat for one answer, not yet taken."""
        return Seat(self)

    async def take(self, first: bool = False) -> None:
        """Waits for a seat. Raises `ApiError` 503 if the queue is full or the wait is too long.

        With `first` the caller goes to the head of the queue, even of a full one.
        """
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
        """Hands one seat to the first waiting caller that is not cancelled."""
        for place in self._queue:
            if not place.done():  # a cancelled one removes itself in `take`
                self._queue.remove(place)
                place.set_result(None)
                return
        self.taken -= 1

    def note(self, seconds: float) -> None:
        """Updates the moving mean of how long a seat is held, in seconds, for `soon`."""
        self._usual_sec += 0.1 * (seconds - self._usual_sec)

    def soon(self) -> int:
        """The seconds for `Retry-After`, 1 to 60: when a seat should be free again."""
        ahead = (self.waiting + 1) / self.count
        return min(60, max(1, math.ceil(self._usual_sec * ahead)))


class Seat:
    """One answer's seat: taken once, and held until `leave` or the end of the `with` block.

    An answer may leave its seat midway and take one again. Then it waits at the head of the queue,
    before answers that have not begun.
    """

    def __init__(self, admission: AdmissionControl) -> None:
        self._admission = admission
        self._since: float | None = None
        self._had_one = False

    async def take(self) -> float:
        """Takes a seat and gives the seconds waited for it; 0 if the seat is held already.

        Raises what `AdmissionControl.take` does.
        """
        if self._since is not None:
            return 0.0
        asked = time.monotonic()
        await self._admission.take(first=self._had_one)
        self._since = time.monotonic()
        self._had_one = True
        return self._since - asked

    def leave(self) -> None:
        """Frees the seat. Does nothing if it is not held."""
        if self._since is not None:
            self._admission.note(time.monotonic() - self._since)
            self._since = None
            self._admission.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
