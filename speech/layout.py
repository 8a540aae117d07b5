"""Line ends: which of them end a paragraph or a sentence, and which only keep lines short."""

import re
from collections.abc import Iterator
from itertools import pairwise

from speech.pauses import PARAGRAPH
from speech.traced import Pieces, Traced

_BREAK = re.compile(r" *\n[ \n]*")
_EMPTY_LINES = re.compile(r"\n[ \n]*\n")
_SHORT_LINE = 60
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WIDE_HEADING = 20
# Margins that people wrap text at, in characters; two lines alone show less than many.
_NARROWEST, _NARROWEST_PAIR, _WIDEST = 40, 45, 100


def join_lines(text: Traced) -> Traced:
    """An empty line becomes `PARAGRAPH`. Another line end becomes a space, or a full stop after a
    line that is short and unpunctuated: a heading, a verse, an item of a list."""
    wrapped = set(_wrapped(text.text))

    def line_break(match: re.Match[str]) -> Pieces:
        if match[0].count("\n") > 1:
            return (PARAGRAPH,)
        whole, (start, end) = match.string, match.span()
        before, after = whole[start - 1 : start], whole[end : end + 1]
        line = whole[whole.rfind("\n", 0, start) + 1 : start]
        if _WIDE.match(before) and _WIDE.match(after) and len(line) >= _WIDE_HEADING:
            return ()
        if before == "-" and whole[start - 2 : start - 1].isalpha() and after.islower():
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
    """Where the lines of a hard-wrapped paragraph end: at each, the next word had no room."""
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
