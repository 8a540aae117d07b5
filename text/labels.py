"""Speaker labels: who says a line of a script, in the spellings of people and programs.

`take_labels` replaces each label by the character `SPEAKER`. It runs before dashes and quotation
marks are rewritten. What looks like a label and is none stays in the text, with a warning.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice

from request.values import MAX_SPEAKERS
from text.aligned import AlignedText, Pieces
from text.pauses import PAUSE

SPEAKER = "\ue002"
_Key = tuple[str, int]

# The word for a speaker in transcripts, by language.
_SPEAKERS = (
    "speaker|sprecher(?:in)?|locuteur|locutrice|hablante|orador|parlante|falante|spreker|talare|"
    "mówca|konuşmacı|спикер|говорящий|说话人|說話人|发言人|發言人|話者|话者|スピーカー|화자|참석자|발화자"
)
# Words that also number a list. They are labels only if one number occurs twice.
_PEOPLE = "person|voice|host|guest|participant"
_LABEL_WORDS = f"{_SPEAKERS}|{_PEOPLE}".replace("(?:in)?", "").split("|")
_WORDS = (  # noqa: SIM905 - a list of twenty strings reads worse
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
_ROMAN = ("i", "ii", "iii", "iv")
_COUNT = (
    r"(?:[ _#\u2010\u2011-]{0,2}(?:(?:no|nr)\.? ?|number |\u2116 ?)?\d{1,3}(?!\d)|[ _#-]{1,2}"
    rf"(?:{'|'.join(_WORDS)}|i[iv]{{1,2}}|[a-z])(?!\w))"
)
_COLON, _DASH = "[:\uff1a]", r"[-\u2013\u2014]{1,2}"
_QUOTE, _UNQUOTE = "[\"'\u201c\u2018]", "[\"'\u201d\u2019]"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?"
_TIME = rf"(?:[\[(][\d:., >-]{{1,30}}s?[\])]|{_CLOCK}(?: ?(?:-->|{_DASH}) ?{_CLOCK})?)"
_NOTE = r"(?:\([^()\n]{0,60}\)|\[[^\[\]\n]{0,60}\])"
_PLACE = (
    rf"(?:^|(?<={PAUSE})|(?<=[.!?\u2026\u3002\uff01\uff1f] )"
    r"|(?<=[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]] ))"
)
_LABEL = re.compile(
    rf"{_PLACE} ?(?:\d{{1,3}}[.)] )?(?:{_TIME} ?(?:,|{_DASH})? ?)?{_QUOTE}?(?P<open>[\[(] ?)?"
    rf"(?P<word>{_SPEAKERS}|{_PEOPLE})(?P<count>{_COUNT})(?(open) ?[\])])"
    rf"(?:(?P<time>,? ?{_TIME})| ?{_NOTE})?{_UNQUOTE}?"
    rf"(?:(?P<colon> ?{_COLON})(?:{_UNQUOTE}(?= ))?(?: ?[\[(]{_CLOCK}[\])]| {_CLOCK} ?$)?"
    rf"| {_DASH}(?= )|\.(?= )| ?[>|;=\u00bb](?= )|\.?(?= ?$)"
    rf"|(?(open)|(?(time)(?= )|(?!)))) ?(?:{_DASH} )?",
    re.I | re.M,
)
# Tags of transcripts, and `[S1]` of other speech models.
_TAG = re.compile(
    rf"<(?P<word>speaker|{_PEOPLE})"
    r"(?:[ _-]?|\s{1,3}(?:id|n|name|number)\s?=\s?[\"']?(?:speaker[ _]?)?)"
    r"(?P<count>\d{1,3})[\"']?\s?>"
    rf"|</(?:speaker|{_PEOPLE})(?:[ _-]?\d{{1,3}})?\s?>|(?<!\w)\[(?P<s>S)(?P<n>\d)\] ?",
    re.I,
)
_BRACKET = re.compile(
    rf"{_PLACE} ?(?P<word>)\[(?P<count>\d{{1,2}})\](?P<colon> ?{_COLON})?"
    r" ?(?=(?P<said>[^\n]{0,200}))",
    re.M,
)
# What marks a list of sources: `Smith, J.`, a year, `et al.`
_SOURCE = re.compile(r"[^\W\d_]{2,30}, [A-Z]\.|\b(?:19|20)\d\d\b|\bet al\.|\bdoi:|https?://")


def take_tags(text: AlignedText) -> tuple[AlignedText, dict[int, _Key]]:
    """Replaces `<Person1>` and similar tags by `SPEAKER`, before `strip_tags` removes them. Also
    gives the speaker's key of each, by its offset in the source."""
    keys: dict[int, _Key] = {}
    return _taken(text, _TAG, _tags(text.text), keys), keys


