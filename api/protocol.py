"""uvicorn's protocols, extended: TCP reset, bounded headers, protocol errors in OpenAI's envelope,
and time limits for idle connections.

Parser: h11. Request smuggling is possible with uvicorn's other parser, httptools. If an offered
upgrade is not taken, httptools ends the request at its headers. It then reads the body as the next
request (uvicorn #2722).

Reset: ASGI has no way to abort an answer. When an application fails midway, uvicorn closes the
connection. HTTP/1.0 and careless clients take that for a complete answer; they never take a TCP
reset for one.
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
"""Slowloris: the seconds in which a request's head has to arrive.

They count from the connection, or from a later head's first byte. Between two requests the longer
keep-alive of `server.py` holds, since browsers keep connections open ahead of need."""
MOST_UNREAD_BYTES = 2**20
"""The most bytes that wait to be sent to a WebSocket's peer when it sends a ping."""
_LAST_READ_SEC = 10.0
_LINGER_ZERO = struct.pack("ii", 1, 0)


def most_connections() -> int:
    """The most connections at once: half of the process's file descriptors (`RLIMIT_NOFILE`).

    The other half is for files, for pipes to engines, and for connections that are about to end.
    """
    return _most_descriptors() // 2


def backlog() -> int:
    """The connections that may wait to be accepted.

    uvloop accepts all of them before it handles one, and drops those that get no descriptor.
    """
    return min(2048, _most_descriptors() // 8)


def _most_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**16


def _bad_request(message: str) -> bytes:
    """A whole answer 400 in OpenAI's envelope, which ends its connection."""
    error: dict[str, Any] = {
        "message": message,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_http",
    }
    body = json.dumps({"error": error}).encode()
    head = (
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class _Connection(h11.Connection):
    """h11, with two more checks of a head.

    h11 bounds only an incomplete head. It takes a body with two lengths, which a proxy before it
    may end elsewhere (RFC 9112, 6.3).
    """

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            size = len(event.target) + sum(len(name) + len(value) for name, value in event.headers)
            if size > MOST_HEADER_BYTES:
                raise h11.RemoteProtocolError("the headers are too large")
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                raise h11.RemoteProtocolError("Content-Length beside Transfer-Encoding")
        return event


class Protocol(H11Protocol):
    """HTTP/1.1 by h11. An application resets its connection by `scope["state"]["reset"]()`.

    `scope["state"]["is_spare"]` is true beyond `most_connections`, where only health checks are to
    be answered.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        state = {**app_state, "reset": self.reset, "is_spare": False}
        super().__init__(config, server_state, state, _loop)
        self.conn = _Connection(h11.SERVER, MOST_HEADER_BYTES)
        self._asked_at = time.monotonic()  # uvloop's clock is fixed within an iteration
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > most_connections():
            self.app_state["is_spare"] = not self._drop_longest_idle()

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
        """Ends the connection by a TCP RST. Unsent bytes are dropped."""
        peer = self.transport.get_extra_info("socket")
        if peer is not None and peer.fileno() != -1:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self._is_idle():
            self.reset()  # the client would read the error as a part of the answer under way
            return
        self.transport.write(_bad_request(msg))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: a server may ignore an upgrade (RFC 9110, 7.8)."""

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

    def _drop_longest_idle(self) -> bool:
        """Drops the connection that is idle for longest. False if none is idle."""
        idle = [
            each
            for each in self.connections - {self}
            if isinstance(each, Protocol) and each._is_idle() and not each.transport.is_closing()
        ]
        if idle:
            min(idle, key=lambda each: each._asked_at).transport.abort()
        return bool(idle)


class SocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket whose peer may stop reading.

    uvicorn closes a WebSocket only once its peer has read all bytes. A peer that does not read
    would keep the connection, and the task that sends, for ever. So this class aborts:

    - when a ping is not answered and bytes are unsent;
    - when a ping comes in and more than `MOST_UNREAD_BYTES` are unsent, since every pong adds some;
    - 10 s after the session's end.

    uvicorn does not answer a handshake that its parser cannot read, such as one with a body. This
    class answers 400.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_bad_request("The WebSocket's handshake cannot be read."))
            self.transport.close()

    async def send(self, message: Any) -> None:
        await super().send(message)
        kind = message["type"]
        if kind == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # by a refusal, which uvicorn logs as an error

    def send_receive_event_to_app(self) -> None:
        """Closes with 1007 for a text that is no UTF-8, which uvicorn logs with its traceback."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self.frames = []
            self.conn.send_close(1007)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

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
