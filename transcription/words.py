"""The words of a text in a form in which a text and what was heard of it can be compared.

"$3.50" and "three dollars and fifty cents" become the same words, and so do "colour" and "color",
"Dr." and "doctor", "twenty-first" and "21st". Every word keeps its span in the text it came from.
Numbers, spelling and abbreviations are English; of any other language words lose case, accents and
punctuation. Characters of scripts without spaces are words of their own.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from itertools import pairwise

from text.writing_systems import HAN, KANA, SPACELESS_ALPHABETS

_MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0dff"
    "\u0e31-\u0e4e"
)
_UNSPACED = HAN + KANA + SPACELESS_ALPHABETS
_LETTER = rf"(?![{_UNSPACED}])(?:[^\W\d_]|[{_MARKS}])"
_UNITS = {"$": "dollars", "€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees"}
_CENTS = {"£": "pence"}
_TOKENS = re.compile(
    rf"(?P<minus>(?<!\w)[-\u2212](?=[\d$€£]))?(?P<unit>[$€£¥₹](?=\d))?"
    rf"(?P<number>\d+(?:[.,:]\d+)*)(?P<ordinal>(?:st|nd|rd|th)\b)?"
    rf"|(?P<char>[{_UNSPACED}])|(?P<word>(?:{_LETTER})+(?:['\u2019](?:{_LETTER})+)*)"
    r"|(?P<symbol>[%&@+=§°])",
    re.I,
)
_SYMBOLS = {
    "%": "percent",
    "&": "and",
    "@": "at",
    "+": "plus",
    "=": "equals",
    "§": "section",
    "°": "degrees",
}
_SHORT = {
    "dr": "doctor",
    "mr": "mister",
    "mrs": "missus",
    "ms": "miss",
    "prof": "professor",
    "vs": "versus",
    "km": "kilometers",
    "kg": "kilograms",
    "cm": "centimeters",
    "mm": "millimeters",
    "mph": "miles an hour",
    "ft": "feet",
    "lb": "pounds",
    "oz": "ounces",
    "etc": "et cetera",
    "ok": "okay",
}
# fmt: off
_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
         "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# fmt: on
_SMALL = {word: value for value, word in enumerate(_ONES)} | {
    word: value for value, word in zip(range(20, 100, 10), _TENS, strict=True)
}
_LARGE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_ORDINALS = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight"}
_ORDINALS |= {"ninth": "nine", "twelfth": "twelve"}
_ORDINALS |= {f"{word}th": word for word in ("four", "six", "seven", *_ONES[10:12], *_ONES[13:])}
_ORDINALS |= {f"{word[:-1]}ieth": word for word in _TENS} | {f"{word}th": word for word in _LARGE}


@dataclass(frozen=True, slots=True)
class Word:
    """A word to compare by, and its span in its text (code points)."""

    text: str
    start: int
    end: int


def words_of(text: str, language: str = "en") -> list[Word]:
    """The words of a text in order. Takes time linear in its length. `language` is a BCP 47 tag."""
    words = list(_tokens(text))
    if language.partition("-")[0] != "en":
        return words
    words = [_in_american(word) for word in _numbers(text, words)]
    # "three dollars and fifty cents", "a hundred and one": said or not, the number is the same.
    inside = {
        n
        for n, (before, word) in enumerate(pairwise(words), 1)
        if word.text == "and"
        and n + 1 < len(words)
        and words[n + 1].text[0].isdigit()
        and (before.text[0].isdigit() or before.text in _UNITS.values())
    }
    return [word for n, word in enumerate(words) if n not in inside]


def _tokens(text: str) -> Iterator[Word]:
    for match in _TOKENS.finditer(text):
        start, end = match.span()
        if match["symbol"]:
            yield Word(_SYMBOLS[match[0]], start, end)
        elif match["number"]:
            yield from (Word(each, start, end) for each in _written_number(match))
        else:
            yield Word(_plain(match[0]) or match[0], start, end)


def _written_number(match: re.Match[str]) -> Iterator[str]:
    if match["minus"]:
        yield "minus"
    number = re.sub(r",(?=\d{3}(?!\d))", "", match["number"]).replace(":", "").replace(",", ".")
    whole, _, rest = number.partition(".")
    if unit := match["unit"]:
        yield _number(whole)
        yield _UNITS[unit]
        if rest.rstrip("0"):
            yield _number(rest.ljust(2, "0"))
            yield _CENTS.get(unit, "cents")
        return
    if rest := rest.rstrip("0"):
        yield f"{_number(whole)}.{rest}"
    else:
        yield _number(whole) + (match["ordinal"] or "").lower()


def _number(digits: str) -> str:
    return digits.lstrip("0") or "0"


def _plain(word: str) -> str:
    """In lower case, without accents and apostrophes."""
    letters = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in letters if char.isalnum() or unicodedata.category(char) == "Mc")


def _in_american(word: Word) -> Word:
    text = _SHORT.get(word.text, word.text)
    return replace(word, text=_spelling().get(text, text))


@cache
def _spelling() -> dict[str, str]:
    """American spellings by British ones."""
    from whisper_normalizer.english import EnglishSpellingNormalizer

    found: dict[str, str] = EnglishSpellingNormalizer().mapping
    return found


def _numbers(text: str, words: Sequence[Word]) -> Iterator[Word]:
    """The same with numbers in digits. Punctuation but a hyphen ends a number."""
    run: list[Word] = []
    for word in words:
        close = run and text[run[-1].end : word.start] in (" ", "-", "")
        if not (close and _continues(run[-1].text, word.text)):
            yield from _counted(run)
            run = []
        if run or _counts(word.text) or word.text == "a" or word.text[0].isdecimal():
            run.append(word)
        else:
            yield word
    yield from _counted(run)


def _counts(word: str) -> bool:
    return word in _SMALL or word in _LARGE or word in _ORDINALS


def _continues(before: str, word: str) -> bool:
    """Whether a number goes on with this word."""
    if before in _ORDINALS:
        return False
    if before == "a" or before[0].isdecimal():
        return word in _LARGE
    if word == "and":
        return before in _LARGE
    return _counts(word) or (word == "point" and _counts(before))


def _counted(run: list[Word]) -> Iterator[Word]:
    """A run of number words as one number. What ends it without a number is left as it is."""
    tail: list[Word] = []
    while run and not (_counts(run[-1].text) or run[-1].text[0].isdecimal()):
        tail.insert(0, run.pop())
    if run:
        texts = [word.text for word in run]
        digits = texts[0] if texts[0][0].isdecimal() and not texts[1:] else _digits(texts)
        yield Word(digits, run[0].start, run[-1].end)
    yield from tail


def _digits(words: Sequence[str]) -> str:
    """ "nineteen ninety eight" is two numbers side by side, 19 and 98: together 1998."""
    done, total, current, last = "", Decimal(0), None, ""
    for word in (_ORDINALS.get(word, word) for word in words):
        if word == "and":
            continue
        if word == "point":
            done, total, current = f"{done}{_shown(total, current)}.", Decimal(0), None
        elif word in _LARGE:
            if "." in done:
                done, current = "", Decimal(done + _shown(total, current))
            grown = (Decimal(1) if current is None else current) * _LARGE[word]
            is_hundred = word == "hundred"
            total, current = (total, grown) if is_hundred else (total + grown, Decimal(0))
        else:
            value = Decimal(1) if word == "a" else Decimal(_SMALL.get(word, word))
            if not (current is None or last in _LARGE or (last in _TENS and value < 10)):
                done, total, current = done + _shown(total, current), Decimal(0), None
            current = (current or Decimal(0)) + value
        last = word
    digits = done + _shown(total, current)
    return digits + _suffix(digits) if words[-1] in _ORDINALS else digits


def _shown(total: Decimal, current: Decimal | None) -> str:
    value = total + (current or Decimal(0))
    return f"{value.normalize():f}" if total or current is not None else ""


def _suffix(digits: str) -> str:
    if digits[-2:-1] == "1":
        return "th"
    return {"1": "st", "2": "nd", "3": "rd"}.get(digits[-1], "th")
