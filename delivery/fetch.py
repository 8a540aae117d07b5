"""Downloads from a caller's URL, with SSRF protection: public addresses only.

The check is on the address that is dialled, for every connection and every redirect. So DNS
rebinding, where a name resolves differently the second time, has no effect. One time limit covers
the whole download. The RunPod SDK's `safe_get` has none: it reads on while single bytes arrive.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import IO, Any

import aiohttp
from yarl import URL

from delivery.bucket import is_public
from request.errors import RequestError, VoiceError
from request.values import MOST_RECORDING_BYTES as MOST_BYTES

_TIMEOUT_SEC = 30
_FILE_TIMEOUT_SEC = 300
_AS_IT_IS = {"Accept-Encoding": "identity"}  # no decompression bombs: they expand a thousandfold


def fetch_voice(url: str) -> bytes:
    """Downloads a recording: at most 10 MB, within 30 s. Raises `VoiceError`.

    It runs an event loop of its own, so the calling thread must not have a running one.
    """
    data = bytearray()
    try:
        asyncio.run(_fetch(url, data.extend, MOST_BYTES, _TIMEOUT_SEC))
    except _Unfetched as problem:
        raise VoiceError(str(problem), "voice_url") from problem.__cause__
    return bytes(data)


async def fetch_file(url: str, file: IO[bytes], field: str, most_bytes: int) -> None:
    """Downloads a file of at most `most_bytes` into an open file, within 300 s.

    Raises `RequestError` that names `field`.
    """
    try:
        await _fetch(url, file.write, most_bytes, _FILE_TIMEOUT_SEC)
    except _Unfetched as problem:
        raise RequestError(str(problem), field) from problem.__cause__


class _Unfetched(Exception):
    """A download that failed. The message completes a sentence that begins with the field."""


async def _fetch(
    url: str, write: Callable[[bytes], object], most_bytes: int, most_sec: float
) -> None:
    inside = []

    def open_socket(address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, (host, *_) = address
        if not is_public(host):
            inside.append(host)
            raise ConnectionRefusedError
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=aiohttp.ThreadedResolver(), socket_factory=open_socket
    )
    session = aiohttp.ClientSession(
        connector=connector,
        headers=_AS_IT_IS,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=most_sec),
    )
    try:
        async with session, session.get(_exact(url)) as response:
            await _read(response, write, most_bytes)
    except TimeoutError as problem:
        raise _Unfetched(f"takes longer than {most_sec} s") from problem
    except (aiohttp.ClientError, ValueError, OSError) as problem:
        if inside or isinstance(problem, aiohttp.NonHttpUrlRedirectClientError):
            raise _Unfetched("leads to no public http address") from problem
        raise _Unfetched(f"cannot be fetched ({type(problem).__name__})") from problem


def _exact(url: str) -> URL:
    """The URL without normalisation, because a signature may cover its exact bytes."""
    return URL(url, encoded=url.isascii())


async def _read(
    response: aiohttp.ClientResponse, write: Callable[[bytes], object], most_bytes: int
) -> None:
    if response.status != 200:
        raise _Unfetched(f"the server answers {response.status}")
    left = most_bytes - (response.content_length or 0)
    if left >= 0:
        left = most_bytes
        async for piece in response.content.iter_any():
            left -= len(piece)
            if left < 0:
                break
            write(piece)
        else:
            return
    raise _Unfetched(f"is larger than {most_bytes // 2**20} MB")
