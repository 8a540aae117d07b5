"""Server messages about utterances and their sentences. docs/streaming.md has the table.

Times are in milliseconds of an utterance's audio.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api import sse
from api.socket.events import SessionConfig
from api.socket.utterance import Line, Utterance
from audio.codecs import codec_rate
from synthesis.result import HeardChunk, Result
from synthesis.verify import SpokenWord


def configured(config: SessionConfig) -> dict[str, Any]:
    """`session.configured`: the answer to a `session.config` in sglang-omni's form."""
    return {
        "type": "session.configured",
        "response_format": config.request.output_format,
        "sample_rate": codec_rate(config.request.output_format, config.sample_rate),
        "split_granularity": config.granularity,
    }


def with_name(message: Mapping[str, Any], utterance: Utterance) -> dict[str, Any]:
    """The message with its utterance's number and, if there is one, context id.

    vLLM-Omni's clients read the number as `utterance_index`, from 0.
    """
    named = {**message, "utterance": utterance.number, "utterance_index": utterance.number - 1}
    if utterance.context_id is not None:
        named["context_id"] = utterance.context_id
    return named


def started(utterance: Utterance, line: Line) -> dict[str, Any]:
    """`audio.start`: the audio of a sentence follows. The first names the ignored fields."""
    request, ignored = utterance.config.request, utterance.config.ignored
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
    if ignored and line.index == 0:
        message["ignored"] = list(ignored)
    return with_name(message, utterance)


def finished(utterance: Utterance, line: Line, count: int, result: Result) -> dict[str, Any]:
    """`audio.done`: the end of a sentence's audio, of `count` bytes."""
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


def heard(utterance: Utterance, line: Line, chunk: HeardChunk) -> dict[str, Any]:
    """`audio.heard`: what was heard of a sentence, or of a chunk of a long one. Words have their
    places in the utterance's text, and seconds of its audio."""

    def placed(word: SpokenWord) -> SpokenWord:
        start_sec, start = line.start_ms / 1000, line.sentence.start
        return replace(
            word,
            start_sec=round(start_sec + word.start_sec, 3),
            end_sec=round(start_sec + word.end_sec, 3),
            text_start=start + word.text_start,
            text_end=start + word.text_end,
        )

    facts = sse.heard_facts(replace(chunk, words=tuple(map(placed, chunk.words))))
    message = {"type": "audio.heard", "sentence_index": line.index, "chunk": chunk.index, **facts}
    return with_name(message, utterance)


def done(utterance: Utterance) -> dict[str, Any]:
    """`session.done`: the end of an utterance."""
    message = {
        "type": "session.done",
        "total_sentences": len(utterance.lines),
        "duration_ms": round(utterance.sent_ms, 3),
    }
    return with_name(message, utterance)


def committed(utterance: Utterance | None) -> dict[str, Any]:
    """`input.committed`: the text so far is spoken without a wait for more."""
    message = {"type": "input.committed"}
    return with_name(message, utterance) if utterance else message


def cancelled(utterance: Utterance, heard_ms: float) -> dict[str, Any]:
    """`cancelled`: an utterance ended early, and the text that was heard."""
    message = {
        "type": "cancelled",
        "text_spoken": utterance.heard(heard_ms),
        "played_ms": round(heard_ms),
    }
    return with_name(message, utterance)


def place(kind: str, utterance: Utterance | None) -> dict[str, Any]:
    """`paused` or `resumed` with the milliseconds of the utterance's audio sent so far."""
    if utterance is None:
        return {"type": kind, "pts_ms": 0.0}
    return with_name({"type": kind, "pts_ms": round(utterance.sent_ms, 3)}, utterance)
