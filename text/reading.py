"""Text normalisation: from the caller's text to passages that are spoken.

`read` runs the cleaning steps (spaces, tags, markup, symbols, pronunciations). Then it cuts the
text at pauses, paragraphs and speaker changes into `Passage`s. Their characters keep their offsets
in the source. The order of the steps matters: each relies on those before it. Chunk sizes play no
part.

Limits: links, e-mail addresses and money are read in English. Numbers are left to the voice.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from request.errors import RequestError
from request.values import MAX_SPEAKERS
from text.aligned import AlignedText, Pieces
from text.cleaning.layout import join_lines
from text.cleaning.links import speak_links
from text.cleaning.markup import strip_markdown
from text.cleaning.symbols import (
    decode_escapes,
    neutralise,
    normalise,
    plain_letters,
    plain_symbols,
)
from text.cleaning.tags import strip_tags, unescape, unescape_document
from text.cleaning.unspoken import (
    leave_out,
    strip_colours,
    strip_drawings,
    strip_page_numbers,
    strip_subtitle_times,
)
from text.labels import SPEAKER, take_labels, take_tags
from text.pauses import MAX_PAUSE_MS, PARAGRAPH, PAUSE, take_pauses
from text.sentences import glued_ends
from text.writing_systems import UNSPACED


class Passage(NamedTuple):
    """Text of one speaker without a forced break inside.

    `speaker` is an index into `Reading.speakers`. `start` is its offset in the source, where its
    speaker's label begins if it has one. `pause_ms` is the requested silence after it, or None.
    `ends_paragraph`: a paragraph ends here.
    """

    text: AlignedText
    speaker: int
    start: int
    pause_ms: int | None = None
    ends_paragraph: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A cleaned text. `speakers` are a script's own speaker numbers in order of appearance, or
    empty without labels. `lead_ms` is the requested silence before the first word."""

    passages: tuple[Passage, ...]
    speakers: tuple[int, ...]
    lead_ms: int
    warnings: tuple[str, ...]


def most_spoken(written: int) -> int:
    """The most characters that a text of `written` characters may be read as.

    Symbols and respellings are read as words: `\u2079` as "to the power of 9". Without a bound,
    respellings of 100 characters made a text fifty times longer.
    """
    return 4 * written + 4_000


