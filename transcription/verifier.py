"""Hears takes for `synthesis/verify.py`: a recogniser in a thread of its own."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from audio.pcm import Samples
from text.chunks import Turn
from transcription.base import Clip, Options, Recognizer
from transcription.verification import Heard, judged
from transcription.words import words_of


class SpeechVerifier:
    """Compares what was spoken with its text. Safe to use from many threads; takes are heard one
    after another, since a recogniser uses all that its device has."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verifier")

    def load(self) -> Future[None]:
        return self._pool.submit(self._recognizer.load)

    def hear(
        self,
        turns: Sequence[Turn],
        voices: Sequence[Samples | None],
        language: str | None,
        samples: Samples,
    ) -> Future[Heard]:
        return self._pool.submit(self._hear, turns, voices, language, samples)

    def close(self) -> None:
        """Waits for the take that is being heard, and drops the others."""
        self._pool.shutdown(cancel_futures=True)

    def _hear(
        self,
        turns: Sequence[Turn],
        voices: Sequence[Samples | None],
        language: str | None,
        samples: Samples,
    ) -> Heard:
        said = "\n".join(turn.text for turn in turns)
        code = (language or _english(said) or "").partition("-")[0] or None
        # Silence is heard too, and nothing is said to the recogniser of what to expect: it would
        # hear it.
        options = Options(language=code, words=True, vad=False, temperature=0)
        transcript = self._recognizer.transcribe(Clip(samples), options)
        heard = [word for segment in transcript for word in segment.words]
        return judged(said, samples, heard, code or transcript.language or "en")


# fmt: off
_COMMON = frozenset(("the", "of", "and", "to", "a", "in", "is", "it", "that", "was", "for", "you",
                     "he", "on", "are", "with", "as", "be", "at", "have"))
# fmt: on


def _english(text: str) -> str | None:
    """`en` if every tenth word is one of the commonest of English: short clips of noise are taken
    for any language."""
    words = [word.text for word in words_of(text, "")]
    common = sum(word in _COMMON for word in words)
    return "en" if common * 10 >= max(1, len(words)) else None
