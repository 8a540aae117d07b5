"""Jobs that ask what was said, in the shape of RunPod's worker for faster-whisper."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from audio.spool import Spool
from delivery.fetch import fetch_file
from request.errors import DeliveryError
from request.transcription import TranscriptionRequest, parse_transcription
from transcription.base import Options, Segment, seconds_of
from transcription.formats import FORMS, segment_of
from transcription.languages import name_of
from transcription.transcriber import Transcriber, named
from worker.progress import Heard, reporting

_MOST_ANSWER = 9_000_000
"""The largest answer in bytes: RunPod takes 10 MB."""
LARGE = ("segments", "transcription", "translation", "word_timestamps")
"""The fields that grow with the recording."""


def is_transcription(given: object) -> bool:
    """Whether a job's input asks for a transcript. `task` says so; so does a recording without a
    text, since jobs of RunPod's worker for faster-whisper name no task."""
    if not isinstance(given, Mapping):
        return False
    task = given.get("task")
    if task is not None:
        return bool(task == "transcribe")
    return "text" not in given and bool(given.get("audio") or given.get("audio_base64"))


class TranscriptionJob:
    """One job. `tell` is its line in the log."""

    def __init__(
        self, transcriber: Transcriber, most_bytes: int, tell: Callable[[str], object]
    ) -> None:
        self._transcriber, self._most_bytes, self._tell = transcriber, most_bytes, tell
        self._progress = Heard()

    async def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job's answer. Raises `SpeechError`. A cancelled task ends the work first."""
        began = time.monotonic()
        request, warnings = parse_transcription(job.get("input"))
        self._transcriber.check(request)
        self._tell(f"job to transcribe, request {request.request_id}")
        async with reporting(job, self._progress):
            with self._transcriber.workspace() as folder:
                file = await self._file(request, Path(folder))
                options = await self._transcriber.options(request, Path(folder), partials=True)
                spool = await self._transcriber.decode(file, _field(request))
                self._progress.audio_sec = seconds_of(spool)
                decoded = time.monotonic()
                heard, language = await self._heard(spool, options)
                english: list[Segment] = []
                if request.translate:
                    english, _ = await self._heard(spool, replace(options, translate=True))
        spent = {
            "decode_sec": round(decoded - began, 3),
            "transcribe_sec": round(time.monotonic() - decoded, 3),
        }
        facts = {"audio_sec": round(self._progress.audio_sec, 3), "segments": len(heard), **spent}
        self._tell(f"done: {json.dumps(facts)}")
        answer = self._answer(request, heard, language) | {
            "translation": FORMS[request.transcription](english) if request.translate else None,
            "translation_time": spent["transcribe_sec"],
            "timings": spent,
            "warnings": warnings,
        }
        return _bounded(answer)

    async def _file(self, request: TranscriptionRequest, folder: Path) -> Path:
        file = folder / "recording"
        with file.open("wb") as opened:
            if request.audio_base64 is not None:
                await asyncio.to_thread(opened.write, request.audio_base64)
            else:
                await fetch_file(request.audio or "", opened, "audio", self._most_bytes)
        return named(file)

    async def _heard(self, spool: Spool, options: Options) -> tuple[list[Segment], str | None]:
        segments: list[Segment] = []
        async with self._transcriber.hear(spool, options) as (transcript, found):
            async for segment in found:
                if segment.final:
                    segments.append(segment)
                self._progress.heard_sec = transcript.heard_sec
                self._progress.segments = len(segments)
        return segments, transcript.language

    def _answer(
        self, request: TranscriptionRequest, heard: list[Segment], language: str | None
    ) -> dict[str, Any]:
        capabilities = self._transcriber.capabilities
        answer: dict[str, Any] = {
            "status": "success",
            "segments": [_segment(number, each, request) for number, each in enumerate(heard)],
            "detected_language": language,
            "language": name_of(language),
            "transcription": FORMS[request.transcription](heard),
            "duration_sec": round(self._progress.audio_sec, 3),
            "device": capabilities.details.get("device", "cpu"),
            "model": capabilities.model,
        }
        if request.words:
            answer["word_timestamps"] = [
                {"word": word.text, "start": word.start_sec, "end": word.end_sec}
                for segment in heard
                for word in segment.words
            ]
        return answer


def _field(request: TranscriptionRequest) -> str:
    return "audio" if request.audio_base64 is None else "audio_base64"


def _segment(number: int, segment: Segment, request: TranscriptionRequest) -> dict[str, Any]:
    speaker = {"speaker": segment.speaker} if request.speakers else {}
    return segment_of(number, segment) | speaker


def _bounded(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without its tokens where RunPod would not take it with them.

    Raises `DeliveryError` if it is too large even so.
    """
    # The SDK silently drops an answer with NaN or infinity in it. `allow_nan=False` raises.
    if len(json.dumps(answer, allow_nan=False)) > _MOST_ANSWER:
        for segment in answer["segments"]:
            segment["tokens"] = []
        answer["warnings"].append("segments: their tokens are left out, since there are too many")
        if len(json.dumps(answer)) > _MOST_ANSWER:
            problem = f"the transcript has more than {_MOST_ANSWER // 10**6} MB"
            raise DeliveryError(f"{problem}: send the recording in parts, or ask for no words")
    return answer
