"""How many answers are spoken at the same time, and how many may wait for that: first come, first
served, and a refusal instead of a queue without an end."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from web.errors import busy

_LONGEST_WAIT_SEC = 60.0
_FIRST_GUESS_SEC = 2.0


class Seats:
    """Belongs to one event loop. `taken` and `waiting` may be read by any thread."""

    def __init__(
        self, count: int, most_waiting: int, longest_wait_sec: float = _LONGEST_WAIT_SEC
    ) -> None:
        self.count = count
        self.taken = 0
        self.waiting = 0
        self._most_waiting = most_waiting
        self._longest_wait = longest_wait_sec
        self._free = asyncio.Semaphore(count)
        self._usual_sec = _FIRST_GUESS_SEC

    @asynccontextmanager
    async def one(self) -> AsyncIterator[float]:
        """A seat; gives the seconds that it was waited for. Raises a 503 where the queue is full or
        the wait too long."""
        began = time.monotonic()
        await self._wait()
        seated = time.monotonic()
        self.taken += 1
        try:
            yield seated - began
        finally:
            self.taken -= 1
            self._free.release()
            self._usual_sec += 0.1 * (time.monotonic() - seated - self._usual_sec)

    async def _wait(self) -> None:
        if self._free.locked() and self.waiting >= self._most_waiting:
            raise busy(f"All {self.count} places are taken and the queue is full.", self.soon())
        self.waiting += 1
        try:
            async with asyncio.timeout(self._longest_wait):
                await self._free.acquire()
        except TimeoutError:
            raise busy(f"No place became free in {self._longest_wait:g} s.", self.soon()) from None
        finally:
            self.waiting -= 1

    def soon(self) -> int:
        """Seconds after which it is worth another try."""
        ahead = (self.waiting + 1) / self.count
        return min(60, max(1, math.ceil(self._usual_sec * ahead)))
