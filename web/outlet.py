"""A socket's way out: one message at a time, and nothing of the speaker's while it is paused."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.websockets import WebSocket


class Outlet:
    """Raises `WebSocketDisconnect` where the caller has left."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._sending = asyncio.Lock()
        self._running = asyncio.Event()
        self._running.set()

    async def send(self, message: Mapping[str, Any]) -> None:
        """What does not belong to the speech: an answer, a refusal."""
        async with self._sending:
            await self._socket.send_json(message)

    async def pause(self, place: Callable[[], float]) -> None:
        """`place` is read once what is on its way is out, so that it is counted."""
        self._running.clear()
        async with self._sending:
            await self._socket.send_json({"type": "paused", "pts_ms": place()})

    async def resume(self, place: Callable[[], float]) -> None:
        await self.send({"type": "resumed", "pts_ms": place()})
        self.release()

    def release(self) -> None:
        self._running.set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[WebSocket]:
        """The speaker's turn to send. While it lasts nobody else sends and no pause is answered,
        so what is noted in it is as good as sent."""
        while True:
            await self._running.wait()
            async with self._sending:
                if self._running.is_set():
                    yield self._socket
                    return