def take_labels(
    text: AlignedText, keys: dict[int, _Key]
) -> tuple[AlignedText, dict[int, int], list[str]]:
    """Replaces each label by `SPEAKER`. Also gives the speakers' numbers, by offsets in the source,
    and warnings. `keys` are those of `take_tags`."""
    text = _taken(text, _LABEL, _named(text.text), keys)
    if not keys:
        text = _taken(text, _BRACKET, _numbered(text.text), keys)
    warnings = _warnings(text.text, bool(keys))
    return text.sub(_TAG, _mentioned, "<"), _numbers(keys), warnings


def _taken(
    text: AlignedText,
    pattern: re.Pattern[str],
    found: Mapping[int, _Key | None],
    keys: dict[int, _Key],
) -> AlignedText:
    if not found:
        return text
    keys.update((text.at[start], key) for start, key in found.items() if key)
    return text.sub(pattern, partial(_piece, found))


def _piece(found: Mapping[int, _Key | None], match: re.Match[str]) -> Pieces | None:
    if match.start() not in found:
        return None
    return (SPEAKER,) if found[match.start()] else ()


def _mentioned(tag: re.Match[str]) -> Pieces | None:
    return (slice(tag.start() + 1, tag.end() - 1),) if tag["word"] else None


def _tags(text: str) -> dict[int, _Key | None]:
    """The tags that are labels: at least two, one of them a start tag. `[S1]` counts only if the
    text begins with one, since it may be a reference in a paper."""
    tags = list(_TAG.finditer(text)) if "<" in text or "[" in text else []
    begins = bool(tags) and bool(tags[0]["s"]) and not text[: tags[0].start()].strip()
    tags = [tag for tag in tags if begins or not tag["s"]]
    if len(tags) < 2 or not any(tag["count"] or tag["n"] for tag in tags):
        return {}
    return {tag.start(): _key(tag) if tag["count"] or tag["n"] else None for tag in tags}


def _named(text: str) -> dict[int, _Key | None]:
    """Labels by words: `Speaker 1`. One label with a colon or brackets is enough, and in a script
    it may follow a sentence. Other marks need two lines with a label."""
    labels = list(_LABEL.finditer(text)) if _has_word(text) else []
    lines = [label for label in labels if _begins_line(label)]
    times = Counter(map(_key, lines))
    people = any(count > 1 and _is_person(word) for (word, _), count in times.items())
    known = [label for label in labels if people or not _is_person(label["word"])]
    found = {
        label.start(): _key(label)
        for label in known
        if _begins_line(label) and (label["colon"] or label["open"] or len(lines) > 1)
    }
    if found:
        found |= {label.start(): _key(label) for label in known if label["colon"]}
    return dict(found)


def _numbered(text: str) -> dict[int, _Key | None]:
    """Labels by numbers: `[1]: Hello.`

    They are notes if each number occurs once and a text precedes them, or if sources follow them.
    Without a colon they are labels only if one begins every line and a number occurs twice.
    """
    found = list(_BRACKET.finditer(text)) if "[" in text else []
    labels = [label for label in found if label["colon"]]
    has_colons = bool(labels)
    labels = labels or list(filter(_begins_line, found))
    keys = list(map(_key, labels))
    if len(keys) < 2 or len(set(keys)) > MAX_SPEAKERS:
        return {}
    comes_again = len(set(keys)) < len(keys)
    if has_colons:
        begins = not text[: labels[0].start()].strip()
        is_list = all(_SOURCE.search(label["said"]) for label in labels)
        is_script = comes_again or (begins and not is_list)
    else:
        is_script = comes_again and len(labels) == _lines(text)
    return {label.start(): _key(label) for label in labels} if is_script else {}


def _has_word(text: str) -> bool:
    """Whether a label's word occurs. A search of a text without one would take 1/5 of its plan."""
    lowered = text.lower()
    return any(word in lowered for word in _LABEL_WORDS)


