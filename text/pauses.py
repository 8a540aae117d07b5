"""Pause tags, in the spellings of SSML, of other programs and of people.

`take_pauses` replaces each tag by the character `PAUSE`. `PAUSE` and `PARAGRAPH` are private-use
characters. `text.cleaning.symbols.normalise` removes those of the caller first.
"""

import re
from collections.abc import Callable
from functools import partial

from text.aligned import AlignedText, Pieces

PAUSE = "\ue000"
PARAGRAPH = "\ue001"
MAX_PAUSE_MS = 10_000
DEFAULT_PAUSE_MS = 1_000

_STRENGTHS_MS = {
    "none": 0,
    "x-weak": 100,
    "weak": 250,
    "medium": 500,
    "strong": 750,
    "x-strong": 1_000,
}
_LENGTHS_MS = {"short": 400, "brief": 400, "long": 1_500}
_UNIT = r"ms|msecs?|milliseconds?|s|secs?|seconds?"
_DURATION = rf"(?P<number>\d{{1,6}}(?:[.,]\d{{0,6}})?|[.,]\d{{1,6}}) ?(?P<unit>{_UNIT})?(?![a-z])"
_WRITTEN = re.compile(
    rf"(?:\[{{1,2}}|\() ?(?:(?P<length>short|brief|long) )?"
    rf"(?P<word>pause|silence|silent|break|wait)?(?: for(?= ))? ?[:=]? ?(?:{_DURATION})?"
    r"(?: (?P<after>pause|silence|break))? ?(?:\]{1,2}|\))",
    re.I,
)
_APPLE = re.compile(r"\[\[ ?slnc (\d{1,6}) ?\]\]", re.I)
_TAG = re.compile(
    r"<(?P<word>break|pause|(?:mstts:)?silence|wait)(?P<attributes>[\s/:=][^<>]{0,200})?>"
    r"(?: ?</(?:break|pause|(?:mstts:)?silence|wait) ?>)?",
    re.I,
)
_BARE = re.compile(rf"[\s:=]{{0,3}}(?:{_DURATION})?\s{{0,3}}/?", re.I)
_TIME = re.compile(
    rf"""\b(?:time|duration|dur|length|value|(?P<named>{_UNIT})) ?= ?["']? ?{_DURATION}""", re.I
)
_STRENGTH = re.compile(r"""\bstrength ?= ?["']? ?([a-z-]{1,10})""", re.I)


def take_pauses(text: AlignedText) -> tuple[AlignedText, dict[int, int]]:
    """Replaces each pause tag by `PAUSE`. Also gives lengths in ms, by offsets in the source."""
    lengths: dict[int, int] = {}
    for pattern, length_of in ((_APPLE, _apple_ms), (_WRITTEN, _written_ms), (_TAG, _tag_ms)):
        text = text.sub(pattern, partial(_mark, text, length_of, lengths))
    return text, lengths


def _mark(
    text: AlignedText,
    length_of: Callable[[re.Match[str]], int | None],
    lengths: dict[int, int],
    match: re.Match[str],
) -> Pieces | None:
    length = length_of(match)
    if length is None:
        return None
    lengths[text.at[match.start()]] = min(length, MAX_PAUSE_MS)
    return (PAUSE,)


def _apple_ms(match: re.Match[str]) -> int:
    return int(match[1])


def _written_ms(match: re.Match[str]) -> int | None:
    """The length in ms; None for other brackets, such as `[5]`, `[wait]` or `(2 s)`."""
    if (match[0][0] == "[") != (match[0][-1] == "]"):
        return None
    word = (match["word"] or match["after"] or "").lower()
    if match["number"]:
        bare = not word and not match["unit"]
        return None if bare or (match[0][0] == "(" and word != "pause") else _ms(match)
    if match["length"]:
        return _LENGTHS_MS[match["length"].lower()] if word in ("pause", "silence") else None
    default = match[0][0] == "[" and word in ("pause", "silence", "break")
    return DEFAULT_PAUSE_MS if default else None


def _tag_ms(match: re.Match[str]) -> int | None:
    """The length in ms; None for what only looks like a tag, such as `<wait for it>`."""
    attributes = match["attributes"] or ""
    if (bare := _BARE.fullmatch(attributes)) and bare["number"]:
        return _ms(bare)
    if time := _TIME.search(attributes):
        return _ms(time, time["named"])
    if bare or "=" in attributes:
        strength = _STRENGTH.search(attributes)
        default = 500 if match["word"].lower() == "break" else DEFAULT_PAUSE_MS
        return _STRENGTHS_MS.get(strength[1].lower(), 500) if strength else default
    return None


def _ms(match: re.Match[str], unit: str | None = None) -> int:
    number = float(match["number"].replace(",", "."))
    unit = (match["unit"] or unit or "").lower()
    # A number without a unit is seconds up to 10 (`[pause:1.5]`), else ms (`[pause:1500]`).
    bare_seconds = not unit and number * 1000 <= MAX_PAUSE_MS
    return round(number * 1000 if bare_seconds or unit.startswith("s") else number)
