"""Line ends: which end a paragraph, which end a sentence, and which only wrap a line."""

import re
from collections.abc import Iterator
from itertools import pairwise

from text.aligned import AlignedText, Pieces
from text.pauses import PARAGRAPH
from text.writing_systems import HAN, KANA

_BREAK = re.compile(r" *\n[ \n]*")
_EMPTY_LINES = re.compile(r"\n[ \n]*\n")
_SHORT_LINE = 60
_WIDE = re.compile(f"[{HAN}{KANA}]")
_WIDE_HEADING = 20
# Widths in characters at which text is wrapped. Two lines are weaker evidence than more lines.
_NARROWEST, _NARROWEST_PAIR, _WIDEST = 40, 45, 100


_HYPHEN = re.compile(
    r"(?<![\w-])([^\W\d_]{1,40})-(?:( ?\n[ \n]{0,4})| )"
    r"(?=([a-z\u00df-\u00f6\u00f8-\u00ff\u0430-\u045f]{1,40}))"
)
# Mostly the first part of a compound, unless a suffix follows (north-ern).
_PREFIXES = re.compile(
    "self|well|half|cross|real|wide|high|low|long|short|ill|far|ever|first|second|third|all|good|"
    "hard|deep|full|part|one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|"
    "forty|fifty|sixty|seventy|eighty|ninety|mid|north|south|east|west|mother|father|"
    "brother|sister|anti|vice|celui|celle|ceux|celles"
)
_SUFFIXES = re.compile(
    "er|ers|ern|erly|est|ly|ness|ish|ages?|ther|dle|der|ty|less|wares?|ing|ed|en|ment|wards?|able|y|al|"
    r"it(?:y|ies)|i[sz](?:e[ds]?|ing|ms?|ts?|tic|ation)"
)
# Mostly the last part of a compound: evidence-based, decision-making.
_LAST_PARTS = re.compile(
    "based|driven|making|called|related|friendly|oriented|specific|minded|owned|known|term|level|scale"
)
_NO_FIRST_PARTS = re.compile("un|re|de|in|over|cor|inter")
_PRONOUNS = re.compile("mêmes?|être|là|elles?|nous|vous|moi|toi")  # peut-être, lui-même
# Words that often follow a dash: `I like it- really`.
_WORDS = re.compile(
    "a|the|then|he|she|it|we|you|they|that|which|who|not|no|so|as|in|on|at|for|with|from|if|"
    "when|is|was|are|were|his|her|this|there|really|just|even|but|than|well|what|why|i|u|ili|то|либо"
)
# A suspended hyphen stands before these: nineteen- and twentieth-century.
_SUSPENDED = re.compile("and|or|to|nor|und|oder|bis|et|ou|y|e|o|en|of|og|och|и|или")


def join_words(text: AlignedText) -> AlignedText:
    """Undoes hyphenation: `re-` at a line's end, and `citi- zens` as OCR leaves it.

    A single hyphen may belong to a compound. So it is removed only if the text has several, or has
    the whole word elsewhere.
    """
    hyphens = list(_HYPHEN.finditer(text.text))
    if not hyphens:
        return text
    # Dashes without a space before: `I was- well, you know- tired`.
    spaced = [
        bool(_WORDS.fullmatch(hyphen[3]))
        for hyphen in hyphens
        if not (hyphen[2] or _PREFIXES.fullmatch(hyphen[1].lower()))
    ]
    has_dashes = 0 < len(spaced) <= 2 * sum(spaced)
    words = set(re.findall(r"[\w-]{2,80}", text.text.lower()))

    def hyphen(match: re.Match[str]) -> Pieces | None:
        first, last = match[1].lower(), match[3].lower()
        if (match[2] or "").count("\n") > 1 and _WORDS.fullmatch(last):
            return None  # interrupted speech
        if _SUSPENDED.fullmatch(last):
            return (1, "- ") if match[2] else None
        is_compound = (
            len(first) == 1  # e-mail, T-shirt: hyphenation never cuts after one letter
            or (_PREFIXES.fullmatch(first) and not _SUFFIXES.fullmatch(last))
            or (_LAST_PARTS.fullmatch(last) and not _NO_FIRST_PARTS.fullmatch(first))
            or (_PRONOUNS if match[2] else _WORDS).fullmatch(last)
            or f"{first}-{last}" in words
        )
        is_known = first + last in words
        is_dash = has_dashes and not match[2] and not is_known
        if not (is_compound or is_dash) and (len(hyphens) > 1 or is_known):
            return (1,)
        return (1, "-") if match[2] else None

    return text.sub(_HYPHEN, hyphen)


def join_lines(text: AlignedText) -> AlignedText:
    """Replaces line ends, after `join_words`.

    An empty line becomes `PARAGRAPH`. Another line end becomes a space. After a short line without
    punctuation (a heading, a verse, a list item) it becomes a full stop.
    """
    text = join_words(text)
    wrapped = set(_wrapped(text.text))

    def line_break(match: re.Match[str]) -> Pieces:
        if match[0].count("\n") > 1:
            return (PARAGRAPH,)
        whole, (start, end) = match.string, match.span()
        before, after = whole[start - 1 : start], whole[end : end + 1]
        line = whole[whole.rfind("\n", 0, start) + 1 : start]
        if _WIDE.match(before) and _WIDE.match(after) and len(line) >= _WIDE_HEADING:
            return ()
        if before == "-" and whole[start - 2 : start - 1].isalnum() and after.isalpha():
            return ()  # a compound that was cut at its hyphen
        is_sentence = (
            len(line) <= _SHORT_LINE
            and line.rstrip("\"')]*_ ")[-1:].isalnum()
            and not after.islower()
            and whole.index("\n", start) not in wrapped
            and not match[0].endswith(" ")  # an indented line goes on from the one before
        )
        return (". ",) if is_sentence else (" ",)

    return text.sub(_BREAK, line_break)


def _wrapped(text: str) -> Iterator[int]:
    """The line ends of hard-wrapped paragraphs: the next word would not fit into each line."""
    gaps = [(0, 0), *(gap.span() for gap in _EMPTY_LINES.finditer(text)), (len(text), len(text))]
    for (_, start), (end, _) in pairwise(gaps):
        lines = text[start:end].split("\n")
        margin = max(map(len, lines))
        narrowest = _NARROWEST if len(lines) > 2 else _NARROWEST_PAIR
        if len(lines) < 2 or not narrowest <= margin <= _WIDEST:
            continue
        full = [
            len(line.strip()) + 1 + len(following.split(" ", 1)[0]) > margin
            for line, following in pairwise(lines)
        ]
        if not all(full[1:]):  # the first line may be a heading
            continue
        for line, is_full in zip(lines, [*full, False], strict=True):
            start += len(line)
            if is_full:
                yield start
            start += 1
