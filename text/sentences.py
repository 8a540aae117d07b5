"""Sentence segmentation: where a text may be cut. Sentence ends first, then clauses, then words.

Spans are (start, end) offsets into the given text. Together they cover it, except white space
between them. A tag in brackets, such as `[laughs]`, is never cut. Sizes are in letters
(`text.writing_systems.letters`).
"""

import re
from bisect import bisect_right
from collections.abc import Iterator

import sentencex

from text.abbreviations import leads_on
from text.writing_systems import SYLLABLE_LETTERS, is_inside_letter, running_letters

Span = tuple[int, int]
LONG_SENTENCE = 300

_CLOSED = r"[.!?\u2026][\"'\u201d\u2019\u00bb)\]]{1,2}"
# Ends that sentencex misses: `etc.`, or punctuation with a closing mark, before a capital.
_MISSED_END = re.compile(rf"(?:\betc\.|{_CLOSED})(?= +[\"'\u201c\u2018(\[]?[A-Z])")
# An end without a space after it: `left.She`.
_GLUED = re.compile(
    r"[.!?\u2026][\u201d)]?(?=([^\W\d_]{1,40})(?:['\u2019-][^\W\d_]{1,20}){0,2}"
    r"[.,;:!?\u2026\"'\u201d\u2019)]{0,3}(?:\s|\Z))"
)
_LAST_WORD = re.compile(r"(?:^|(?<=[\s\"'\u201c\u2018(\[]))([^\W_]{2,40})[\"'\u201d\u2019)]?\Z")
_NAMES = re.compile("com|org|net|edu|gov|info|biz|io|ai|dev|app|js|ts|py|md", re.I)
_STARTERS = re.compile(
    "The|She|He|It|I|We|They|You|This|That|These|Those|There|But|And|So|In|On|At|If|When|While|What|"
    "Then|No|Yes|A|An|My|His|Her|Our|Their|Your|Why|How|Who|Where|As|For|After|Before|Or|Not|Now|"
    "Once|Here|Please|Some|All"
)
_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[IVXLCivxlc]{1,5})[.)]")
_FALLBACK = re.compile(r"[.!?]+[\"')\]]*(?= |\Z)")


_MARK = re.compile(r"[^\w ,'-]")


def sentences(text: str) -> list[Span]:
    """The sentences of a text that went through `text.cleaning.symbols.normalise`."""
    if not _MARK.search(text):
        start, end = _stripped(text, 0, len(text))
        return [(start, end)] if start < end else []
    spans: list[Span] = []
    glued = set(glued_ends(text))
    missed = {match.end() for match in _MISSED_END.finditer(text)}
    for span in _cut_at(_finer(text, _boundaries(text)), sorted(glued | missed)):
        start, end = _stripped(text, *span)
        if start >= end:
            continue
        if spans and spans[-1][1] not in glued and _joins(text, spans[-1], (start, end)):
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


def glued_ends(text: str) -> Iterator[int]:
    """Offsets where a sentence ends without a space: `left.She`. Not in `System.Out`, `e.g.The` or
    `Example.com`."""
    for mark in _GLUED.finditer(text):
        after, start = mark[1], mark.start()
        before = _LAST_WORD.search(text[max(0, start - 42) : start]) if after[0].isupper() else None
        if not before or _NAMES.fullmatch(after):
            continue
        if before[1].islower() or _STARTERS.fullmatch(after) or mark[0][0] in "!?":
            yield mark.end()


def is_settled(before: str, after: str) -> bool:
    """Whether the end between `before` and `after` stays one, whatever text follows `after`."""
    if not _WHOLE_WORD.search(after):
        return False
    return not (_QUOTED.search(before[-3:]) and _MAYBE_SPEAKER.fullmatch(after))


_WHOLE_WORD = re.compile(r"\w\W")


# sentencex searches for each closing quote up to the text's end, which is quadratic: 1,000,000
# characters of `?"` took minutes. So it gets windows of this many characters.
_WINDOW, _OVERLAP = 2_000, 100


def _boundaries(text: str) -> Iterator[Span]:
    """The sentences that sentencex finds. A sentence cut by a window begins the next window."""
    begin = start = 0
    while start < len(text):
        ends = _ends_in(text[start : start + _WINDOW])
        is_last = start + _WINDOW >= len(text)
        if not is_last:
            del ends[-1:]
        for end in ends:
            yield begin, start + end
            begin = start + end
        if is_last:
            return
        start = begin if ends else _word_start(text, start + _WINDOW - _OVERLAP)


def _word_start(text: str, point: int) -> int:
    return text.rfind(" ", point - _OVERLAP, point) + 1 or point


def _ends_in(text: str) -> list[int]:
    try:
        found = sentencex.get_sentence_boundaries("en", text)
    except BaseException as error:
        # A Rust panic is no `Exception`. It must not end the worker.
        if type(error).__name__ != "PanicException":
            raise
        ends = [match.end() for match in _FALLBACK.finditer(text)]
        return [*(end for end in ends if end < len(text)), len(text)]
    return [item["end_index"] for item in found]


_MARKS = str.maketrans(dict.fromkeys('"()[]', " "))


def _finer(text: str, spans: Iterator[Span]) -> list[Span]:
    """Cuts long quotations into their sentences; sentencex keeps a quotation whole."""
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
                first -= 1  # an opening mark belongs to the text after it
                found[-1] = (found[-1][0], first)
            found.append((first, last))
    return found


def _cut_at(spans: list[Span], ends: list[int]) -> Iterator[Span]:
    """Cuts the spans at the given offsets."""
    points = iter(ends)
    point = next(points, None)
    for start, end in spans:
        while point is not None and point < end:
            if start < point:
                yield start, point
                start = point
            point = next(points, None)
        yield start, end


