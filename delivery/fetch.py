"""Downloads from a caller's URL, with SSRF protection: public addresses only.

The check is on the address that is dialled, for every connection and every redirect. So DNS
rebinding, where a name resolves differently the second time, has no effect. One time limit covers
the whole download. The RunPod SDK's `safe_get` has none: it reads on while single bytes arrive.
"""

import asyncio
import socket
from typing import Any

import aiohttp
from yarl import URL

from delivery.bucket import is_public
from request.errors import VoiceError
from request.values import MOST_RECORDING_BYTES as MOST_BYTES

_TIMEOUT_SEC = 30
_AS_IT_IS = {"Accept-Encoding": "identity"}  # no decompression bombs: they expand a thousandfold


def fetch_voice(url: str) -> bytes:
    """Downloads a recording: at most 10 MB, within 30 s. Raises `VoiceError`.

    It runs an event loop of its own, so the calling thread must not have a running one.
    """
    return asyncio.run(_fetch(url))


async def _fetch(url: str) -> bytes:
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
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SEC),
    )
    try:
        async with session, session.get(_exact(url)) as response:
            return await _read(response)
    except TimeoutError as problem:
        raise VoiceError(f"takes longer than {_TIMEOUT_SEC} s", "voice_url") from problem
    except (aiohttp.ClientError, ValueError, OSError) as problem:
        if inside or isinstance(problem, aiohttp.NonHttpUrlRedirectClientError):
            raise VoiceError("leads to no public http address", "voice_url") from problem
        why = f"cannot be fetched ({type(problem).__name__})"
        raise VoiceError(why, "voice_url") from problem


def _exact(url: str) -> URL:
    """The URL without normalisation, because a signature may cover its exact bytes."""
    return URL(url, encoded=url.isascii())


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.status != 200:
        raise VoiceError(f"the server answers {response.status}", "voice_url")
    data = bytearray()
    if (response.content_length or 0) <= MOST_BYTES:
        async for piece in response.content.iter_any():
            data += piece
            if len(data) > MOST_BYTES:
                break
        else:
            return bytes(data)
    raise VoiceError(f"is larger than {MOST_BYTES // 2**20} MB", "voice_url")
