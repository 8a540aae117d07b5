"""SSRF protection and hard time limits for the connections of one boto3 client.

DNS rebinding: a name may resolve to a public address when it is checked, and to a private one when
it is dialled. So the peer's address is checked on the open connection, before anything is sent.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from delivery.bucket import is_public

ANSWER_BYTES = 1_000_000
"""The longest response that is read, in bytes. S3 answers an upload with a few hundred bytes."""
ANSWER_PIECES = 1_000
"""The most pieces that a response's body may come in: each chunk of a byte costs 0.1 ms of CPU."""
ANSWER_HEADS = 10
"""The most status lines of one response. All but the last are `100 Continue`."""
ANSWER_SECONDS = 40
"""The time of a whole response. The socket's own timeout counts anew with every byte."""


class GuardedConnections:
    """The open connections of one client.

    With `public_only`, a connection to an address that is not public is closed, and `refused` is
    set. `late`: a response took longer than `ANSWER_SECONDS`, or was no such thing. Then nothing
    more is dialled, since boto3 would ask the same store again.
    """

    def __init__(self, public_only: bool) -> None:
        self.public_only = public_only
        self.refused = False
        self.late = False
        self._open: list[socket.socket] = []

    def watch(self, client: Any) -> None:
        """Makes the client open all its connections through this object."""
        # boto3 has no public API for this. If its internals change, this line raises, and nothing
        # is sent.
        pools = client._endpoint.http_session._pool_classes_by_scheme
        for scheme, pool in pools.items():
            kind = pool.ConnectionCls
            status = self._counted(kind.response_class._read_status)
            methods = {
                "_new_conn": self._checked(kind._new_conn),
                "getresponse": self._bounded(kind.getresponse),
                "response_class": type(
                    "Response", (kind.response_class,), {"_read_status": status}
                ),
            }
            connection = type(kind.__name__, (kind,), methods)
            pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})

    def _checked(self, connect: Callable[[Any], socket.socket]) -> Callable[[Any], socket.socket]:
        def checked(connection: Any) -> socket.socket:
            if self.late:
                raise ConnectionRefusedError
            opened = connect(connection)
            if self.public_only and not is_public(opened.getpeername()[0]):
                self.refused = True
                opened.close()
                raise ConnectionRefusedError
            # A duplicate handle, because TLS detaches the first one.
            connection.handle = opened.dup()
            self._open.append(connection.handle)
            return opened

        return checked

    def _counted(self, read_status: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Raises `ConnectionAbortedError` after `ANSWER_HEADS` status lines."""

        def counted(response: Any) -> Any:
            response.heads = getattr(response, "heads", 0) + 1
            if response.heads > ANSWER_HEADS:
                raise self._too_much()
            return read_status(response)

        return counted

    def _bounded(self, getresponse: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Bounds a response in time, and its body in bytes and pieces."""

        def bounded(connection: Any) -> Any:
            timer = threading.Timer(ANSWER_SECONDS, self._end_late, [connection.handle])
            timer.daemon = True
            timer.start()
            try:
                response = getresponse(connection)
            except BaseException:
                timer.cancel()
                raise
            pieces = response.stream

            def stream(*args: Any, **kwargs: Any) -> Iterator[bytes]:
                left = ANSWER_BYTES
                try:
                    for count, piece in enumerate(pieces(*args, **kwargs)):
                        left -= len(piece)
                        if left < 0 or count >= ANSWER_PIECES:
                            raise self._too_much()
                        yield piece
                finally:
                    timer.cancel()

            response.stream = stream
            return response

        return bounded

    def _too_much(self) -> ConnectionAbortedError:
        self.late = True
        return ConnectionAbortedError()

    def _end_late(self, handle: socket.socket) -> None:
        self.late = True
        with contextlib.suppress(OSError):
            handle.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Shuts all connections down, so that every pending call fails. From any thread."""
        for handle in tuple(self._open):
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the handles. The client itself must be closed first."""
        for handle in self._open:
            handle.close()
