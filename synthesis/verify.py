"""Verification: chunks are heard after they were made, beside the synthesis of the next ones.

What hears is a `Verifier`, which works in a thread of its own. The thread that speaks only hands it
a take when it has room, so at most `_AHEAD` takes are in memory; what waits lies on disk.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from audio.chunk_audio import ChunkAudio
from audio.pcm import Samples, silence
from audio.spool import Extent, Spool
from engines.base import Plan, Turn, Voice
from request.errors import SpeechError
from synthesis.cancel import CancelToken
from text.chunks import Chunk
from text.heard import Heard, HeardWord
from text.own_words import own_words
from text.subtitles import ShownWord

_AHEAD = 2
_LOOK_SEC = 0.1


class Verifier(Protocol):
    """Hears takes, one after another, in a thread of its own.

    `load` is idempotent; its future fails with `EngineError` where nothing can be heard here.
    """

    def load(self) -> Future[None]: ...

    def hear(
        self,
        turns: Sequence[Turn],
        voices: Sequence[Voice],
        language: str | None,
        samples: Samples,
    ) -> Future[Heard]:
        """What is heard of the turns in (n,) samples at `SAMPLE_RATE`. The words' spans are in
        the turns' texts with one character between two. `voices` are the turns'
        voices, `language` is the text's BCP 47 tag. The future fails with `SpeechError` where
        hearing fails."""

    def close(self) -> None: ...


class Hearing:
    """The takes of one request on their way through a verifier. Belongs to one thread.

    `waited_sec` is what that thread waited for the verifier.
    """

    def __init__(
        self,
        verifier: Verifier,
        plan: Plan,
        language: str | None,
        folder: Path,
        token: CancelToken,
    ) -> None:
        self._verifier, self._plan, self._token = verifier, plan, token
        self._language = language
        self._spool = Spool(folder)
        self._extents: dict[int, list[Extent]] = {}
        self._waiting: deque[tuple[int, list[Extent]]] = deque()
        self._begun: dict[int, Future[Heard]] = {}
        self._failed: dict[int, str] = {}
        self.waited_sec = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings on chunks that could not be heard."""
        return tuple(self._failed.values())

    def note(self, index: int) -> str:
        """The warning on one chunk; "" where there is none."""
        return self._failed.get(index, "")

    def load(self) -> Future[None]:
        """See `Verifier.load`."""
        return self._verifier.load()

    def feed(self, index: int, samples: Samples) -> None:
        """The next samples of a chunk, as the engine makes them."""
        self._extents.setdefault(index, []).append(self._spool.append(samples))
        self._begin()

    def end(self, index: int) -> None:
        """The chunk's take is complete. What was heard of an earlier take of it is forgotten."""
        self._begun.pop(index, None)
        self._waiting.append((index, self._extents.pop(index, [])))
        self._begin()

    def done(self, index: int) -> bool:
        return index in self._begun and self._begun[index].done()

    def of(self, index: int) -> Heard | None:
        """What was heard of the chunk's last take, waited for; None if hearing failed."""
        began = time.monotonic()
        while not self.done(index):
            self._token.check()
            self._begin()
            wait([each for each in self._begun.values() if not each.done()], _LOOK_SEC)
        self.waited_sec += time.monotonic() - began
        try:
            return self._begun[index].result()
        except SpeechError as error:
            self._failed[index] = f"chunks[{index}]: was not heard: {error}"
            return None

    def close(self) -> None:
        """Ends what has not begun."""
        for each in self._begun.values():
            each.cancel()
        self._spool.close()

    def _begin(self) -> None:
        while self._waiting and sum(not each.done() for each in self._begun.values()) < _AHEAD:
            index, extents = self._waiting.popleft()
            read = (block for extent in extents for block in self._spool.read(extent))
            samples = np.concatenate([silence(0), *read])
            turns = self._plan.chunks[index].turns
            self._begun[index] = self._verifier.hear(
                turns, [self._plan.voices[turn.speaker] for turn in turns], self._language, samples
            )


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of the caller's text at its place there (code points) and in the audio (seconds)."""

    word: str
    start_sec: float
    end_sec: float
    text_start: int
    text_end: int


def spoken_words(
    source: str, chunk: Chunk, heard: Heard, take: ChunkAudio, start_sec: float
) -> Iterator[tuple[SpokenWord, ShownWord]]:
    """The caller's words of a chunk, and as subtitles show them; its take begins at `start_sec`."""
    heard_words = iter(heard.words)
    word = next(heard_words, None)
    at = 0
    for turn, origins in zip(chunk.turns, chunk.origins, strict=True):
        for own in own_words(source, turn.text, origins):
            inside: list[tuple[float, float]] = []
            while word is not None and word.start < at + own.end:
                if word.end > at + own.start:
                    inside.append(_within(word, at + own.start, at + own.end))
                if word.end > at + own.end:
                    break  # a number whose words are several of the caller's
                word = next(heard_words, None)
            if inside:
                ends = (inside[0][0], inside[-1][1])
                first, last = (round(start_sec + take.place_sec(sec), 3) for sec in ends)
                span = (own.text_start, own.text_end)
                yield (
                    SpokenWord(source[slice(*span)], first, last, *span),
                    ShownWord(own.shown, first, last, turn.speaker, own.spaced),
                )
        at += len(turn.text) + 1


def _within(word: HeardWord, start: int, end: int) -> tuple[float, float]:
    """When the part of a word between two characters is said."""
    pace = (word.end_sec - word.start_sec) / max(1, word.end - word.start)
    return (
        word.start_sec + pace * (max(start, word.start) - word.start),
        word.start_sec + pace * (min(end, word.end) - word.start),
    )
