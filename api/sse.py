"""Server-sent events (SSE) in OpenAI's framing: deltas of 4096 file bytes, the usage, [DONE].

`usage` is an estimate, since this engine has no OpenAI tokens. Four bytes of text count as one
token, and 40 ms of audio as one. OpenAI's own models come to about the same.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from synthesis.result import HeardChunk

CONTENT_TYPE = "text/event-stream; charset=utf-8"
_SLICE = 4096
_BYTES_A_TOKEN = 4
_TOKENS_A_SECOND = 25
DONE = b"data: [DONE]\r\n\r\n"


class Deltas:
    """Splits a byte stream into delta events of 4096 bytes each."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes; b"" if none."""
        data = self._rest + data
        full = len(data) - len(data) % _SLICE
        self._rest = data[full:]
        return b"".join(_delta(data[at : at + _SLICE]) for at in range(0, full, _SLICE))

    def end(self) -> bytes:
        """The event of the remaining bytes; b"" if none."""
        return _delta(self._rest) if self._rest else b""


def event(data: dict[str, Any]) -> bytes:
    """One event with JSON data."""
    return f"data: {json.dumps(data, separators=(',', ':'))}\r\n\r\n".encode()


def heard_facts(chunk: HeardChunk) -> dict[str, Any]:
    """What there is to say of a chunk that was heard; {} if there is nothing."""
    words = {"words": [asdict(word) for word in chunk.words]} if chunk.words else {}
    warning = {"warning": chunk.warning} if chunk.warning else {}
    return {**chunk.facts, **words, **warning}


def heard(chunk: HeardChunk) -> bytes:
    """The event of what was heard of a chunk; b"" if nothing was."""
    facts = heard_facts(chunk)
    return event({"type": "speech.audio.heard", "chunk": chunk.index, **facts}) if facts else b""


def subtitles(text: str) -> bytes:
    """The event of a file of subtitles."""
    return event({"type": "speech.audio.subtitles", "subtitles": text})


def done(text: str, seconds: float, cost: Mapping[str, float]) -> bytes:
    """The last events: usage and cost of an answer of `seconds` of audio, then [DONE]."""
    spoken = tokens_of(text)
    heard = math.ceil(seconds * _TOKENS_A_SECOND)
    usage = {"input_tokens": spoken, "output_tokens": heard, "total_tokens": spoken + heard}
    return event({"type": "speech.audio.done", "usage": usage, **cost}) + DONE


def tokens_of(text: str) -> int:
    """An estimate of a text's tokens."""
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN)


def _delta(data: bytes) -> bytes:
    return event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
