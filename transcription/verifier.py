"""Hears takes for `synthesis/verify.py`: a recogniser in a thread of its own."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from audio.pcm import SAMPLE_RATE, Samples
from engines.base import Turn, Voice
from text.heard import Heard
from transcription.base import Clip, Options
from transcription.registry import LeaseRecognizer
from transcription.verification import judged
from transcription.words import words_of

_ANOTHER = 0.7
"""The similarity to its recording below which a turn is in another voice. See
docs/transcription.md, as for the next."""
_ANOTHER_TAKE = 0.8
"""The same to what the voice said before, which the same engine made."""
_SPREAD, _USUAL_COUNT, _LONG_SEC = 0.06, 3, 8.0
"""Of a turn that is so long, and after so many of them: how much less alike it may be than usual.
Kokoro's own turns are alike by 0.97 or more, and by 0.92 or less to any other of its voices."""
_TELLING_SEC = 2.0
"""A shorter turn tells too little of its voice."""
_VOICES = 1000


class VoiceEncoder(Protocol):
    """Turns speech into a vector of length 1; vectors of one voice point in one direction."""

    def embed(self, samples: Samples, rate: int = SAMPLE_RATE) -> NDArray[np.float32]: ...


@dataclass(slots=True)
class _Known:
    """What a voice said: the sum of its turns' vectors, and how alike its long turns were to that
    sum, each to the ones before."""

    total: NDArray[np.float32]
    alike: float = 0.0
    count: int = 0

    def likeness(self, vector: NDArray[np.float32]) -> float:
        return float(vector @ self.total) / float(np.linalg.norm(self.total))

    def least(self, seconds: float) -> float:
        """How alike a turn of that length has to be."""
        if seconds < _LONG_SEC or self.count < _USUAL_COUNT:
            return _ANOTHER_TAKE
        return max(_ANOTHER_TAKE, self.alike / self.count - _SPREAD)

    def add(self, vector: NDArray[np.float32], seconds: float) -> None:
        if seconds >= _LONG_SEC:
            self.alike += self.likeness(vector)
            self.count += 1
        self.total = self.total + vector


class SpeechVerifier:
    """Compares what was spoken with its text. Safe to use from many threads; takes are heard one
    after another, since a recogniser uses all that its device has. Without an `encoder` nobody
    listens to whose voice it is. Each take has its own `lease` of the recogniser."""

    def __init__(self, lease: LeaseRecognizer, encoder: VoiceEncoder | None = None) -> None:
        self._lease, self._encoder = lease, encoder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verifier")
        # What voices said in good turns, and the vectors of recordings.
        self._known: LRUCache[tuple[str, str], _Known] = LRUCache(_VOICES)
        self._recorded: LRUCache[str, NDArray[np.float32]] = LRUCache(_VOICES)

    def load(self) -> Future[None]:
        return self._pool.submit(self._load)

    def hear(
        self, turns: Sequence[Turn], voices: Sequence[Voice], language: str | None, samples: Samples
    ) -> Future[Heard]:
        return self._pool.submit(self._hear, turns, voices, language, samples)

    def close(self) -> None:
        """Waits for the take that is being heard, and drops the others."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self) -> None:
        with self._lease() as lease:
            lease.load()

    def _hear(
        self, turns: Sequence[Turn], voices: Sequence[Voice], language: str | None, samples: Samples
    ) -> Heard:
        said = "\n".join(turn.text for turn in turns)
        code = (language or _english(said) or "").partition("-")[0] or None
        # Silence is decoded too, and no hint is given of what to expect: it would be heard.
        options = Options(language=code, words=True, vad=False, temperature=0)
        with self._lease() as lease:
            lease.load()
            transcript = lease.model.transcribe(Clip(samples), options)
            words = [word for segment in transcript for word in segment.words]
        heard = judged(said, samples, words, code or transcript.language or "en")
        if self._encoder is None or heard.problem:
            return heard
        return replace(heard, problem=self._other_voice(turns, voices, heard, samples))

    def _other_voice(
        self, turns: Sequence[Turn], voices: Sequence[Voice], heard: Heard, samples: Samples
    ) -> str:
        """What is wrong with the voices of a take whose words are right; "" where nothing is."""
        vectors = list(self._turn_vectors(turns, voices, heard, samples))
        for voice, vector, seconds in vectors:
            if not self._is_like(voice, vector, seconds):
                return f"{voice.name!a} is not who is heard"
        for voice, vector, seconds in vectors:
            known = self._known.get((voice.name, voice.sha256))
            if known is None:
                self._known[voice.name, voice.sha256] = _Known(vector)
            else:
                known.add(vector, seconds)
        return ""

    def _turn_vectors(
        self, turns: Sequence[Turn], voices: Sequence[Voice], heard: Heard, samples: Samples
    ) -> Iterator[tuple[Voice, NDArray[np.float32], float]]:
        start = 0
        for turn, voice in zip(turns, voices, strict=True):
            end = start + len(turn.text)
            words = [word for word in heard.words if start <= word.start < end]
            start = end + 1
            seconds = words[-1].end_sec - words[0].start_sec if words else 0.0
            if seconds >= _TELLING_SEC:
                first, last = (
                    round(sec * SAMPLE_RATE) for sec in (words[0].start_sec, words[-1].end_sec)
                )
                assert self._encoder is not None  # noqa: S101 - `_hear` has looked
                yield voice, self._encoder.embed(samples[first:last]), seconds

    def _is_like(self, voice: Voice, vector: NDArray[np.float32], seconds: float) -> bool:
        known = self._known.get((voice.name, voice.sha256))
        if known is not None:
            return known.likeness(vector) >= known.least(seconds)
        if voice.samples is None or self._encoder is None:
            return True
        if voice.sha256 not in self._recorded:
            self._recorded[voice.sha256] = self._encoder.embed(voice.samples)
        return float(vector @ self._recorded[voice.sha256]) >= _ANOTHER


# fmt: off
_COMMON = frozenset(("the", "of", "and", "to", "a", "in", "is", "it", "that", "was", "for", "you",
                     "he", "on", "are", "with", "as", "be", "at", "have"))
# fmt: on


def _english(text: str) -> str | None:
    """`en` if every tenth word is one of the commonest of English: short clips of noise are taken
    for any language."""
    words = [word.text for word in words_of(text, "")]
    common = sum(word in _COMMON for word in words)
    return "en" if words and common * 10 >= len(words) else None
