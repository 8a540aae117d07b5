"""Speakers' labels of many spellings, as `Speaker 1:` at the start of a line.

What is not sure to be a label stays as it is: one line alone, footnotes, prose.
"""

import re

from speech.traced import Pieces, Traced

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS, 1)}
_NUMBER = rf"(?:\d{{1,3}}|{'|'.join(_WORDS)})"
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?"
_STAMP = rf"(?:[\[(] ?{_TIME}(?: ?-{{1,2}}>? ?{_TIME})? ?[\])]|{_TIME})"
_START = rf"^(?P<before>[ \t>*_]{{0,6}})(?:{_STAMP} ?[-\u2013\u2014|]? ?)?"
_END = r"(?P<marks>[*_]{0,3})"
_NAME = rf"speaker[ _#-]{{0,2}}(?P<number>{_NUMBER})"

# With a colon, or in brackets: a label wherever a line begins with it.
_SURE = re.compile(
    rf"{_START}(?:\[ ?{_NAME} ?\]|\( ?{_NAME.replace('number', 'number2')} ?\)|"
    rf"{_NAME.replace('number', 'number3')})(?: ?{_STAMP})?{_END} ?(?::|\uff1a)",
    re.I | re.M,
)
# Alone on its line, behind it or before it a time: as transcripts have them.
_STAMPED = re.compile(rf"{_START}{_NAME} {{1,3}}{_STAMP}{_END} *$", re.I | re.M)
# These could be prose: two lines or more begin so.
_DASHED = re.compile(rf"{_START}{_NAME}{_END} ?[-\u2013\u2014] (?=\S)", re.I | re.M)
_BRACKETED = re.compile(
    r"^(?P<before>[ \t]{0,6})\[(?P<number>\d{1,2})\](?P<marks>):"
    r"(?! ?<?(?:https?:|www\.|\S{1,80}\.\w{2,4}/)) ?",
    re.M,
)
_NOTE_REFERENCE = re.compile(r"(?<=[\w.,;:!?)\"'\u201d])\[\d{1,3}\](?!:)")
_TAG = re.compile(
    r"</?(?:person|speaker)(?:[ _#-]?|\s{1,3}(?:id|n|no|name|number)=[\"']?(?:speaker[ _]?)?)"
    r"(?P<number>\d{1,2})[\"']?\s{0,3}>|</(?:person|speaker)>",
    re.I,
)
_INLINE = re.compile(
    r"(?<=[.!?\u2026\"')\u201d])(?<!\b\d\.)(?<!\b\d\d\.) {1,3}"
    rf"(?=speaker[ _#-]{{0,2}}{_NUMBER} ?:)",
    re.I,
)
_FIRST = re.compile(rf"^speaker {_NUMBER}:", re.I | re.M)
_NAMED = re.compile(
    r"^ {0,3}([^\W\d_][\w.'-]{0,20}(?: [^\W\d_][\w.'-]{0,20}){0,2}) ?: (?=\S)", re.M
)


def plain_labels(text: Traced) -> Traced:
    """Writes every label as `Speaker N:` at a line's start."""
    has_speakers = re.search(r"speaker|person", text.text, re.I)
    if has_speakers:
        text = text.sub(_SURE, _plain)
        text = text.sub(_STAMPED, _plain)
        text = _where_two(text, _DASHED)
        text = _tags(text)
        if _FIRST.search(text.text):
            text = text.sub(_INLINE, ("\n",))
    if "]:" in text.text and not _NOTE_REFERENCE.search(text.text):
        text = _where_two(text, _BRACKETED)
    return text


def warn_of_names(text: str) -> list[str]:
    """A warning where lines begin with names, which nobody can tell from words."""
    lines = sum(1 for line in text.splitlines() if line.strip())
    names = [match[1] for match in _NAMED.finditer(text)]
    if len(names) >= 3 and 2 * len(names) >= lines and 2 <= len(set(names)) <= len(names) - 1:
        return [
            "text: lines begin with names, which are read aloud; write `Speaker 1:`, `Speaker 2:` "
            "to give each a voice"
        ]
    return []


def _number(match: re.Match[str]) -> str:
    found = next(value for name, value in match.groupdict().items() if value and "number" in name)
    return _NUMBERS.get(found.lower(), found)


def _plain(match: re.Match[str]) -> Pieces:
    before, marks = match.span("before"), match.span("marks")
    space = " " if match[0].endswith(" ") else ""
    return (slice(*before), f"Speaker {_number(match)}:", slice(*marks), space)


def _where_two(text: Traced, pattern: re.Pattern[str]) -> Traced:
    if len({_number(match) for match in pattern.finditer(text.text)}) < 2:
        return text
    return text.sub(pattern, _plain)


def _tags(text: Traced) -> Traced:
    if len({match["number"] for match in _TAG.finditer(text.text) if match["number"]}) < 2:
        return text

    def label(match: re.Match[str]) -> Pieces:
        is_end = match[0].startswith("</")
        return ("\n",) if is_end else (f"\nSpeaker {match['number']}: ",)

    return text.sub(_TAG, label)
