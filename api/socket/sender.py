"""Sending on a socket: one message at a time, and none of the playback's during a pause."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

Message = Mapping[str, Any] | bytes


class SocketSender:
    """Serialises what two tasks send: the session's answers and the playback's audio.

    Every method that sends raises `WebSocketDisconnect` once the connection is gone. If the client
    does not read, a send waits until `api.protocol.SocketProtocol` drops the connection.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._sending = asyncio.Lock()
        self._running = asyncio.Event()
        self._running.set()

    async def send(self, message: Message) -> None:
        """Sends a message that a pause does not hold: an answer to the client, or an error."""
        async with self._sending:
            await self._send(message)

    async def close(self, code: int = 1000, why: str | None = None) -> None:
        """Closes the socket with a close code. Call it after the last send."""
        try:
            await self._socket.close(code, why)
        except RuntimeError:
            raise WebSocketDisconnect(1006) from None

    async def pause(self, message: Callable[[], Message]) -> None:
        """Holds the playback's messages, and sends `message()`.

        The message is made after the send that is under way, so that it counts that audio.
        """
        self._running.clear()
        async with self._sending:
            await self._send(message())

    def release(self) -> None:
        """Lets the playback's messages go on."""
        self._running.set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Callable[[Message], Awaitable[None]]]:
        """The playback's lock to send: gives a function that sends one message.

        It waits for the end of a pause. While the block runs, no other task sends, and `pause`
        waits.
        """
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
                # ASCII escapes: JSON may carry a lone surrogate, which UTF-8 cannot encode.
                await self._socket.send_text(json.dumps(message, separators=(",", ":")))
        except RuntimeError:  # closed by the client, or after an unanswered ping
            raise WebSocketDisconnect(1006) from None
