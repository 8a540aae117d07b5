"""One request to a server with OpenAI's contract for speech, as a stream of samples.

The server is the operator's choice, so any address is right. What it answers is not trusted. An
answer that is no PCM, too long, too slow or cut off is an `EngineError` that says so. The server's
own words are not passed on, since they may quote its key.
"""

import http.client
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from audio.pcm import SAMPLE_RATE, Resampler, Samples
from request.errors import EngineError

_CONNECT_SEC, _SILENT_SEC = 10, 60
"""Seconds until a connection is there, and between two pieces of an answer."""
_ANSWER_SEC, _ANSWER_SEC_A_CHARACTER = 60, 1
"""Seconds for a whole answer."""
_SOUND_SEC, _SOUND_SEC_A_CHARACTER = 30, 1
"""The longest sound of a text. The slowest speech takes a tenth of a second a character."""
_LOWEST_RATE, _HIGHEST_RATE = 8_000, 96_000
_BLOCK = 1 << 14
_TYPES = ("audio/pcm", "audio/x-pcm", "audio/l16", "audio/raw", "application/octet-stream")
_FILES = (b"RIFF", b"OggS", b"fLaC", b"ID3\x03", b"ID3\x04")
_MOST_ERROR_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server, and the model that is asked of it. `url` is its base address, as OpenAI's clients
    take it. `key` is sent as a bearer token."""

    url: str | None
    key: str | None
    model: str

    def connection(self) -> http.client.HTTPConnection:
        """A connection that is open. Raises `EngineError`."""
        if self.url is None:
            raise EngineError("UPSTREAM_URL is not set: it is the address of the speech server")
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=_CONNECT_SEC)
        try:
            connection.connect()
        except OSError as error:
            problem = f"the upstream server cannot be reached ({type(error).__name__})"
            raise EngineError(problem, code="worker_unavailable") from error
        connection.sock.settimeout(_SILENT_SEC)
        return connection

    def say(
        self, connection: http.client.HTTPConnection, text: str, voice: str
    ) -> Iterator[Samples]:
        """The sound of a text as it comes, at `SAMPLE_RATE`. Raises `EngineError`."""
        try:
            # The response holds the socket, which closing the connection alone would leave open.
            with self._answer(connection, text, voice) as response:
                yield from _samples(response, len(text))
        except TimeoutError as error:
            problem = f"the upstream server sent nothing for {_SILENT_SEC} s"
            raise EngineError(problem, code="worker_unavailable") from error
        except (http.client.HTTPException, OSError) as error:
            # IncompleteRead holds what was read; its type says enough.
            problem = f"the upstream server broke off its answer ({type(error).__name__})"
            raise EngineError(problem) from error

    def _answer(
        self, connection: http.client.HTTPConnection, text: str, voice: str
    ) -> http.client.HTTPResponse:
        fields = {"model": self.model, "input": text, "voice": voice, "response_format": "pcm"}
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        path = urlsplit(self.url or "").path.rstrip("/").removesuffix("/v1")
        connection.request("POST", f"{path}/v1/audio/speech", json.dumps(fields), headers)
        response = connection.getresponse()
        if response.status == 200:
            return response
        with response:
            raise _refusal(response)


def _refusal(response: http.client.HTTPResponse) -> EngineError:
    """What a status other than 200 means for the caller."""
    status = response.status
    try:
        code = json.loads(response.read(_MOST_ERROR_BYTES))["error"]["code"]
    except (ValueError, TypeError, KeyError):
        code = None
    told = f", {code}" if isinstance(code, str) and re.fullmatch("[a-z0-9_]{1,60}", code) else ""
    problem = f"the upstream server refuses the request ({status}{told})"
    if status in (429, 503):
        wait = response.headers.get("Retry-After", "")
        seconds = min(int(wait), 3600) if re.fullmatch("[0-9]{1,6}", wait) else None
        return EngineError(problem, code="worker_unavailable", retry_sec=seconds)
    return EngineError(problem)


def _samples(response: http.client.HTTPResponse, characters: int) -> Iterator[Samples]:
    """A body of 16-bit little-endian mono PCM, at the rate that its header names."""
    rate = _rate(response)
    deadline = time.monotonic() + _ANSWER_SEC + _ANSWER_SEC_A_CHARACTER * characters
    left = 2 * rate * (_SOUND_SEC + _SOUND_SEC_A_CHARACTER * characters)
    converter, odd, is_first = Resampler(rate, SAMPLE_RATE), b"", True
    while data := response.read1(_BLOCK):
        left -= len(data)
        if left < 0 or time.monotonic() > deadline:
            limit = "time" if left >= 0 else "sound"
            raise EngineError(f"the upstream server takes too much {limit} for this text")
        if is_first and data.startswith(_FILES):
            raise EngineError("the upstream server sends an audio file where PCM was asked for")
        data, is_first = odd + data, False
        even = len(data) & ~1
        samples = np.frombuffer(data[:even], "<i2").astype(np.float32)
        yield converter.feed(samples / np.float32(32768))
        odd = data[even:]
    if is_first or odd:
        problem = "half a sample at the end" if odd else "no audio"
        raise EngineError(f"the upstream server sent {problem}: its answer may be cut off")
    # `read1` takes a connection that broke for the end of the body.
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    yield converter.flush()


def _rate(response: http.client.HTTPResponse) -> int:
    """The sample rate of an answer in Hz. Raises `EngineError` where it is no PCM."""
    headers = response.headers
    if "Content-Type" in headers and headers.get_content_type() not in _TYPES:
        raise EngineError("the upstream server sends no PCM, as its Content-Type says")
    given = str(headers.get_param("rate") or SAMPLE_RATE)
    rate = int(given) if re.fullmatch("[0-9]{1,6}", given) else 0
    channels = str(headers.get_param("channels") or 1)
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE or channels != "1":
        raise EngineError("the upstream server sends PCM of a rate or channels that are not usable")
    return rate
