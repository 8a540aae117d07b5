"""Pacing: 20 ms of PCM every 20 ms.

The schedule is absolute, so a late frame does not delay the frames after it.
"""

import asyncio
from collections.abc import Iterator

FRAME_SEC = 0.02
_LATE_SEC = 0.1
"""A frame that is later than this, by a slow engine or a pause, starts a new schedule.

Otherwise the frames after it would be sent in a burst."""


class Pacer:
    """Cuts 16-bit mono PCM of `rate` Hz into frames of 20 ms, and waits until each is due."""

    def __init__(self, rate: int) -> None:
        self._size = round(rate * FRAME_SEC) * 2
        self._second = rate * 2
        self._rest = b""
        self._due = 0.0

    def cut(self, data: bytes, last: bool = False) -> Iterator[bytes]:
        """The complete frames; with `last` also the remaining bytes."""
        data = self._rest + data
        end = len(data) if last else len(data) - len(data) % self._size
        self._rest = data[end:]
        for at in range(0, end, self._size):
            yield data[at : min(at + self._size, end)]

    async def wait(self) -> None:
        """Waits until the next frame is due."""
        loop = asyncio.get_running_loop()
        if self._due < loop.time() - _LATE_SEC:
            self._due = loop.time()
        await asyncio.sleep(self._due - loop.time())

    def sent(self, frame: bytes) -> None:
        """Moves the due time on by the frame's duration."""
        self._due += len(frame) / self._second
