"""uvicorn's protocols with what the second door needs besides: a reset, bounded headers, errors of
the protocol itself in the envelope, and an end for sockets that nobody reads.

ASGI has no way to break an answer off. uvicorn closes the connection when an application fails in
the middle, which looks like a clean end to HTTP/1.0 and to sloppy clients; a reset never does.
"""

import json
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST_HEADER_BYTES = 32 * 1024
_LAST_READ_SEC = 10.0
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Protocol(HttpToolsProtocol):
    """`scope["state"]["reset"]` breaks the connection off."""

    _header_bytes = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        self.scope["state"]["reset"] = self.reset

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        super().on_header(name, value)

    def _count(self, *parts: bytes) -> None:
        self._header_bytes += sum(map(len, parts))
        if self._header_bytes > MOST_HEADER_BYTES:
            raise ValueError("the headers are too large")  # httptools makes a parser error of it

    def reset(self) -> None:
        """Ends the connection by a RST; what is not sent yet is dropped."""
        peer = self.transport.get_extra_info("socket")
        if peer is not None and peer.fileno() != -1:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
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


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn closes a WebSocket once all that was written is read, which for who does not read is
    never: whoever waits to send would wait with it. Here what is unread is dropped: at a ping that
    was not answered, and some seconds after the session's end."""

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(_LAST_READ_SEC, self.transport.abort)
