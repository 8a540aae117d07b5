"""Loopback servers that misbehave: mute, slow, resetting, or answering what they were told to."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server that gives each connection to `handler` and survives its failures."""
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    stop = asyncio.Event()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.transport.abort()

    async def run() -> None:
        server = await asyncio.start_server(one, sock=listener, ssl=tls)
        async with server:
            await stop.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def mute(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Takes everything and says nothing."""
    while await reader.read(65536):
        pass


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer whose end never comes, though it never pauses for long."""
    await _request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def dripping_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same, but it never comes to the end of the answer's head."""
    await _request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


def answering(status: int, body: str, heads: str = "") -> Handler:
    """The same answer to every request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        length = len(body.encode())
        head = (
            f"HTTP/1.1 {status} X\r\n{heads}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return answer


def recording(seen: list[bytes]) -> Handler:
    """Keeps what it is sent, and says nothing."""

    async def record(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        seen.append(b"")
        while data := await reader.read(65536):
            seen[-1] += data

    return record


def resetting(port: int, after: int) -> Handler:
    """A way to `port` that resets a connection once more than `after` bytes went in."""

    async def reset() -> None:
        raise ConnectionResetError

    return _way(port, after, reset)


def stalling(port: int, after: int) -> Handler:
    """A way to `port` on which nothing moves any more once `after` bytes went in."""

    async def stall() -> None:
        await asyncio.Event().wait()

    return _way(port, after, stall)


def slowed(port: int) -> Handler:
    """A way to `port` for at most about 1.3 MB/s on each connection."""

    async def wait() -> None:
        await asyncio.sleep(0.05)

    return _way(port, 0, wait)


def _way(port: int, after: int, then: Callable[[], Awaitable[None]]) -> Handler:
    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> int:
        count = 0
        while data := await source.read(65536):
            count += len(data)
            if count > after:
                await then()
            target.write(data)
            await target.drain()
        return count

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.ensure_future(pump(far_reader, writer))
        try:
            await pump(reader, far_writer)
        finally:
            back.cancel()
            far_writer.transport.abort()
            linger = struct.pack("ii", 1, 0)  # so that closing it is a reset
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    return both


async def _request(reader: asyncio.StreamReader) -> None:
    """Reads one request's head, and of its body what is there."""
    await reader.readuntil(b"\r\n\r\n")
