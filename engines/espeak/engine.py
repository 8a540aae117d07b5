"""The preview voice: espeak-ng on the CPU, for demos and tests without a GPU.

It clones no voice: a name has one of espeak's own (`engines.casting`). A turn is read in one
language: the plan's, else the one that a voice's name begins with (`de-Lena_woman`), where that is
written in the script of most of the turn's letters; else the script's own. Latin letters alone are
read as English. Han characters are read as Japanese only where kana outnumber them. A script that
espeak has not is spelled out in English. Attempts are ignored. A seed changes only the breath
noise.

espeak speaks one piece of text at a time (about 15 s of speech in 15 ms), under its library's lock.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engines.base import Capabilities, Plan, PlannedChunk, Samples
from engines.casting import cast
from engines.espeak import library as espeak_library
from engines.espeak.languages import LANGUAGES, asked_for, language_of
from engines.espeak.library import Library
from engines.espeak.reading import plain
from engines.pulled import PulledSpeech
from request.errors import Cancelled
from text.sentences import sentences

_PIECE = 240  # characters; the slowest piece found (spelled letters) takes espeak 0.2 s


@dataclass(frozen=True, slots=True)
class _Look:
    """One of espeak's voice variants, and our pitch for it: base and top in Hz, before stress."""

    variant: str
    pitch: tuple[int, int]


# Neighbours in pitch are 9 % apart or more. Measured medians in Hz: Mary 155, Alice 189,
# Xinran 211, Maya 238; Samuel 84, Anchen 92, Frank 104, Carter 123, Bowen 141.
_LOOKS = {
    "Alice": _Look("f2", (142, 220)),
    "Frank": _Look("m3", (82, 124)),
    "Carter": _Look("m7", (89, 146)),
    "Maya": _Look("f3", (170, 270)),
    "Mary": _Look("f4", (125, 178)),
    "Samuel": _Look("m6", (62, 100)),
    "Xinran": _Look("f5", (168, 240)),
    "Bowen": _Look("m2", (124, 160)),
    "Anchen": _Look("m4", (70, 108)),
}

# Where a long turn may be cut, best first: after a sentence, after a clause, between words.
_CUTS = [
    re.compile(p) for p in (r"[.!?…][\"'”’)\]]*\s|[。！？।።။\n]", r"[,;:]\s|[，、；：]", r"\s")
]


class EspeakEngine:
    """The preview voice as an `Engine`. Any number of speeches may run side by side."""

    capabilities = Capabilities(
        name="espeak",
        cloning=False,
        in_caller=True,
        voices=tuple(_LOOKS),
        languages=tuple(LANGUAGES),
    )

    lost = False

    def __init__(self) -> None:
        self.ready = False

    def check(self) -> None:
        espeak_library.load()

    def inspect(self) -> Capabilities:
        return self.capabilities

    def load(self) -> None:
        """Raises `EngineError` where espeak or its data is missing."""
        espeak_library.load()
        self.ready = True

    def start(self, plan: Plan) -> "EspeakSpeech":
        self.load()
        return EspeakSpeech(espeak_library.load(), plan)

    def close(self) -> None:
        """Does nothing: the library stays in the process, and running speeches go on."""
        self.ready = False


class EspeakSpeech(PulledSpeech):
    """A speech by espeak's own voices."""

    def __init__(self, library: Library, plan: Plan) -> None:
        super().__init__(plan, library.line, library.rate)
        self._library = library
        self._looks = [_LOOKS[name] for name in cast(plan.voices, tuple(_LOOKS))]

    def pieces(self, chunk: PlannedChunk) -> Iterator[Samples]:
        for turn in chunk.turns:
            text = plain(turn.text)
            voice = self.plan.voices[turn.speaker].name
            language = language_of(text, asked_for(self.plan.options.language, voice))
            look = self._looks[turn.speaker]
            for piece in _cut(text):
                if not any(map(str.isalnum, piece)):  # espeak would read a lone "!" as a word
                    continue
                with self.turn():
                    pcm = self._library.say(
                        piece, language, look.variant, look.pitch, chunk.seed, self.cancelled
                    )
                if self.cancelled.is_set():
                    raise Cancelled
                if pcm.any():
                    yield pcm.astype(np.float32) / np.float32(32768)


def _cut(text: str) -> Iterator[str]:
    """Pieces of at most `_PIECE` characters; the first is one sentence, for an early start."""
    if (spans := sentences(text[:_PIECE]))[1:]:
        yield text[: spans[1][0]]
        text = text[spans[1][0] :]
    while len(text) > _PIECE:
        ends = ([m.end() for m in cut.finditer(text[:_PIECE])] for cut in _CUTS)
        end = next((found[-1] for found in ends if found), _PIECE)
        yield text[:end]
        text = text[end:]
    yield text
