"""What espeak-ng reads correctly, and a text as phonemes for models that speak from those."""

import re
import threading
import unicodedata
from collections.abc import Iterator

from engines.espeak import library as espeak_library
from text.aligned import AlignedText
from text.cleaning.symbols import plain_letters
from text.sentences import sentences, split_long


def plain(text: str) -> str:
    """The text with characters that espeak reads correctly.

    Wide, circled and joined letters and digits become ordinary ones. Powers and the rarer fractions
    become words, because espeak drops or misreads them. Control characters are removed, because
    espeak takes commands after a 0x01. So are lone surrogates and unassigned code points. Newlines
    and the joiners of Indic scripts stay.
    """
    letters = plain_letters(AlignedText(text)).text
    return "".join(
        c if c in "\n\u200c\u200d" or unicodedata.category(c)[0] != "C" else " "
        for c in _UNKNOWN.sub(_in_words, letters)
    )


# espeak reads halves, thirds and quarters correctly, and m² as "m two".
_UNKNOWN = re.compile("[\u2150-\u2152\u2155-\u215e]|(?<=[A-Za-z0-9)])[\u00b2\u00b3]")
_POWERS = {"\u00b2": "squared", "\u00b3": "cubed"}


def _in_words(match: re.Match[str]) -> str:
    name = unicodedata.name(match[0]).removeprefix("VULGAR FRACTION ").lower()
    return f" {_POWERS.get(match[0], name)}"


def pieces(text: str, sizes: Iterator[int]) -> Iterator[str]:
    """The sentences of a text; one above the next of `sizes`, in letters, is cut there.

    A cut is after a clause or between words, as `text.sentences.split_long` finds it.
    """
    for start, end in sentences(text):
        while start < end:
            first, last = split_long(text, (start, end), next(sizes))[0]
            yield text[first:last]
            start = end - len(text[last:end].lstrip())


_OPENING = r"(?<!\S)([\"“‘'«(\[¿¡]+)(?=\S)"
_CLOSING = r"([;:,!?…)\]\"”’'»]+)(?!\S)|([.!?…)\]\"”’'»]+)\s*\Z"
_DASH = r"(\s+[-–]+\s+|—+)"
_MARKS = re.compile(f"{_OPENING}|{_CLOSING}|{_DASH}")


def phonemes(text: str, language: str) -> str:
    """A piece of `plain` text as the International Phonetic Alphabet, with its punctuation.

    espeak gives no punctuation, which models take for pauses and intonation. So what lies between
    two marks is read by itself. A full stop inside a piece belongs to an abbreviation.
    """
    library = espeak_library.load()
    spoken, read = "", 0
    with library.line.enter(threading.Event()):
        for mark in _MARKS.finditer(text):
            opening, closing, last, _ = mark.groups()
            spoken += library.phonemes(text[read : mark.start()], language)
            spoken += f" {opening}" if opening else f"{closing or last or '—'} "
            read = mark.end()
        spoken += library.phonemes(text[read:], language)
    return " ".join(spoken.split())