def read(
    source: str,
    pronunciations: Mapping[str, str] | None = None,
    most: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Reading:
    """Cleans `source` and cuts it into passages.

    `pronunciations` maps words to respellings. A text without a word has no passages; its `lead_ms`
    is then the whole answer. `check` is called between steps, and may raise to end the work. Raises
    `RequestError` if a script has more than `MAX_SPEAKERS` speakers, or if more than `most`
    characters would be spoken (default: `most_spoken`).
    """
    most = most_spoken(len(source)) if most is None else most
    text, pauses, labels, warnings = _clean(source, check)
    if len(text) > most:
        raise _too_long("is read as", most, "text")
    text = join_lines(text)
    check()
    text = _pronounce(text, pronunciations or {}, most)
    check()
    text = neutralise(text)
    return _cut(text, pauses, labels, warnings)


def _too_long(verb: str, most: int, field: str) -> RequestError:
    problem = f"{verb} more than {most} characters"
    allowed = "what is spoken has up to 4 times the characters of the text, and 4000 more"
    return RequestError(problem, field, code="string_above_max_length", allowed=allowed)


def _clean(
    source: str, check: Callable[[], None]
) -> tuple[AlignedText, dict[int, int], dict[int, int], list[str]]:
    """The text with marks for pauses and labels, their values by offsets, and warnings."""
    text = decode_escapes(strip_colours(AlignedText(source)))
    text = unescape_document(normalise(text))
    text, left_out = leave_out(text)
    for step in (strip_subtitle_times, strip_page_numbers, strip_drawings):
        check()
        text = step(text)
    text, pauses = take_pauses(text)
    text, tagged = take_tags(text)
    check()
    text = plain_letters(unescape(strip_tags(text)))
    check()
    text, warnings = strip_markdown(text)
    text, labels, misread = take_labels(text, tagged)
    check()
    text = speak_links(text)
    text = text.replaced(((end, end) for end in glued_ends(text.text)), " ")
    check()
    text = plain_symbols(text)
    return neutralise(text), pauses, labels, [*left_out, *warnings, *misread]


def _pronounce(text: AlignedText, pronunciations: Mapping[str, str], most: int) -> AlignedText:
    """Replaces whole words, longest first. A lower-case word matches any case, others exactly.

    Raises `RequestError` as soon as the text has more than `most` characters.
    """
    spoken = {word: respelling for word, respelling in pronunciations.items() if word.strip()}
    if not spoken:
        return text
    exact = {_as_written(word): _as_spoken(spoken[word]) for word in spoken}
    starts: dict[str, list[tuple[str, str]]] = {}
    for word in filter(None, exact):
        before = "" if UNSPACED.match(word) else r"(?<!\w)"
        after = "" if UNSPACED.match(word[-1]) else r"(?!\w)"
        rest = "".join(char.lower() if len(char.lower()) == 1 else char for char in word[1:])
        starts.setdefault(before + re.escape(word[0].lower()), []).append((rest, after))
    if not starts:
        return text
    finder = re.compile("|".join(at + _any_of(ends) for at, ends in starts.items()), re.I)

    size = len(text)

    def said(match: re.Match[str]) -> Pieces | None:
        nonlocal size
        found = exact.get(match[0], exact.get(match[0].lower()))
        if found is None:
            return None
        size += len(found) - len(match[0])
        if size > most:
            raise _too_long("make the text", most, "pronunciations")
        return (found,)

    return text.sub(finder, said)


def _any_of(ends: Sequence[tuple[str, str]]) -> str:
    """A pattern for any of the words, the longest first. Each comes with what must follow it.

    What words share is read once. Else 500 words of 100 equal characters would cost 50,000 steps at
    each character of such a text.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for rest, after in ends:
        groups.setdefault(rest[:1], []).append((rest, after))
    last = [after for _, after in groups.pop("", [])]
    found: list[str] = []
    for members in groups.values():
        shared = os.path.commonprefix([rest for rest, _ in members])  # noqa: RUF071 - of characters
        further = [(rest[len(shared) :], after) for rest, after in members]
        found.append(re.escape(shared) + _any_of(further))
    return f"(?:{'|'.join([*found, *last])})"


def _as_written(word: str) -> str:
    return plain_symbols(normalise(AlignedText(word))).text.strip()


def _as_spoken(respelling: str) -> str:
    return neutralise(normalise(AlignedText(respelling))).text.replace("\n", " ").strip()


_SILENCE_MS = 300
"""The silence that answers a text without a word, in ms. It is no error: reading apps send a page
sentence by sentence and stop at an error; Home Assistant tests a key with a full stop."""
# Punctuation that a pause or a label separated from the words before.
_LOOSE = re.compile(r"(?:[ ,;:!?]|\.(?= ))*")
_MARKS = re.compile(f"[{PAUSE}{PARAGRAPH}{SPEAKER}]")


_SPEAKABLE = re.compile(r"[^\W_]")


def speakable(text: str, start: int = 0, end: int = sys.maxsize) -> bool:
    """Whether the text has a letter or digit from `start` to `end`."""
    return _SPEAKABLE.search(text, start, end) is not None


def _cut(
    text: AlignedText, pauses: dict[int, int], labels: dict[int, int], warnings: list[str]
) -> Reading:
    cutter = _Cutter(text, next(iter(labels.values()), 0))
    begin = 0
    for mark in _MARKS.finditer(text.text):
        is_new = cutter.add(begin, mark.start(), mark[0] == PARAGRAPH)
        begin = mark.end()
        origin = text.at[mark.start()]
        if mark[0] == SPEAKER:
            cutter.change_speaker(labels[origin], origin)
        elif mark[0] == PAUSE:
            cutter.pause(pauses[origin])
        elif not is_new:
            cutter.end_paragraph()
    cutter.add(begin, len(text))
    if not cutter.passages:
        cutter.lead_ms = cutter.lead_ms or _SILENCE_MS
        warnings = [*warnings, "text: holds nothing that can be spoken, so the answer is silent"]
    if len(cutter.numbers) > MAX_SPEAKERS:
        problem = f"has lines of {len(cutter.numbers)} speakers"
        raise RequestError(problem, "text", allowed=f"at most {MAX_SPEAKERS}")
    speakers = tuple(cutter.numbers) if labels else ()
    return Reading(tuple(cutter.passages), speakers, cutter.lead_ms, tuple(warnings))


class _Cutter:
    """Builds passages from the text and its marks, in order."""

    def __init__(self, text: AlignedText, number: int) -> None:
        self.text = text
        self.number = number
        self.numbers: list[int] = []
        self.passages: list[Passage] = []
        self.lead_ms = 0
        self.label_start: int | None = None

    def add(self, first: int, last: int, ends_paragraph: bool = False) -> bool:
        """Adds the span as a passage. False if it has nothing to say."""
        words = self.text.text
        if not speakable(words, first, last):
            return False
        if loose := _LOOSE.match(words, first, last):
            first = loose.end()
        while words[last - 1] == " ":
            last -= 1
        if self.number not in self.numbers:
            self.numbers.append(self.number)
        start = self.text.at[first] if self.label_start is None else self.label_start
        speaker = self.numbers.index(self.number)
        text = self.text[first:last]
        self.passages.append(Passage(text, speaker, start, ends_paragraph=ends_paragraph))
        self.label_start = None
        return True

    def change_speaker(self, number: int, label_start: int) -> None:
        """Following passages are of this speaker; the label is at this offset in the source."""
        self.number, self.label_start = number, label_start
        if self.passages:
            # Empty lines between turns of a script are no paragraph ends.
            self.passages[-1] = self.passages[-1]._replace(ends_paragraph=False)

    def pause(self, length_ms: int) -> None:
        """Adds silence after the last passage, or before the first."""
        if not self.passages:
            self.lead_ms = min(self.lead_ms + length_ms, MAX_PAUSE_MS)
            return
        last = self.passages[-1]
        length_ms = min((last.pause_ms or 0) + length_ms, MAX_PAUSE_MS)
        self.passages[-1] = last._replace(pause_ms=length_ms)

    def end_paragraph(self) -> None:
        if self.passages:
            self.passages[-1] = self.passages[-1]._replace(ends_paragraph=True)
