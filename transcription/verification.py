"""What was heard of a text that was spoken: each word's time, and what is missing or too much.

All is judged by the alignment of the text with the words that were heard. A word that is missing,
said again or said for another is a step of it. Music and noise are sound in the place of a word
that lasts too long for it. Nothing here knows what kinds of damage there are.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from audio.pcm import SAMPLE_RATE, Samples
from text.heard import Heard, HeardWord
from text.pace import weight
from transcription import base
from transcription.alignment import ALIKE, Pair, align
from transcription.words import Word, words_of

_WINDOW_SEC = 0.01
_WINDOW = round(SAMPLE_RATE * _WINDOW_SEC)
_QUIET_DB = 40.0
"""A window so far below the loud ones (their 95th percentile) is quiet."""
_MOST_EXTRA_SEC, _MOST_EXTRA_OF_TWO_SEC = 0.6, 0.75
"""Sound beyond what a word takes at the take's pace, and two beside each other. Kokoro's had at
most 0.5 s and 0.62 s; of 30 with a second of noise or music in them, 29 had more."""
_MOST_WORDS = 2
_MOST_WEIGHT = 9
"""Words, and their weight in letters, from which a place counts where some are missing or added."""
_MOST_CHANGED = 24
"""Letters said and others heard in one place: beyond this it is not a name that was misheard."""
_MOST_ERRORS = 0.5


def judged(said: str, samples: Samples, heard: Sequence[base.Word], language: str) -> Heard:
    """Compares a text with what was heard of its take. `samples` are (n,) at `SAMPLE_RATE`."""
    loud = _loud(samples)
    text, times = _joined(heard, loud)
    said_words, heard_words = words_of(said, language), words_of(text, language)
    pairs = align([word.text for word in said_words], [word.text for word in heard_words])
    spans = [(times(word.start), times(word.end)) for word in heard_words]
    missing, added = _lost(pairs)
    errors = sum(max(len(p.said), len(p.heard)) for p in pairs if p.similarity < 1)
    wer = errors / max(1, len(said_words))
    unspoken = _unspoken_sec(text, times, loud)
    own = [said[word.start : word.end] for word in said_words]
    other = [text[word.start : word.end] for word in heard_words]
    flaws = [place for place in _places(pairs) if _is_flaw(place, own, other, len(own))]
    return Heard(
        text=text,
        wer=round(wer, 4),
        missing=tuple(own[n] for n in missing),
        added=tuple(other[n] for n in added),
        problem=_problem(flaws, unspoken, wer),
        words=tuple(_timed(said_words, pairs, spans, len(samples) / SAMPLE_RATE)),
    )


def _problem(flaws: Sequence[tuple[list[int], list[int]]], unspoken: float, wer: float) -> str:
    lost, gained = (sum(map(len, side)) for side in zip(*flaws, strict=True)) if flaws else (0, 0)
    found = {
        f"{lost} of its words were not heard": lost,
        f"{gained} words were heard that are not in its text": gained,
        f"{unspoken:.1f} s of its sound are no words": unspoken,
        f"{wer:.0%} of its words were heard otherwise": wer > _MOST_ERRORS,
    }
    return ", and ".join(problem for problem, counts in found.items() if counts)


def _lost(pairs: Iterable[Pair]) -> tuple[list[int], list[int]]:
    """The indices of missing and of added words."""
    apart = [pair for pair in pairs if pair.similarity < ALIKE]
    return [n for pair in apart for n in pair.said], [n for pair in apart for n in pair.heard]


def _places(pairs: Iterable[Pair]) -> Iterator[tuple[list[int], list[int]]]:
    """The places of the text where words are missing or added, with their indices."""
    for apart, place in groupby(pairs, lambda pair: pair.similarity < ALIKE):
        if apart:
            yield _lost(place)


def _is_flaw(
    place: tuple[list[int], list[int]], said: Sequence[str], heard: Sequence[str], count: int
) -> bool:
    """Whether a place is more than a word that was misheard. Words beside each other that look
    nothing alike may be one name; what counts is how many more there are of one side."""
    missing, added = place
    sides = [said[n] for n in missing], [heard[n] for n in added]
    lost, gained = (sum(map(weight, side)) for side in sides)
    more, words = abs(lost - gained), abs(len(missing) - len(added))
    ends_early = bool(missing) and missing[-1] == count - 1 and not added
    return (
        more >= _MOST_WEIGHT
        or (words >= _MOST_WORDS and more >= _MOST_WORDS)
        or min(map(_letters, sides)) >= _MOST_CHANGED
        or ends_early
    )


def _letters(words: Iterable[str]) -> int:
    """Their weight without numbers: one that was misheard is one word, however long it is said."""
    return sum(weight(word) for word in words if not any(map(str.isdecimal, word)))


def _loud(samples: Samples) -> NDArray[np.bool_]:
    """Which windows of 10 ms are not quiet."""
    whole = samples[: len(samples) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    level = np.square(whole).mean(axis=1)
    if not len(level):
        return np.zeros(0, np.bool_)
    loud: NDArray[np.bool_] = level > np.percentile(level, 95) * 10 ** (-_QUIET_DB / 10)
    return loud


class _Times:
    """When a place in the text of heard words is said, in seconds; evenly within a word."""

    def __init__(self) -> None:
        self._at: list[int] = [0]
        self._sec: list[float] = [0.0]

    def add(self, start: int, end: int, start_sec: float, end_sec: float) -> None:
        self._at += (start, end)
        self._sec += (start_sec, max(start_sec, end_sec))

    def __call__(self, at: int) -> float:
        return float(np.interp(at, self._at, self._sec))


def _joined(heard: Iterable[base.Word], loud: NDArray[np.bool_]) -> tuple[str, _Times]:
    """The heard words as one text. Recognisers cut "9 o'clock" and "1.2" into pieces."""
    text, times = "", _Times()
    for word in heard:
        piece = word.text.strip()
        if not piece:
            continue
        text += " " if text and (piece[0].isalnum() or piece[0] in '$€£¥"“‘(') else ""
        times.add(len(text), len(text) + len(piece), *_sounding(word, loud))
        text += piece
    return text, times


def _sounding(word: base.Word, loud: NDArray[np.bool_]) -> tuple[float, float]:
    """The times of a word without the pause that a recogniser counts to it."""
    first, last = (round(sec / _WINDOW_SEC) for sec in (word.start_sec, word.end_sec))
    inside = np.flatnonzero(loud[first:last])
    if not len(inside):
        return word.start_sec, word.end_sec
    return (first + int(inside[0])) * _WINDOW_SEC, (first + int(inside[-1]) + 1) * _WINDOW_SEC


def _unspoken_sec(text: str, times: "_Times", loud: NDArray[np.bool_]) -> float:
    """Seconds of sound that are no words: all that a word takes beyond the take's own pace, where
    that is too much. A word lasts until the next begins, without what is quiet."""
    words = list(re.finditer(r"\S+", text))
    if not words:
        return float(loud.sum()) * _WINDOW_SEC
    starts = [0.0, *(times(word.start()) for word in words), len(loud) * _WINDOW_SEC]
    lasting = [
        float(loud[round(a / _WINDOW_SEC) : round(b / _WINDOW_SEC)].sum()) * _WINDOW_SEC
        for a, b in pairwise(starts)
    ]
    weights = [0.0, *(_longest(word[0]) for word in words)]
    pace = np.median([sec / size for sec, size in zip(lasting[1:], weights[1:], strict=True)])
    extra = [sec - float(pace) * size for sec, size in zip(lasting, weights, strict=True)]
    most = [sec for sec in extra if sec >= _MOST_EXTRA_SEC]
    two = [max(0.0, one) + max(0.0, other) for one, other in pairwise(extra)]
    return sum(most) or max((sec for sec in two if sec >= _MOST_EXTRA_OF_TWO_SEC), default=0.0)


def _longest(word: str) -> float:
    """The weight of a word, of a number by its longest reading."""
    return (weight(word) + 1) * (1.5 if any(map(str.isdecimal, word)) else 1.0)


def _timed(
    words: Sequence[Word],
    pairs: Iterable[Pair],
    spans: Sequence[tuple[float, float]],
    duration_sec: float,
) -> Iterator[HeardWord]:
    """The times of all words of the text: those that were not heard lie evenly, by their length,
    between their neighbours."""
    known: list[tuple[range, float, float]] = [
        (pair.said, spans[pair.heard.start][0], spans[pair.heard.stop - 1][1])
        for pair in pairs
        if pair.said and pair.heard
    ]
    # Where words are heard at the same time, later ones begin when the earlier have begun.
    ends = [
        (range(0), 0.0, 0.0),
        *known,
        (range(len(words), len(words)), duration_sec, duration_sec),
    ]
    for (before, _, left), (said, start, end) in pairwise(ends):
        yield from _between(words[before.stop : said.start], left, max(left, start))
        yield from _between(words[said.start : said.stop], start, end)


def _between(words: Sequence[Word], start: float, end: float) -> Iterator[HeardWord]:
    sizes = np.cumsum([0, *(len(word.text) for word in words)])
    for word, (first, last) in zip(words, pairwise(sizes / max(1, sizes[-1])), strict=True):
        yield HeardWord(
            word.start,
            word.end,
            round(start + (end - start) * float(first), 3),
            round(start + (end - start) * float(last), 3),
        )
