"""20 ms of PCM every 20 ms, by an absolute schedule: a late frame does not delay those after it."""

import asyncio
from collections.abc import Iterator

FRAME_SEC = 0.02
_LATE_SEC = 0.1
"""Who is later than this (the engine, or a pause) starts a new schedule instead of hurrying."""


class Pacer:
    """Cuts 16-bit PCM into frames and says when each is due."""

    def __init__(self, rate: int) -> None:
        self._size = round(rate * FRAME_SEC) * 2
        self._second = rate * 2
        self._rest = b""
        self._due = 0.0

    def cut(self, data: bytes, last: bool = False) -> Iterator[bytes]:
        """Whole frames; with `last` also what is left."""
        data = self._rest + data
        end = len(data) if last else len(data) - len(data) % self._size
        self._rest = data[end:]
        for at in range(0, end, self._size):
            yield data[at : min(at + self._size, end)]

    async def wait(self) -> None:
        """Until the next frame is due."""
        loop = asyncio.get_running_loop()
        if self._due < loop.time() - _LATE_SEC:
            self._due = loop.time()
        await asyncio.sleep(self._due - loop.time())

    def sent(self, frame: bytes) -> None:
        self._due += len(frame) / self._second
