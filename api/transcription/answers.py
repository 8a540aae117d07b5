"""A transcript in the forms that OpenAI's transcription answers have."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from api import sse
from request.transcription import TranscriptionRequest
from transcription.base import Options, Segment, Transcript, Word
from transcription.formats import gap, plain, segment_of, srt, vtt
from transcription.languages import name_of

FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
_TEXT = "text/plain; charset=utf-8"
_TOKENS_A_SECOND = 10


@dataclass(frozen=True, slots=True)
class HearParams:
    """A checked form. `segments` and `words` are OpenAI's granularities of times; `logprobs` asks
    for the probabilities of words. `ignored` names the unknown fields."""

    request: TranscriptionRequest
    format: str = "json"
    stream: bool = False
    segments: bool = True
    words: bool = False
    logprobs: bool = False
    ignored: tuple[str, ...] = ()

    def options(self, options: Options) -> Options:
        """The options, for what this form needs."""
        return replace(
            options,
            words=self.words or self.logprobs,
            speakers=self.format == "diarized_json",
            translate=self.request.translate,
        )


def complete(
    heard: Sequence[Segment], transcript: Transcript, params: HearParams
) -> tuple[str, bytes]:
    """The content type and the body of an answer."""
    texts = {"text": lambda each: f"{plain(each)}\n", "srt": srt, "vtt": vtt}
    if params.format in texts:
        return _TEXT, texts[params.format](heard).encode()
    shapes = {"json": _json, "verbose_json": _verbose, "diarized_json": _diarized}
    body = shapes[params.format](heard, transcript, params)
    usage = {"type": "duration", "seconds": math.ceil(transcript.duration_sec)}
    return "application/json", json.dumps(body | {"usage": usage}, ensure_ascii=False).encode()


def _json(heard: Sequence[Segment], _: Transcript, params: HearParams) -> dict[str, Any]:
    more = {"logprobs": _logprobs(heard)} if params.logprobs else {}
    return {"text": plain(heard), **more}


def _verbose(
    heard: Sequence[Segment], transcript: Transcript, params: HearParams
) -> dict[str, Any]:
    translate = params.request.translate
    body: dict[str, Any] = {
        "task": "translate" if translate else "transcribe",
        "language": "english" if translate else name_of(transcript.language),
        "duration": transcript.duration_sec,
        "text": plain(heard),
    }
    if params.words:
        body["words"] = [
            {"word": word.text, "start": word.start_sec, "end": word.end_sec}
            for word in _words(heard)
        ]
    if params.segments:
        body["segments"] = [segment_of(number, each) for number, each in enumerate(heard)]
    return body


def _diarized(heard: Sequence[Segment], transcript: Transcript, _: HearParams) -> dict[str, Any]:
    return {
        "task": "transcribe",
        "duration": transcript.duration_sec,
        "text": plain(heard),
        "segments": [_spoken(number, each) for number, each in enumerate(heard)],
    }


def _spoken(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number}",
        "start": segment.start_sec,
        "end": segment.end_sec,
        "speaker": segment.speaker or "A",
        "text": segment.text,
    }


def _words(heard: Sequence[Segment]) -> list[Word]:
    return [word for segment in heard for word in segment.words]


def _logprobs(heard: Sequence[Segment]) -> list[dict[str, Any]]:
    """OpenAI gives them by token; here a token is a word."""
    return [
        {
            "token": word.text,
            "logprob": round(math.log(max(word.probability, 1e-9)), 6),
            "bytes": list(word.text.encode()),
        }
        for word in _words(heard)
    ]


class Streamed:
    """The events of one stream. A segment's text is sent once: as its preview, if it has one."""

    def __init__(self, params: HearParams) -> None:
        self._params = params
        self._final: list[Segment] = []
        self._sent = ""
        self._previews = False

    def events(self, segment: Segment) -> bytes:
        """The events of one segment."""
        if not segment.final:
            self._previews = True
            return self._delta(segment)
        self._final.append(segment)
        text = b"" if self._previews else self._delta(segment)
        if self._params.format != "diarized_json":
            return text
        return text + sse.event(_spoken(len(self._final) - 1, segment))

    def _delta(self, segment: Segment) -> bytes:
        delta = gap(self._sent, segment.text) + segment.text
        self._sent = segment.text
        more = {"logprobs": _logprobs([segment])} if self._params.logprobs else {}
        return sse.event({"type": "transcript.text.delta", "delta": delta, **more})

    def done(self, transcript: Transcript) -> bytes:
        """The last event: the whole text, and an estimate of OpenAI's tokens."""
        text = plain(self._final)
        heard = math.ceil(transcript.duration_sec * _TOKENS_A_SECOND)
        written = sse.tokens_of(text)
        usage = {
            "type": "tokens",
            "input_tokens": heard,
            "output_tokens": written,
            "total_tokens": heard + written,
            "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
        }
        more = {"logprobs": _logprobs(self._final)} if self._params.logprobs else {}
        return sse.event({"type": "transcript.text.done", "text": text, "usage": usage, **more})
