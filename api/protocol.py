"""uvicorn's protocols with what the second door needs besides: a reset, bounded headers, errors of
the protocol itself in the envelope, and an end for connections that are only held.

HTTP is parsed by h11. uvicorn's other parser, httptools, ends a request at its headers where they
offer an upgrade that is not taken, and reads the body as the next request (uvicorn #2722).

ASGI has no way to break an answer off. uvicorn closes the connection when an application fails in
the middle, which looks like a clean end to HTTP/1.0 and to sloppy clients; a reset never does.
"""

import asyncio
import json
import resource
import socket
import struct
import time
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

MOST_HEADER_BYTES = 32 * 1024
HEAD_SEC = 20.0
"""A request's head arrives whole in that time: from the connection's begin or the head's first
byte on. Browsers connect ahead of need, so a connection that has asked before may idle longer."""
MOST_UNREAD_BYTES = 2**20
"""What is kept for a WebSocket's peer that asks and does not read."""
_LAST_READ_SEC = 10.0
_LINGER_ZERO = struct.pack("ii", 1, 0)


def most_connections() -> int:
    """Three quarters of the files that the process may open: the rest serves its own work."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft * 3 // 4 if soft != resource.RLIM_INFINITY else 2**16


class _Connection(h11.Connection):
    """h11 bounds a head that is incomplete; this one bounds every head."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            size = len(event.target) + sum(len(name) + len(value) for name, value in event.headers)
            if size > MOST_HEADER_BYTES:
                raise h11.RemoteProtocolError("the headers are too large")
        return event


class Protocol(H11Protocol):
    """`scope["state"]["reset"]` breaks the connection off."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "reset": self.reset}, _loop)
        self.conn = _Connection(h11.SERVER, MOST_HEADER_BYTES)
        self._asked_at = time.monotonic()  # uvloop's clock stands still within a turn
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > most_connections():
            self._drop_an_idle_one()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_idle():
            self._await_head()
        super().data_received(data)
        if not self._is_idle():
            self._head_is_here()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._head_is_here()
        super().handle_websocket_upgrade(event)

    def reset(self) -> None:
        """Ends the connection by a RST; what is not sent yet is dropped."""
        peer = self.transport.get_extra_info("socket")
        if peer is not None and peer.fileno() != -1:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self._is_idle():
            self.reset()  # an answer is under way: what follows would look like a part of it
            return
        error: dict[str, Any] = {
            "message": msg,
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_http",
        }
        body = json.dumps({"error": error}).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """RFC 9110, 7.8: an upgrade that is not taken is ignored."""

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SEC, self.transport.close)

    def _head_is_here(self) -> None:
        self._asked_at = time.monotonic()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _drop_an_idle_one(self) -> None:
        """Who has asked nothing for longest makes room, so that `/ping` is always answered."""
        idle = [
            each
            for each in self.connections - {self}
            if isinstance(each, Protocol) and each._is_idle() and not each.transport.is_closing()
        ]
        if idle:
            min(idle, key=lambda each: each._asked_at).transport.abort()


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn closes a WebSocket once all that was written is read, which for who does not read is
    never: whoever waits to send would wait with it. Here what is unread is dropped: at a ping that
    was not answered, and some seconds after the session's end. Who pings without reading is dropped
    too, since uvicorn writes every pong at once."""

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(_LAST_READ_SEC, self.transport.abort)
