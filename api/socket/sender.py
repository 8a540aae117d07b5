"""A socket's way out: one message at a time, and nothing of the playback's while it is paused."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

Message = Mapping[str, Any] | bytes


class SocketSender:
    """Raises `WebSocketDisconnect` where the caller has left, in whatever state that was. For one
    who does not read it waits until the server drops him: see `api.protocol`."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._sending = asyncio.Lock()
        self._running = asyncio.Event()
        self._running.set()

    async def send(self, message: Message) -> None:
        """What does not belong to the speech: an answer, a refusal."""
        async with self._sending:
            await self._send(message)

    async def close(self, code: int = 1000, why: str | None = None) -> None:
        """To be called once nobody sends any more."""
        try:
            await self._socket.close(code, why)
        except RuntimeError:
            raise WebSocketDisconnect(1006) from None

    async def pause(self, message: Callable[[], Message]) -> None:
        """`message` is made once what is on its way is out, so that it is counted."""
        self._running.clear()
        async with self._sending:
            await self._send(message())

    def release(self) -> None:
        self._running.set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Callable[[Message], Awaitable[None]]]:
        """The speaker's turn to send. While it lasts nobody else sends and no pause is answered."""
        while True:
            await self._running.wait()
            async with self._sending:
                if self._running.is_set():
                    yield self._send
                    return

    async def _send(self, message: Message) -> None:
        try:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                # In ASCII: half of a surrogate pair, which JSON may carry, has no UTF-8.
                await self._socket.send_text(json.dumps(message, separators=(",", ":")))
        except RuntimeError:  # it was closed by the other side, or by a ping that nobody answered
            raise WebSocketDisconnect(1006) from None
