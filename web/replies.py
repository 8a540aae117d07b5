"""What the socket says of utterances and their sentences. docs/streaming.md has the table."""

from typing import Any

from inference import Result
from speech.codecs import codec_rate
from web.utterance import Line, Utterance


def named(utterance: Utterance) -> dict[str, Any]:
    named: dict[str, Any] = {"utterance": utterance.number}
    if utterance.context_id is not None:
        named["context_id"] = utterance.context_id
    return named


def started(utterance: Utterance, line: Line) -> dict[str, Any]:
    request = utterance.config.request
    return {
        "type": "audio.start",
        **named(utterance),
        "sentence_index": line.index,
        "sentence_text": line.sentence.text,
        "text_start": line.sentence.start,
        "text_end": line.sentence.end,
        "start_ms": round(line.start_ms, 3),
        "format": request.output_format,
        "sample_rate": codec_rate(request.output_format, utterance.config.sample_rate),
    }


def finished(utterance: Utterance, line: Line, count: int, result: Result) -> dict[str, Any]:
    return {
        "type": "audio.done",
        **named(utterance),
        "sentence_index": line.index,
        "start_ms": round(line.start_ms, 3),
        "end_ms": round(line.end_ms, 3),
        "total_bytes": count,
        "voice": result.voices[0],
        "seed": result.seed,
        "warnings": list(result.warnings),
    }


def done(utterance: Utterance) -> dict[str, Any]:
    return {
        "type": "session.done",
        **named(utterance),
        "total_sentences": len(utterance.lines),
        "duration_ms": round(utterance.sent_ms, 3),
    }
