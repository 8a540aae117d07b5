"""What was heard of a text that was spoken, as data for whoever speaks and whoever hears."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeardWord:
    """A word of the text (its span in code points), and when it is said, in seconds."""

    start: int
    end: int
    start_sec: float
    end_sec: float


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a text.

    `wer` is the word error rate: words that are missing, added or not the same, by the text's
    words. `missing` and `added` are those without a counterpart that looks alike. `problem`
    completes a sentence that begins with the take: why it should be spoken again, or "".
    """

    text: str
    wer: float
    missing: tuple[str, ...]
    added: tuple[str, ...]
    problem: str
    words: tuple[HeardWord, ...]
