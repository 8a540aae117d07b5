"""What the socket says of utterances and their sentences. docs/streaming.md has the table."""

from collections.abc import Mapping
from typing import Any

from api.socket.utterance import Line, Utterance
from audio.codecs import codec_rate
from synthesis.result import Result


def with_name(message: Mapping[str, Any], utterance: Utterance) -> dict[str, Any]:
    """The same, and of which utterance it is."""
    named = {**message, "utterance": utterance.number}
    if utterance.context_id is not None:
        named["context_id"] = utterance.context_id
    return named


def started(utterance: Utterance, line: Line) -> dict[str, Any]:
    request = utterance.config.request
    message = {
        "type": "audio.start",
        "sentence_index": line.index,
        "sentence_text": line.sentence.text,
        "text_start": line.sentence.start,
        "text_end": line.sentence.end,
        "start_ms": round(line.start_ms, 3),
        "format": request.output_format,
        "sample_rate": codec_rate(request.output_format, utterance.config.sample_rate),
    }
    return with_name(message, utterance)


def finished(utterance: Utterance, line: Line, count: int, result: Result) -> dict[str, Any]:
    message = {
        "type": "audio.done",
        "sentence_index": line.index,
        "start_ms": round(line.start_ms, 3),
        "end_ms": round(line.end_ms, 3),
        "total_bytes": count,
        "voice": result.voices[0],
        "seed": result.seed,
        "warnings": list(result.warnings),
        **result.cost,
    }
    return with_name(message, utterance)


def done(utterance: Utterance) -> dict[str, Any]:
    message = {
        "type": "session.done",
        "total_sentences": len(utterance.lines),
        "duration_ms": round(utterance.sent_ms, 3),
    }
    return with_name(message, utterance)


def cancelled(utterance: Utterance, heard_ms: float) -> dict[str, Any]:
    message = {
        "type": "cancelled",
        "text_spoken": utterance.heard(heard_ms),
        "played_ms": round(heard_ms),
    }
    return with_name(message, utterance)


def place(kind: str, utterance: Utterance | None) -> dict[str, Any]:
    """Where the audio of what is spoken stands, or that of the last utterance after its end."""
    if utterance is None:
        return {"type": kind, "pts_ms": 0.0}
    return with_name({"type": kind, "pts_ms": round(utterance.sent_ms, 3)}, utterance)
