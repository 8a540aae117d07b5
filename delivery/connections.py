"""SSRF protection and hard time limits for the connections of one boto3 client.

DNS rebinding: a name may resolve to a public address when it is checked, and to a private one when
it is dialled. So the peer's address is checked on the open connection, before anything is sent.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from delivery.bucket import is_public

ANSWER_BYTES = 1_000_000
"""The longest response that is read, in bytes. S3 answers an upload with a few hundred bytes."""


class GuardedConnections:
    """The open connections of one client.

    With `public_only`, a connection to an address that is not public is closed, and `refused` is
    set.
    """

    def __init__(self, public_only: bool) -> None:
        self.public_only = public_only
        self.refused = False
        self._open: list[socket.socket] = []

    def watch(self, client: Any) -> None:
        """Makes the client open all its connections through this object."""
        # boto3 has no public API for this. If its internals change, this line raises, and nothing
        # is sent.
        pools = client._endpoint.http_session._pool_classes_by_scheme
        for scheme, pool in pools.items():
            kind = pool.ConnectionCls
            methods = {
                "_new_conn": self._checked(kind._new_conn),
                "getresponse": _bounded(kind.getresponse),
            }
            connection = type(kind.__name__, (kind,), methods)
            pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})

    def _checked(self, connect: Callable[[Any], socket.socket]) -> Callable[[Any], socket.socket]:
        def checked(connection: Any) -> socket.socket:
            opened = connect(connection)
            if self.public_only and not is_public(opened.getpeername()[0]):
                self.refused = True
                opened.close()
                raise ConnectionRefusedError
            # A duplicate handle, because TLS detaches the first one.
            self._open.append(opened.dup())
            return opened

        return checked

    def cut(self) -> None:
        """Shuts all connections down, so that every pending call fails. From any thread."""
        for handle in tuple(self._open):
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the handles. The client itself must be closed first."""
        for handle in self._open:
            handle.close()


def _bounded(getresponse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Bounds a response's body: `ConnectionAbortedError` after `ANSWER_BYTES`."""

    def bounded(connection: Any) -> Any:
        response = getresponse(connection)
        pieces = response.stream

        def stream(*args: Any, **kwargs: Any) -> Iterator[bytes]:
            left = ANSWER_BYTES
            for piece in pieces(*args, **kwargs):
                left -= len(piece)
                if left < 0:
                    raise ConnectionAbortedError
                yield piece

        response.stream = stream
        return response

    return bounded
