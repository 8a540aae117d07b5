"""A recogniser that needs no model: it hears tones, as real ones hear words.

A tone between two silences of 0.2 s is a segment: `tone 440`. Who speaks is told by the pitch.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from audio.pcm import SAMPLE_RATE, Samples, silence
from engines.manager import ModelManager
from request.errors import Cancelled, EngineError
from transcription.base import (
    Audio,
    Capabilities,
    Clip,
    Options,
    Recognizer,
    Segment,
    Transcript,
    Word,
    seconds_of,
)
from transcription.registry import LeaseRecognizer

_GAP = SAMPLE_RATE // 5


def tone(hertz: int, seconds: float = 0.5) -> Samples:
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def tones(*hertz: int) -> Samples:
    """Tones of half a second with half a second of silence after each."""
    gap = silence(SAMPLE_RATE // 2)
    return np.concatenate([each for pitch in hertz for each in (tone(pitch), gap)])


class FakeRecognizer:
    """`gate`, once given, is waited for before each segment but the first. With `breaks` it fails
    after the first segment. `token_count` is how many tokens a segment has."""

    token_count = 1

    def __init__(self, gate: threading.Event | None = None, breaks: bool = False) -> None:
        self.gate, self.breaks = gate, breaks
        self.ready = False
        self.asked: list[Options] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            "fake-ear",
            "fake-1",
            ("en", "de"),
            words=True,
            speakers=True,
            hotwords=True,
            translation=True,
            details={"model": "fake-1", "device": "cpu"} if self.ready else {},
        )

    def load(self) -> None:
        self.ready = True

    def transcribe(self, audio: Audio, options: Options) -> Transcript:
        self.asked.append(options)
        return _Heard(self, audio, options)

    def close(self) -> None:
        self.ready = False


class _Heard:
    def __init__(self, fake: FakeRecognizer, audio: Audio, options: Options) -> None:
        self._fake, self._audio, self._options = fake, audio, options
        self._cancelled = threading.Event()
        self.language: str | None = None
        self.duration_sec = seconds_of(audio)
        self.heard_sec = 0.0

    def cancel(self) -> None:
        self._cancelled.set()

    def __iter__(self) -> Iterator[Segment]:
        self._check()
        self._fake.load()
        known = {
            _hertz(samples): each.name
            for each in self._options.known_speakers
            for _, samples in _bursts(Clip(each.samples))
        }
        for number, (start, samples) in enumerate(_bursts(self._audio)):
            if number and self._fake.breaks:
                raise EngineError("recognition failed (RuntimeError)")
            while number and self._fake.gate and not self._fake.gate.wait(0.01):
                self._check()
            self._check()
            segment = self._segment(start, samples, known)
            self.language = self._options.language or "en"
            self.heard_sec = segment.end_sec
            if self._options.partials:
                yield replace(segment, final=False, speaker=None)
                self._check()
            yield segment
            self._check()
        self.heard_sec = self.duration_sec

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _segment(self, start: int, samples: Samples, known: dict[int, str]) -> Segment:
        begin, end = start / SAMPLE_RATE, (start + len(samples)) / SAMPLE_RATE
        hertz = _hertz(samples)
        said = ("sound" if self._options.translate else "tone", str(hertz))
        middle = (begin + end) / 2
        words = (Word(said[0], begin, middle, 0.9), Word(said[1], middle, end, 0.8))
        if self._options.speakers and hertz not in known:
            known[hertz] = next(name for name in "ABCDEFGH" if name not in known.values())
        return Segment(
            begin,
            end,
            " ".join(said),
            words if self._options.words else (),
            known[hertz] if self._options.speakers else None,
            avg_logprob=-0.25,
            no_speech_prob=0.01,
            compression_ratio=0.9,
            tokens=(hertz,) * self._fake.token_count,
        )


def _hertz(samples: Samples) -> int:
    rising = np.count_nonzero((samples[:-1] <= 0) & (samples[1:] > 0))
    return round(rising / len(samples) * SAMPLE_RATE / 10) * 10


def _bursts(audio: Audio) -> Iterator[tuple[int, Samples]]:
    samples = np.concatenate([silence(0), *audio.read((0, audio.count))])
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    for run in np.split(loud, np.flatnonzero(np.diff(loud) > _GAP) + 1):
        if len(run):
            yield int(run[0]), samples[run[0] : run[-1] + 1]


def managed(manager: ModelManager, recognizer: Recognizer) -> LeaseRecognizer:
    """The recogniser, put among a worker's models."""
    name = recognizer.capabilities.name
    manager.register(name, lambda: recognizer)
    return partial(manager.lease, name)
