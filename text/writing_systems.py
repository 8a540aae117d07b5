"""Writing systems: ranges of characters, sizes in letters, and scripts without spaces.

A character of Chinese, Japanese or Korean is a syllable or more, and counts as three letters.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import accumulate

HAN = "\u3005\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff"
HANGUL = "\uac00-\ud7af"
# Thai and Lao, Myanmar, Khmer.
SPACELESS_ALPHABETS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
# From Devanagari to Sinhala.
INDIC = "\u0900-\u0dff"

# Scripts in which a zero-width joiner changes the spelling: Arabic, Indic, Tibetan to Khmer.
JOINED = f"\u0620-\u06ff\u0750-\u077f{INDIC}\u0f00-\u109f\u1780-\u17ff"

SYLLABLE = re.compile(f"[{HAN}{KANA}{HANGUL}]")
UNSPACED = re.compile(f"[{HAN}{KANA}{SPACELESS_ALPHABETS}]")
"""A character of a script without spaces: a word may begin or end beside it."""
SYLLABLE_LETTERS = 3


def letters(text: str) -> int:
    """The size of a text in letters; spaces and punctuation count as one each."""
    if text.isascii():
        return len(text)
    return len(text) + (SYLLABLE_LETTERS - 1) * len(SYLLABLE.findall(text))


def running_letters(text: str) -> Sequence[int]:
    """Prefix sums of `letters`: item i is the size of `text[:i]`, for i from 0 to its length."""
    syllables = frozenset() if text.isascii() else frozenset(SYLLABLE.findall(text))
    if not syllables:
        return range(len(text) + 1)
    sizes = [SYLLABLE_LETTERS if char in syllables else 1 for char in text]
    return list(accumulate(sizes, initial=0))


# In Thai and Lao some vowels precede their consonant and some follow it.
_BEGINS_LETTER = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4]")
_GOES_ON = re.compile(
    "[\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eaf\u0eb0\u0eb2\u0eb3\u0ec6\u200c\u200d"
    "\u3005\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087\u30a1\u30a3\u30a5\u30a7\u30a9"
    "\u30c3\u30e3\u30e5\u30e7\u30fc\U0001f3fb-\U0001f3ff.,;:!?)\\]\u3001\u3002\uff0c\uff01\uff1f]"
)
# Virama, al-lakuna, coeng: signs that join two consonants. The last is a zero-width joiner.
_JOINS_NEXT = re.compile(
    "[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca\u1039\u17d2\u200d]"
)


def is_inside_letter(text: str, point: int) -> bool:
    """Whether a cut before `text[point]` would split a letter or syllable, or leave punctuation
    without its word."""
    before, after = text[point - 1], text[point]
    return bool(
        unicodedata.category(after)[0] == "M"
        or _GOES_ON.match(after)
        or _BEGINS_LETTER.match(before)
        or _JOINS_NEXT.match(before)
    )
