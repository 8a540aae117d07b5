"""Expected durations: how long a text should take to say, to detect bad takes.

The expectation starts at an ordinary reading pace and adapts to each voice. A text's weight is the
number of Latin letters in what is said of it: `7%` weighs as much as "seven percent".
"""

import re
import threading
import unicodedata

from cachetools import LRUCache

from text.writing_systems import HAN, HANGUL, KANA

SECONDS_PER_CHARACTER = 0.065
"""Seconds for a weight of 1: 150 words a minute."""
_TRUST = 300
"""The weight of text after which a voice's own pace counts as much as the first expectation."""
_SHORTEST = 40
"""The least weight at which a take may count as too short: below it, pace varies too much."""
_VOICES = 1000

_CAPITAL = r"[A-Z\u0391-\u03a9\u0410-\u042f]"
_CONSONANT = "[B-DF-HJ-NP-TV-XZb-df-hj-np-tv-xz]"
# What a character adds to its weight of 1. The figures are espeak's durations, divided by its pace
# in prose (`python -m bench.pace`): 4.8 for a digit by itself, 5.5 in a year, 9 in a long number.
_ADDS = (
    # Kana: a short syllable. Hangul: a syllable. Han: often more than one.
    (1, re.compile(f"[{KANA}]")),
    (2, re.compile(f"[{HANGUL}]")),
    (3, re.compile(f"[{HAN}]")),
    (5, re.compile(r"[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215e]")),
    # Zeros that end a number: 5,000 is "five thousand".
    (-4, re.compile(r"(?<=[1-9])0*+(?:[,.]000)*+(?!\d)")),
    # Abbreviations, spelled or expanded: words without a vowel (HTML, kg, Dr), four capitals
    # without one, two or three capitals (USA) unless words beside them are in capitals, capitals
    # between hyphens, letters beside digits (XR7).
    (
        3,
        re.compile(
            rf"\b(?<!['\u2019]){_CONSONANT}{{1,20}}\b(?!['\u2019])"
            r"|[B-DF-HJ-NP-TV-XZ]{4,20}|(?<=-)[A-Z](?=-)"
            rf"|(?<!{_CAPITAL} )\b(?<!['\u2019]){_CAPITAL}{{2,3}}(?=s?\b)"
            rf"(?!s?['\u2019 ]{_CAPITAL}{{2}})"
            r"|(?<=\d)[A-Za-z]|[A-Za-z](?=\d)"
        ),
    ),
    (4, re.compile(r"(?<=[^\W_])[.](?=[^\W_])")),  # point, dot
    # Percent, at, plus, euros. A row of one symbol is a drawing.
    (
        6,
        re.compile(
            r"([%\u2030&@#=+/\\*<>~\u00a7\u00b0\u00b1\u00d7\u00f7\u00a9\u00ae\u2122"
            r"$\u00a3-\u00a5\u20a0-\u20cf\u2190-\u22ff])(?!\1)"
        ),
    ),
    (5, re.compile(r"(?<!\w)[-\u2212](?=\d)")),  # minus
)


def weight(text: str) -> int:
    """The weight of a text, in Latin letters. Takes time linear in its length."""
    own = sum(map(str.isalnum, text)) + text.count(" ")
    if not text.isascii():  # the vowels of Indic scripts and Thai are marks
        own += sum(unicodedata.category(char) in ("Mn", "Mc") for char in text)
    return own + sum(add * sum(map(len, what.findall(text))) for add, what in _ADDS)


def is_short(text: str) -> bool:
    """Whether a text is a few words: a weight below 40, which is about 2.6 s."""
    return weight(text) < _SHORTEST


class Pace:
    """The pace of each voice, for the 1,000 that were used last.

    `tolerance` is the factor by which a take may be longer or shorter than expected. Safe to share
    between threads.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._heard: LRUCache[str, tuple[float, float]] = LRUCache(_VOICES)
        self._lock = threading.Lock()

    def expected(self, voice: str, text: str) -> float:
        """Seconds that this voice should take for the text."""
        return self._pace(voice) * weight(text)

    def _pace(self, voice: str) -> float:
        """Seconds for a weight of 1."""
        with self._lock:
            seconds, characters = self._heard.get(voice, (0.0, 0.0))
        return (SECONDS_PER_CHARACTER * _TRUST + seconds) / (_TRUST + characters)

    def is_odd(self, voice: str, text: str, seconds: float) -> bool:
        """Whether `seconds` is too short or too long for the text.

        A few words are never too short. Their longest duration is that of a weight halfway to 40.
        """
        said, pace = weight(text), self._pace(voice)
        longest = pace * self._tolerance * max(said, (said + _SHORTEST) / 2)
        shortest = pace / self._tolerance * said if said >= _SHORTEST else 0.0
        return not shortest <= seconds <= longest

    def learn(self, voice: str, text: str, seconds: float) -> None:
        """Adds a good take to the voice's pace. A few words are ignored: silence dominates them."""
        if is_short(text):
            return
        with self._lock:
            total, characters = self._heard.get(voice, (0.0, 0.0))
            self._heard[voice] = (total + seconds, characters + weight(text))
