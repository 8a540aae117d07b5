"""The caller's own words among those that are spoken.

Cleaning turns "$5" into "5 dollars" and takes the asterisks from "**now**". An answer that tells
when a word is said means the word as the caller wrote it, at its place in the caller's text.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from text.writing_systems import HAN, KANA, SPACELESS_ALPHABETS

_UNSPACED = HAN + KANA + SPACELESS_ALPHABETS
# A word with its punctuation; a dash ends it. Of scripts without spaces a character is a word.
_SPOKEN = re.compile(rf"[{_UNSPACED}][^\w\s]*|[^\s{_UNSPACED}\u2013\u2014]+(?:\s*[\u2013\u2014]+)?")
_SIGNS = "$€£¥₹%°"
_EDGES = re.compile(rf"[^\w{_SIGNS}]*(.*?)[^\w{_SIGNS}]*", re.S)


@dataclass(frozen=True, slots=True)
class OwnWord:
    """A word of the caller's text from `text_start` to `text_end`, spoken as the characters from
    `start` to `end` of what is spoken (all in code points). `shown` is the word with its
    punctuation, for a reader. `spaced`: a space comes before it, as
    it does before the first."""

    start: int
    end: int
    text_start: int
    text_end: int
    shown: str
    spaced: bool


def own_words(source: str, spoken: str, at: "array[int]") -> Iterator[OwnWord]:
    """The words of `spoken` in order; `at` has the offset in `source` of each of its characters.
    Words that are not in the source as they are spoken are one with all others of their place."""
    words = [found for match in _SPOKEN.finditer(spoken) if (found := _found(match))]
    places = [_place(source, at[start]) for _, start, _ in words]
    for place, members in groupby(zip(places, words, strict=True), lambda pair: pair[0]):
        together = [word for _, word in members]
        if all(_is_literal(at, start, end) for _, start, end in together):
            for match, start, end in together:
                span = (at[start], at[end - 1] + 1)
                yield OwnWord(*match.span(), *span, match[0], _is_spaced(spoken, match.start()))
        elif text := source[slice(*place)]:
            first, last = together[0][0], together[-1][0]
            core = _EDGES.fullmatch(text)
            start, end = core.span(1) if core and core[1] else (0, len(text))
            before = spoken[first.start() : together[0][1]]
            after = spoken[together[-1][2] : last.end()]
            yield OwnWord(
                first.start(),
                last.end(),
                place[0] + start,
                place[0] + end,
                before + text[start:end] + after,
                _is_spaced(spoken, first.start()),
            )


def _found(match: re.Match[str]) -> tuple[re.Match[str], int, int] | None:
    """The match, and its word without the punctuation around it."""
    letters = [n for n, char in enumerate(match[0]) if char.isalnum() or char in _SIGNS]
    if not any(map(str.isalnum, match[0])):
        return None
    return match, match.start() + letters[0], match.start() + letters[-1] + 1


def _place(source: str, offset: int) -> tuple[int, int]:
    """The run of characters without white space around an offset, at most 200 to each side."""
    left = re.search(r"\S*\Z", source[max(0, offset - 200) : offset])
    right = re.match(r"\S*", source[offset : offset + 200])
    return offset - len(left[0] if left else ""), offset + len(right[0] if right else "")


def _is_literal(at: Sequence[int], start: int, end: int) -> bool:
    return all(after - before == 1 for before, after in pairwise(at[start:end]))


def _is_spaced(spoken: str, start: int) -> bool:
    return start == 0 or spoken[start - 1].isspace()
