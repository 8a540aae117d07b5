"""How long a text should take to say, to notice when far too little or too much came out.

The expectation starts at an ordinary reading pace and follows each voice as it is heard. A
character of Chinese, Japanese or Korean counts for four: it is a syllable or more.
"""

import re
import threading
from collections import OrderedDict

SECONDS_PER_CHARACTER = 0.065
"""150 words a minute."""
_TRUST = 300
"""Characters that the first expectation weighs as much as."""
_SHORTEST = 40
"""Below this weight the pace of natural speech varies too much to judge."""
_VOICES = 1000
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def weight(text: str) -> int:
    """Characters that take time, in Latin letters' worth."""
    wide = len(_WIDE.findall(text))
    return sum(map(str.isalnum, text)) + text.count(" ") + 3 * wide


class Pace:
    """The pace of many voices. `tolerance` is the factor by which a text may take longer or
    shorter than expected. Safe to share between threads."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._heard: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def expected(self, voice: str, text: str) -> float:
        """Seconds that this voice should take for the text."""
        with self._lock:
            seconds, characters = self._heard.get(voice, (0.0, 0.0))
        pace = (SECONDS_PER_CHARACTER * _TRUST + seconds) / (_TRUST + characters)
        return pace * weight(text)

    def is_odd(self, voice: str, text: str, seconds: float) -> bool:
        """Whether the text cannot well have been said, no more and no less, in this time."""
        if weight(text) < _SHORTEST:
            return False
        expected = self.expected(voice, text)
        return not expected / self._tolerance <= seconds <= expected * self._tolerance

    def learn(self, voice: str, text: str, seconds: float) -> None:
        """Notes a text that was said well."""
        with self._lock:
            total, characters = self._heard.pop(voice, (0.0, 0.0))
            self._heard[voice] = (total + seconds, characters + weight(text))
            if len(self._heard) > _VOICES:
                self._heard.popitem(last=False)