_SAYS = (
    "said|says|asked|asks|replied|replies|answered|answers|cried|cries|called|shouted|yelled|"
    "screamed|whispered|murmured|muttered|mumbled|growled|snapped|sighed|gasped|exclaimed|"
    "demanded|wondered|inquired|enquired|added|insisted|agreed|protested|continued|repeated|"
    "began|remarked|observed|thought|told|declared|responded|interrupted|begged|pleaded|warned|"
    "laughed|sobbed|hissed|barked|bellowed|roared|breathed|stammered|grumbled|chuckled|"
    "wanted to know|went on|joked|teased|suggested|offered|admitted|concluded|announced"
)
_PRONOUN = "He|She|They|We|It|You|The|This|That|There|Then|And|But|So|Yes|No|Who|Nobody|Everyone"
_NAME = r"(?:I|[A-Z\u00c0-\u00de][\w'\u2019-]{1,30}\.?)"
_SPEAKER = rf"(?!(?:{_PRONOUN})\b){_NAME}(?: {_NAME}){{0,3}}"
_QUOTED = re.compile(rf"{_CLOSED}\s?\Z")
_SAID = re.compile(rf"{_SPEAKER} (?:[a-z]{{2,20}}ly )?(?:{_SAYS})\b")
_BEGINS_SMALL = re.compile(r"[^\w]{0,3}[a-z\u00df-\u00ff\u0430-\u044f]")
_MAYBE_SPEAKER = re.compile(rf"{_SPEAKER}(?: [a-z]{{2,20}}ly)? ?(?:[a-z]{{1,20}}|wanted[a-z ]*)?")


def _joins(text: str, before: Span, after: Span) -> bool:
    """Whether adjacent spans are one sentence: `approx. 5 km`, `"What?" Tom asked.`"""
    tail = text[max(before[0], before[1] - 40) : before[1]]  # `before` may be long
    first, last = text[after[0]], tail[-1]
    if not first.isalnum() and not any(map(str.isalnum, text[slice(*after)])):
        return "\n" not in tail
    if before[1] == after[0] and last == "." and first.isalnum():
        return True  # no space and no glued end: `System.Out`
    if last in ".)" and before[1] - before[0] < 8 and _NUMBER.fullmatch(tail):
        return True
    if first.islower() and last in "!?" and not _BEGINS_SMALL.match(text, before[0]):
        return True  # `Yahoo! is a firm`, `¿Y tú? dijo él`, but not a text without capitals
    if last == ".":
        return leads_on(tail, text[after[0] : after[1]][:160])
    return bool(_QUOTED.search(tail[-3:]) and _SAID.match(text, after[0], after[1]))


def _stripped(text: str, start: int, end: int) -> Span:
    while start < end and text[end - 1].isspace():
        end -= 1
    while start < end and text[start].isspace():
        start += 1
    return start, end


_TAG = re.compile(r"\[[^\[\]\n]{1,60}\]")
_CLAUSE_ENDS = (
    re.compile(r"[;:](?= |\Z)|[.!?\u2026]+[\"')\]]*(?= |\Z)|[\u3002\uff01\uff1f\uff1b\uff1a]+"),
    re.compile(r",(?= |\Z)|[)\]](?= )|[\uff0c\u3001]"),
    re.compile(r" (?=(?:and|or|but|nor|so|yet|because|which|that|while|when|where|who)\b)"),
    re.compile(r" +"),
)


def split_long(text: str, span: Span, limit: int) -> list[Span]:
    """Cuts a span into parts of at most `limit` letters.

    Each cut is at the last place of the best kind: sentence, clause, conjunction, word. A part has
    at least half of `limit` where such a place allows. A longer word is cut between characters.
    """
    (start, end), first = span, span[0]
    if SYLLABLE_LETTERS * (end - start) <= limit:
        return [span]
    parts: list[Span] = []
    sizes = running_letters(text[start:end])
    while sizes[end - first] - sizes[start - first] > limit:
        most = first + bisect_right(sizes, sizes[start - first] + limit) - 1
        point = _cut_point(text, start, most)
        parts.append(_stripped(text, start, point))
        start = _word_after(text, point, end)
    return [part for part in (*parts, (start, end)) if part[0] < part[1]]


def split_evenly(text: str, span: Span, limit: int) -> list[Span]:
    """Cuts a span into parts of at most `limit` letters, and of similar sizes: none is a few
    words."""
    first = span[0]
    sizes = running_letters(text[slice(*span)])

    def parts(start: int, end: int) -> list[Span]:
        before, size = sizes[start - first], sizes[end - first] - sizes[start - first]
        if size <= limit:
            return [(start, end)] if start < end else []
        most = first + bisect_right(sizes, before + size * 2 // 3) - 1
        point = _cut_point(text, start, most)
        return parts(*_stripped(text, start, point)) + parts(_word_after(text, point, end), end)

    return parts(*span)


def _word_after(text: str, point: int, end: int) -> int:
    return end - len(text[point:end].lstrip())


def _cut_point(text: str, start: int, most: int) -> int:
    limit = most - start
    window = text[start : most + 1]
    tags = [tag.span() for tag in _TAG.finditer(text, start, min(len(text), most + 62))]

    def allowed(point: int) -> bool:
        return not any(first < point < last for first, last in tags)

    for least in (limit // 2, 1):
        for pattern in _CLAUSE_ENDS:
            points = [start + match.end() for match in pattern.finditer(window)]
            points = [p for p in points if start + least <= p <= most and allowed(p)]
            if points:
                return points[-1]
    for point in range(most, start + limit // 2, -1):
        if not is_inside_letter(text, point) and allowed(point):
            return point
    return most
