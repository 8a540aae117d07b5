"""Speech by models that turn phonemes into sound: Kokoro and Piper.

espeak-ng makes the phonemes, by the library that the preview voice uses: 1 ms for a sentence. So
neither the packages `kokoro-onnx` and `piper-tts` nor a second espeak is in the process.

The first piece of a text is short, so that sound begins soon. Each of the next may be longer, since
sound is made faster than it is heard. A piece comes with up to 0.9 s of silence at its edges. That
is cut, and the pause that its last mark asks for is put there.
"""

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from audio.pcm import silence
from audio.shaping import Trim
from engines.base import SAMPLE_RATE, Plan, PlannedChunk, Samples, Turn
from engines.espeak.reading import phonemes, pieces, plain
from engines.onnx import Cores, Runner
from engines.pulled import PulledSpeech

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_FIRST_SIZES, _SIZE = (25, 60, 120), 240
"""Letters of the first pieces, and of all others. 25 are some 1.5 s of sound."""
_SENTENCE_SEC, _CLAUSE_SEC = 0.25, 0.1
"""Silence after a piece, besides the 0.13 s that `Trim` leaves at its edges."""


class PhonemicSpeech(PulledSpeech):
    """See `engines.base.Speech`. A subclass knows the language and the sound of a turn."""

    def __init__(self, plan: Plan, cores: Cores) -> None:
        super().__init__(plan, cores.lock, SAMPLE_RATE)
        self._cores = cores
        self._runner = Runner(self.cancelled)
        self._sizes = chain(_FIRST_SIZES, repeat(_SIZE))

    @abstractmethod
    def language(self, turn: Turn) -> str:
        """espeak's file of the language that a turn is in."""

    @abstractmethod
    def sounds(self, speaker: int, phonemes: str) -> Iterator[Samples]:
        """The sound of one piece, in one part or more."""

    def cancel(self) -> None:
        super().cancel()
        self._runner.cancel()

    def pieces(self, chunk: PlannedChunk) -> Iterator[Samples]:
        for turn in chunk.turns:
            language, text = self.language(turn), plain(turn.text).rstrip()
            for piece in pieces(text, self._sizes):
                if any(map(str.isalnum, piece)):
                    breaks_off = piece[-1].isalnum() and not text.endswith(piece)
                    # Else the voice falls, as it does at the end of a sentence.
                    read = phonemes(piece, language) + ("," if breaks_off else "")
                    yield from _trimmed(self.sounds(turn.speaker, read))
                    yield silence(round(_pause_sec(piece) * SAMPLE_RATE))

    def run(self, session: "InferenceSession", inputs: Mapping[str, Any]) -> Samples:
        """A session's first output, made in this speech's turn."""
        with self.turn():
            began = time.monotonic()
            made: Samples = self._runner.run(session, inputs).ravel()
            self.device_sec += (time.monotonic() - began) / self._cores.places
        return made


def _pause_sec(piece: str) -> float:
    mark = piece.rstrip("\"'”’»)]")[-1:]
    return _SENTENCE_SEC if mark in ".!?…" else _CLAUSE_SEC if mark in ",;:—–" else 0


def _trimmed(sounds: Iterator[Samples]) -> Iterator[Samples]:
    edges = Trim(SAMPLE_RATE)
    for samples in sounds:
        yield edges.feed(samples)
    yield edges.flush()
