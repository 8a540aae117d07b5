"""The connections of one boto3 client: refused where they lead inside, cut where they hang.

A name that was public when a job brought it may mean another address when it is dialled, so the
address is checked on the open connection, before anything is sent.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from delivery.bucket import is_public

ANSWER_BYTES = 1_000_000
"""The longest answer that is read; those that S3 gives to an upload have a few hundred bytes."""


class GuardedConnections:
    """Keeps hold of a client's connections. `refused` tells that one led inside."""

    def __init__(self, public_only: bool) -> None:
        self.public_only = public_only
        self.refused = False
        self._open: list[socket.socket] = []

    def watch(self, client: Any) -> None:
        """Has the client make its connections through here."""
        # No public way leads here. Where boto3 changes it, this fails and nothing is sent.
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
            line = connect(connection)
            if self.public_only and not is_public(line.getpeername()[0]):
                self.refused = True
                line.close()
                raise ConnectionRefusedError
            # A second handle, because TLS takes the first one over.
            self._open.append(line.dup())
            return line

        return checked

    def cut(self) -> None:
        """Ends what goes on on every connection there is, from any thread."""
        for line in tuple(self._open):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the handles back. The client itself has to be closed first."""
        for line in self._open:
            line.close()


def _bounded(getresponse: Callable[[Any], Any]) -> Callable[[Any], Any]:
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
