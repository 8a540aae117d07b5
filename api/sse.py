"""Speech as server-sent events, byte for byte as OpenAI sends them: 4096 bytes of the file in each
delta, then the usage, then [DONE].

`usage` counts tokens as nobody here has them: four bytes of text are one, and so are 40 ms of
audio, which is about what OpenAI's own models come to.
"""

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "text/event-stream; charset=utf-8"
_SLICE = 4096
_BYTES_A_TOKEN = 4
_TOKENS_A_SECOND = 25
DONE = b"data: [DONE]\r\n\r\n"


class Deltas:
    """Bytes of any number into events of 4096 each."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        full = len(data) - len(data) % _SLICE
        self._rest = data[full:]
        return b"".join(_delta(data[at : at + _SLICE]) for at in range(0, full, _SLICE))

    def end(self) -> bytes:
        return _delta(self._rest) if self._rest else b""


def event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, separators=(',', ':'))}\r\n\r\n".encode()


def done(text: str, seconds: float, cost: Mapping[str, float]) -> bytes:
    """The usage of a finished answer, what it cost beside it, and the end."""
    spoken = math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN)
    heard = math.ceil(seconds * _TOKENS_A_SECOND)
    usage = {"input_tokens": spoken, "output_tokens": heard, "total_tokens": spoken + heard}
    return event({"type": "speech.audio.done", "usage": usage, **cost}) + DONE


def _delta(data: bytes) -> bytes:
    return event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
