"""Where a text may be cut: sentence ends first, then clause ends, then word ends.

Spans are (start, end) into the text that was given; together they cover it but for white space at
their edges. Bracketed tags such as `[laughs]` are never cut.
"""

import re
import unicodedata
from itertools import pairwise

import sentencex

Span = tuple[int, int]
LONG_SENTENCE = 300
MOST_QUOTES = 5_000

# Where sentencex (1.0.32) sees an end that is none: a numbered thing, a French title, an initial.
_NO_END = re.compile(
    r"(?:\b(?:Vol|Vols|No|Nos|Nr|Fig|Figs|Ch|Chap|Sec|Art|Eq|Pt|p|pp|vol|no|fig|ch|sec|art|eq)\. ?"
    r"(?=\Z)|(?:^|[ (])(?:M|MM|Mme|Mlle|Mgr|St|Ste|Srta?|Sra|Dra|[Ss]ig|Hr|Fr|bzw|EE|Apt)\.\s*\Z)"
)
# Where it sees none although there is one: `etc.` or a closed bracket before a new beginning.
_MISSED_END = re.compile(r"(?:\betc\.|[.!?][)\]\"'])(?= +[\"'(\[]?[A-Z])")
_ORDINAL = re.compile(r"\b\d{1,2}\.\s*\Z")
_MONTH = re.compile("Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember")
_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[IVXLCivxlc]{1,5})[.)]")
_FALLBACK = re.compile(r"[.!?]+[\"')\]]*(?= |\Z)")


def sentences(text: str) -> list[Span]:
    """The sentences of a text whose spaces are plain (`speech.symbols.normalise`)."""
    spans: list[Span] = []
    for start, end in _finer(text, _boundaries(text)):
        joined = bool(spans) and _joins(text[spans[-1][0] : spans[-1][1]], text[start:end])
        if joined:
            start = spans.pop()[0]
        spans.append((start, end))
    cut = [part for span in spans for part in _cut(text, span, _MISSED_END)]
    return [span for span in (_stripped(text, *span) for span in cut) if span[0] < span[1]]


def _boundaries(text: str) -> list[Span]:
    try:
        found = sentencex.get_sentence_boundaries("en", _few_quotes(text))
    except BaseException as error:
        # A Rust panic is no `Exception`; it must not end the worker over one odd text.
        if type(error).__name__ != "PanicException":
            raise
        return _cut(text, (0, len(text)), _FALLBACK)
    return [(item["start_index"], item["end_index"]) for item in found]


_MARKS = str.maketrans(dict.fromkeys('"()[]', " "))


def _few_quotes(text: str) -> str:
    """sentencex looks for each quote's other half as far as the end: too many take minutes."""
    return text.replace("'", " ") if text.count("'") > MOST_QUOTES else text


def _finer(text: str, spans: list[Span]) -> list[Span]:
    """sentencex keeps a quotation whole; a long one is many sentences of its own."""
    found: list[Span] = []
    for start, end in spans:
        if end - start <= LONG_SENTENCE:
            found.append((start, end))
            continue
        for first, last in _boundaries(text[start:end].translate(_MARKS)):
            first, last = start + first, start + last
            while (
                found and first > start + 1 and text[first - 1] in '"([' and text[first - 2] == " "
            ):
                first -= 1  # an opening mark belongs to what it opens
                found[-1] = (found[-1][0], first)
            found.append((first, last))
    return found


def _joins(before: str, after: str) -> bool:
    if not any(char.isalnum() for char in after) and "\n" not in before:
        return True
    if _ORDINAL.search(before[-4:]) and _MONTH.match(after):
        return True
    if _NUMBER.fullmatch(before.strip()):
        return True
    return bool(_NO_END.search(before[-12:])) and (after[:1].isdigit() or after[:1].isupper())


def _cut(text: str, span: Span, pattern: re.Pattern[str]) -> list[Span]:
    start, end = span
    ends = [match.end() for match in pattern.finditer(text, start, end)]
    points = [start, *(point for point in ends if start < point < end), end]
    return list(pairwise(points))


def _stripped(text: str, start: int, end: int) -> Span:
    words = text[start:end]
    return end - len(words.lstrip()), start + len(words.rstrip())


_TAG = re.compile(r"\[[^\[\]\n]{1,60}\]")
_CLAUSE_ENDS = (
    re.compile(r"[;:](?= |\Z)|[.!?]+[\"')\]]*(?= |\Z)"),
    re.compile(r",(?= |\Z)|[)\]](?= )"),
    re.compile(r" (?=(?:and|or|but|nor|so|yet|because|which|that|while|when|where|who)\b)"),
    re.compile(r" +"),
)


def split_long(text: str, span: Span, limit: int) -> list[Span]:
    """Cuts a span into parts of at most `limit` characters, at the best place that each part has.

    The last place of the best kind within the limit wins, but a part is at least half full unless
    there is no other way. A word longer than the limit is cut between characters.
    """
    parts: list[Span] = []
    start, end = span
    while end - start > limit:
        point = _cut_point(text, start, limit)
        parts.append(_stripped(text, start, point))
        start = point + len(text[point:end]) - len(text[point:end].lstrip())
    return [part for part in (*parts, (start, end)) if part[0] < part[1]]


def _cut_point(text: str, start: int, limit: int) -> int:
    window = text[start : start + limit + 1]
    tags = [tag.span() for tag in _TAG.finditer(text, start, min(len(text), start + limit + 62))]

    def allowed(point: int) -> bool:
        return not any(first < point < last for first, last in tags)

    for least in (limit // 2, 1):
        for pattern in _CLAUSE_ENDS:
            points = [start + match.end() for match in pattern.finditer(window)]
            points = [p for p in points if start + least <= p <= start + limit and allowed(p)]
            if points:
                return points[-1]
    for point in range(start + limit, start + limit // 2, -1):
        if unicodedata.category(text[point])[0] != "M" and allowed(point):
            return point
    return start + limit