def _begins_line(label: re.Match[str]) -> bool:
    return label.string[label.start() - 1 : label.start()] in ("", "\n", PAUSE)


def _is_person(word: str) -> bool:
    return word.lower() in _PEOPLE.split("|")


def _key(label: re.Match[str]) -> _Key:
    groups = label.groupdict()
    if groups.get("n"):
        return "s", int(groups["n"])
    written = label["count"].lower().strip(" _#-\u2010\u2011")
    if digits := re.search(r"\d+", written):
        number = int(digits[0])
    elif written in _WORDS:
        number = _WORDS.index(written) + 1
    elif written in _ROMAN:
        number = _ROMAN.index(written) + 1
    else:
        number = ord(written) - ord("a") + 1
    return label["word"].lower(), number


def _numbers(keys: Mapping[int, _Key]) -> dict[int, int]:
    """Each label's speaker number: as written, or counted if `Host 1` and `Guest 1` occur."""
    ordered = dict(sorted(keys.items()))
    speakers = list(dict.fromkeys(ordered.values()))
    if len({number for _, number in speakers}) == len(speakers):
        return {at: number for at, (_, number) in ordered.items()}
    return {at: speakers.index(key) + 1 for at, key in ordered.items()}


_LIKE_A_LABEL = re.compile(
    rf"(?:{_SPEAKERS}){_COUNT}(?: ?{_NOTE}|,? ?{_TIME})? ?{_COLON}"
    rf"|^ ?(?:{_SPEAKERS}|{_PEOPLE}){_COUNT} ?(?:{_COLON}|[-\u2013\u2014>|;=] )"
    rf"|^ ?\[\d{{1,2}}\](?: ?{_COLON}|(?= \S))"
    rf"|<(?:speaker|{_PEOPLE})[ _-]?\d{{1,3}} ?>",
    re.I | re.M,
)
_WITH_COMMA = re.compile(rf"^ ?(?:{_SPEAKERS}){_COUNT},(?= )", re.I | re.M)  # a table's cell
_NAME = re.compile(
    rf"^ ?([^\W\d_][\w.' -]{{0,30}}?|\d{{1,2}}(?={_COLON} )) ?{_COLON} ?(?=\S)", re.M
)
_LINE = re.compile(r"^ *\S", re.M)
_MOST_NAMED = 3
# Signs of spoken language. `Time: two hours.` and `Lisbon: The capital.` have none.
_SPEECH = re.compile(r"[?!]|\b(?:I|you|me|we|us|my|your|hi|hello|hey|yes|no|thanks?|bye)\b", re.I)


def _warnings(text: str, is_script: bool) -> list[str]:
    """Warnings of what looks like a label and is read aloud."""
    like = _like_labels(text) if _has_word(text) or "[" in text else {}
    names = [] if is_script else _dialogue(text)
    warnings = []
    if like:
        warnings.append(
            f"text: read aloud, for they are not understood as speakers' labels: {_quoted(like)}"
            " (a line of a script begins with `Speaker 1:`)"
        )
    if names:
        warnings.append(
            f"text: {_quoted(names)} and what they say are read in one voice (for voices of their"
            " own lines begin with `Speaker 1:`, `Speaker 2:`)"
        )
    return warnings


def _like_labels(text: str) -> dict[str, None]:
    like = dict.fromkeys(match[0].strip() for match in _LIKE_A_LABEL.finditer(text))
    cells = dict.fromkeys(match[0].strip() for match in _WITH_COMMA.finditer(text))
    return like | cells if len(cells) > 1 else like


def _dialogue(text: str) -> list[str]:
    """Names before colons, if the text is a dialogue. Then names recur and begin most lines, or
    begin every line of spoken language."""
    names = Counter(match[1] for match in _NAME.finditer(text))
    count = names.total()
    if len(names) < 2:
        return []
    comes_again = count > max(2, len(names)) and 2 * count >= _lines(text)
    is_dialogue = comes_again or (count == _lines(text) and _SPEECH.search(text))
    return [f"{name}:" for name in names] if is_dialogue else []


def _lines(text: str) -> int:
    return sum(1 for _ in _LINE.finditer(text))


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(f"`{label}`" for label in islice(labels, _MOST_NAMED))
