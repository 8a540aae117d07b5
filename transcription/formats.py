"""The forms of a transcript: text, lines, and subtitles (SubRip and WebVTT), a cue a segment."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from text.subtitles import clock
from text.writing_systems import UNSPACED
from transcription.base import Segment

_FULL_WIDTH = re.compile("[\u3000-\u303f\uff00-\uff65]")


def gap(before: str, after: str) -> str:
    """What stands between two texts: a space, or nothing where writing has none."""
    ends = before[-1:] + after[:1]
    return "" if UNSPACED.search(ends) or _FULL_WIDTH.search(ends) or len(ends) < 2 else " "


def plain(segments: Sequence[Segment]) -> str:
    """The text in one line."""
    text: list[str] = []
    for segment in segments:
        text += (gap(text[-1] if text else "", segment.text), segment.text)
    return "".join(text)


def lines(segments: Sequence[Segment]) -> str:
    """A line a segment, each with its speaker if there is one."""
    return "\n".join(f"{_speaker(segment)}{segment.text}" for segment in segments)


def srt(segments: Sequence[Segment]) -> str:
    """SubRip. An arrow in the text would be read as times, so it loses a dash."""
    return "".join(
        f"{number}\n{_times(segment, ',')}\n{_line(segment).replace('-->', '->')}\n\n"
        for number, segment in enumerate(segments, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT, with the speaker as a voice tag."""
    cues = (f"{_times(segment, '.')}\n{_voiced(segment)}\n\n" for segment in segments)
    return "WEBVTT\n\n" + "".join(cues)


def segment_of(number: int, segment: Segment) -> dict[str, Any]:
    """A segment as Whisper's API has it. `seek` is its start in frames of 10 ms."""
    return {
        "id": number,
        "seek": round(segment.start_sec * 100),
        "start": segment.start_sec,
        "end": segment.end_sec,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


FORMS: Mapping[str, Callable[[Sequence[Segment]], str]] = {
    "plain_text": plain,
    "formatted_text": lines,
    "srt": srt,
    "vtt": vtt,
}
"""By the names of RunPod's worker for faster-whisper."""


def _speaker(segment: Segment) -> str:
    return f"{segment.speaker}: " if segment.speaker else ""


def _line(segment: Segment) -> str:
    return " ".join(f"{_speaker(segment)}{segment.text}".split())


def _voiced(segment: Segment) -> str:
    text = _escaped(segment.text)
    return f"<v {_escaped(segment.speaker)}>{text}" if segment.speaker else text


def _escaped(text: str) -> str:
    text = " ".join(text.split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _times(segment: Segment, point: str) -> str:
    return f"{clock(segment.start_sec, point)} --> {clock(segment.end_sec, point)}"
