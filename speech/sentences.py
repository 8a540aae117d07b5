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

# Where sentencex (1.0.32) sees an end that is none: a numbered thing, a French title, an initial.
_NO_END = re.compile(
    r"(?:\b(?:Vol|Vols|No|Nos|Nr|Fig|Figs|Ch|Chap|Sec|Art|Eq|Pt|p|pp|vol|no|fig|ch|sec|art|eq)\. ?"
    r"(?=\Z)|(?:^|[ (])(?:M|MM|Mme|Mlle|Mgr|St|Ste|Srta?|Sra|Dra|[Ss]ig|Hr|Fr|bzw|EE|Apt)\.\s*\Z)"
)
# These end no sentence before a number, the second kind before a small letter either.
_BEFORE_NUMBER = re.compile(
    r"\b(?:(?i:approx|appr|aprox|avg|bldg|blvd|ca|cca|circa|est|ext|max|min|m[áa]x|m[íi]n|nos?|nr|"
    r"rms?|tabs?|tel|exs|ln|pgs?|para|refs?|suppl|vers?|rev|cols?|apt|ste|dept|fl|lat|"
    r"abb|anm|bde?|bsp|bspw|etw|evtl|ggfs?|inkl|exkl|incl|excl|kap|mind|vgl|zzgl|ziff|"
    r"env|éd|p[áa]gs?|n[úu]m|pagg?|tav|blz|rys|rozdz|стр|рис|табл|гл|ок|прибл)"
    r"|Ex|App|Ave|Abs|Str|Mt|Ft|Mon|Tues?|Wed|Thu|Thurs?|Fri|Sat|Sun|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.\s*\Z"
)
_NUMBER_AHEAD = re.compile(r"[(<>~+-]?[$€£]?\d|[A-HJ-Z]\d{0,4}\b(?![.'])")
_BEFORE_SMALL = re.compile(
    r"\b(?:approx|appr|aprox|avg|ca|cf|esp|est|excl|exkl|incl|inkl|max|min|mind|evtl|ggf|bspw|bzw|"
    r"resp|vgl|viz|zzgl|env|vs|al|feat|orig)\.\s*\Z",
    re.I,
)
_NEVER_AN_END = re.compile(r"\b(?:vgl|cf|viz|bzw|bspw|z\. ?B|d\. ?h|e\.g|i\.e|p\. ?ex)\.\s*\Z")
# `"What?" Tom asked.`: whoever speaks follows the quotation.
_QUESTION = re.compile(r"[?!][\"']\s*\Z")
_SPEAKER = (
    r"(?:(?:[A-Z][\w.'-]{0,30} ){1,3}|(?:The|A|An|My|His|Her|Our|Their|One) (?:[\w'-]{1,30} ){1,3})"
)
_SAID = re.compile(
    _SPEAKER + r"(?:\w{2,20}ly )?(?:said|says|asked|asks|replied|answered|cried|shouted|whispered|"
    r"called|exclaimed|muttered|murmured|yelled|screamed|added|continued|began|wondered|demanded|"
    r"snapped|growled|laughed|sighed|thought|repeated|inquired|enquired|insisted|remarked|observed|"
    r"interrupted|warned|explained|begged|pleaded|gasped|groaned|sobbed|hissed|mumbled|grumbled|"
    r"roared|declared|announced|retorted|protested|agreed|told)\b"
)
# `He left.She stayed.`: a small word before the mark, or a word that begins sentences behind it.
GLUED = re.compile(
    r"(?:(?<![^\s\"'(\[])[^\W\d_A-Z][^\W\d_]{1,40}[.]|[^\W\d_]{2}[!?])(?=[A-Z][a-z']{0,30}(?!\w|[/@(\[]|\.\w))"
    r"|[^\W\d_]{2}\.(?=(?:The|She|He|It|I|We|They|You|This|That|These|Those|There|But|And|So|In|On|At|"
    r"If|When|While|What|Then|No|Yes|A|An|My|His|Her|Our|Their|Your|Why|How|Who|Where|As|For|After|"
    r"Before|Or|Not|Now|Once|Here|Please|Some|All)(?!\w|[/@(\[]|\.\w))"
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
        if spans and (_is_within_a_word(text, start) or _joins(text, spans[-1][0], start, end)):
            start = spans.pop()[0]
        spans.append((start, end))
    cut = [part for span in spans for part in _cut(span, _missed_ends(text, span))]
    return [span for span in (_stripped(text, *span) for span in cut) if span[0] < span[1]]


_BLOCK = 10_000


def _boundaries(text: str) -> list[Span]:
    """What sentencex finds, block by block: some texts take it the square of their length. The last
    sentence of a block is begun again with the next."""
    found: list[Span] = []
    start = 0
    while start < len(text):
        block = _block_boundaries(text[start : start + _BLOCK])
        if start + _BLOCK < len(text) and len(block) > 1:
            block.pop()
        found += [(start + first, start + last) for first, last in block]
        start = found[-1][1] if block else start + _BLOCK
    return found


def _block_boundaries(text: str) -> list[Span]:
    try:
        found = sentencex.get_sentence_boundaries("en", text)
    except BaseException as error:
        # A Rust panic is no `Exception`; it must not end the worker over one odd text.
        if type(error).__name__ != "PanicException":
            raise
        return _cut((0, len(text)), [end.end() for end in _FALLBACK.finditer(text)])
    return [(item["start_index"], item["end_index"]) for item in found]


_MARKS = str.maketrans(dict.fromkeys('"()[]', " "))


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


def _is_within_a_word(text: str, at: int) -> bool:
    """As in `System.Out`: no space, and no glued end either."""
    edge = text[at - 1 : at + 1]
    if edge[:1] != "." or not edge[1:].isalnum():
        return False
    before = max(0, at - 50)
    return all(before + end.end() != at for end in GLUED.finditer(text[before : at + 40]))


def _joins(text: str, start: int, at: int, end: int) -> bool:
    """Whether what ends at `at` is no sentence, or what begins there."""
    before, after = text[max(start, at - 40) : at], text[at:end]
    if not any(char.isalnum() for char in after) and "\n" not in text[start:at]:
        return True
    if _ORDINAL.search(before[-4:]) and _MONTH.match(after):
        return True
    if _NUMBER.fullmatch(text[start:at].strip()):
        return True
    if _BEFORE_NUMBER.search(before) and _NUMBER_AHEAD.match(after):
        return True
    if after[:1].islower() and _BEFORE_SMALL.search(before):
        return True
    if _NEVER_AN_END.search(before):
        return True
    if _QUESTION.search(before) and _SAID.match(after):
        return True
    return bool(_NO_END.search(before[-12:])) and (after[:1].isdigit() or after[:1].isupper())


def _missed_ends(text: str, span: Span) -> list[int]:
    start, end = span
    return [
        point
        for match in _MISSED_END.finditer(text, start, end)
        if not _SAID.match(text, (point := match.end()) + 1, end) or text[point - 2] in ".)]"
    ]


def _cut(span: Span, ends: list[int]) -> list[Span]:
    start, end = span
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
        if not _is_within_a_mark(text, point) and allowed(point):
            return point
    return start + limit


_JOINER = "\u200d"
_MODIFIERS = range(0x1F3FB, 0x1F400)
# Thai and Lao: vowels that stand behind their consonant, and those that stand before it.
_BEHIND = re.compile("[\u0e30-\u0e3a\u0e45-\u0e4e\u0eb0-\u0ebc\u0ec6-\u0ece]")
_BEFORE = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4]")


def _is_within_a_mark(text: str, point: int) -> bool:
    """Whether what a reader sees as one character lies on both sides."""
    before, after = text[point - 1 : point], text[point : point + 1]
    return bool(after) and (
        unicodedata.category(after)[0] == "M"
        or _JOINER in (before, after)
        or ord(after) in _MODIFIERS
        or bool(_BEHIND.match(after) or _BEFORE.match(before))
    )
