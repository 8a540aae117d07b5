"""Characters: one kind of space, composed letters, plain punctuation, no control tokens.

Every function takes and gives a `Traced` text.
"""

import re
import unicodedata
from collections.abc import Callable

from speech.traced import Pieces, Traced

_LINE_ENDS = re.compile("\r\n?|[\u0085\u2028\v\f]")
_PARAGRAPH_SEPARATOR = re.compile("\u2029")
_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs"}
_JAMO = "\u1160-\u11ff\ud7b0-\ud7ff"
_VARIATION_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u20e3"
_UNSEEN = re.compile(f"[{_VARIATION_SELECTORS}\ufffc\ufffd]")
_SPACES = re.compile(" {2,}")


def _found(text: str, wanted: Callable[[str], bool]) -> str:
    """Those characters of the text that are wanted, escaped for a character class."""
    return "".join(re.escape(char) for char in sorted(set(text)) if wanted(char))


def normalise(text: Traced) -> Traced:
    """One kind of space and of line end, composed letters, nothing invisible."""
    text = text.sub(_LINE_ENDS, ("\n",))
    text = text.sub(_PARAGRAPH_SEPARATOR, ("\n\n",))
    # Spaces come first: sentencex panics on a no-break space (its case is kept in the tests).
    spaces = {ord(char): " " for char in set(text.text) if char != "\n" and char.isspace()}
    text = text.translate(spaces)
    invisible = _found(
        text.text, lambda char: char != "\n" and unicodedata.category(char) in _INVISIBLE
    )
    if invisible:
        text = text.sub(re.compile(f"[{invisible}]"), ())
    text = text.sub(_UNSEEN, ())
    text = _compose(text)
    return text.sub(_SPACES, (" ",))


def _compose(text: Traced) -> Traced:
    """NFC, cluster by cluster so that origins stay exact. Not NFKC: it makes 1/2 of a half."""
    if unicodedata.is_normalized("NFC", text.text):
        return text
    marks = _found(text.text, lambda char: unicodedata.category(char)[0] == "M")
    clusters = re.compile(f"[^\\n][{_JAMO}{marks}]{{0,30}}")
    return text.sub(clusters, lambda match: _composed(match[0]))


def _composed(cluster: str) -> Pieces | None:
    composed = unicodedata.normalize("NFC", cluster)
    return None if composed == cluster else (composed,)


_SAME_LENGTH = {
    ord(char): plain
    for chars, plain in (
        ("\u2018\u2019\u201a\u201b\u2032\u00b4\uff07\u2039\u203a`", "'"),
        ("\u060c", ","),
        ("\u061b", ";"),
        ("\u061f\u203d\u2047", "?"),
        ("\u0964\u0965\u06d4\u0589", "."),
        ("\u203c", "!"),
        (
            "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02\u300c\u300d\u300e\u300f\u300a\u300b",
            '"',
        ),
        ("\u2010\u2011\u2212\ufe63\uff0d", "-"),
        ("\u3010\uff3b\u3014", "["),
        ("\u3011\uff3d\u3015", "]"),
    )
    for char in chars
}
_FULLWIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF10, 0xFF5B) if chr(code).isalnum()}
_CJK_PUNCTUATION = {
    "\u3002": ".",
    "\uff0e": ".",
    "\uff61": ".",
    "\uff01": "!",
    "\uff1f": "?",
    "\uff0c": ",",
    "\u3001": ",",
    "\uff64": ",",
    "\uff1b": ";",
    "\uff1a": ":",
}
_CJK_MARKS = "".join(_CJK_PUNCTUATION)
_CJK = re.compile(f"[{_CJK_MARKS}]((?=[^\\s\"')\\]{_CJK_MARKS}]))?")
_PARENTHESES = {ord("\uff08"): "(", ord("\uff09"): ")"}
_EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u2190-\u21ff\u25a0-\u25ff"
    "\u3030\u303d\u3297\u3299\u24c2\u200d\U000e0020-\U000e007f]+"
)
_FRENCH = re.compile(
    "(?<=\\s[\u00ab\u2039]) |(?<=^[\u00ab\u2039]) | (?=[\u00bb\u203a](?!\\w))", re.M
)
_ACCIDENTAL = re.compile("(?<=\\b[A-G])[\u266f\u266d]")
_HYPHEN = re.compile(
    r"(?<=\d) ?[\u2012\u2013] ?(?=\d)|(?<=\w)[\u2012\u2013](?=[A-Z\d])|(?<!\w)[\u2012\u2013](?=\d)"
)
_DASH = re.compile(r" ?(?:[\u2012-\u2015\u2e3a\u2e3b]|(?<![-<])-{2,20}(?![->]))+ ?")
_ELLIPSIS = re.compile(r"\.{0,20}\u2026[.\u2026]{0,20}|\.{4,}|(?:\. ){2,}\.")
_SHOUT = re.compile(r"[!?]{2,}")
# What is not sure to be an amount by itself ($1.5M, US$5, $5-10, €1.234,56) is left to the voice.
_MONEY = re.compile(
    r"(\b(?:an?|another|each|every|per) )?(?<![\w$\u20ac\u00a3])(?<!\d-)([$\u20ac\u00a3])"
    r"(\d{1,12}(?:,\d{3}){0,5}(?:\.\d{1,2})?)(?!\w|[.,]?\d|-[\w$\u20ac\u00a3]|\+)"
    r"( (?:hundred|thousand|million|billion|trillion)\b)?",
    re.I,
)
_CURRENCIES = {
    "$": ("dollar", "dollars"),
    "\u20ac": ("euro", "euros"),
    "\u00a3": ("pound", "pounds"),
}


def plain_symbols(text: Traced) -> Traced:
    """The punctuation that the model was trained on: ASCII, no emoji, no dashes, no shouting."""
    text = text.sub(_FRENCH, ())
    text = text.sub(_ACCIDENTAL, lambda m: (" sharp" if m[0] == "\u266f" else " flat",))
    text = text.sub(_EMOJI, (" ",))
    text = text.translate({**_SAME_LENGTH, **_FULLWIDTH, **_PARENTHESES})
    text = text.sub(_CJK, _plain_cjk)
    text = text.sub(_HYPHEN, ("-",))
    text = text.sub(_DASH, _dash)
    text = text.sub(_ELLIPSIS, ("...",))
    text = text.sub(_SHOUT, lambda match: ("?" if "?" in match[0] else "!",))
    text = text.sub(_MONEY, _money)
    text = text.sub(_SPACES, (" ",))
    return text.sub(_SPACE_BEFORE, ())


_SPACE_BEFORE = re.compile(r"(?<=[^\s.,;:!?]) (?=[.,!?](?:[\s\"')\]]|\Z)|[;:](?:[\s\"]|\Z))")


def _dash(match: re.Match[str]) -> Pieces:
    """A pause, unless something else makes one already: a line's start, another mark, a quote."""
    whole, (start, end) = match.string, match.span()
    before, after = whole[max(0, start - 2) : start], whole[end : end + 2]
    if not before or before[-1] in "\n(":
        return ()
    if before[-1] in "\"'" and (len(before) == 1 or before[0].isspace()):
        return ()
    if not after or after[0] in "\n":
        return (",",)
    if after[0] in ".,;:!?":
        return ()
    if after[0] in "\"')" and not after[1:].isalnum():
        return () if before[-1] in ".,;:!?" else (",",)
    stopped = before[-1] in ",;:!?" or (before[-1] == "." and whole[start - 3 : start - 2] != ".")
    return (" ",) if stopped else (", ",)


def _plain_cjk(match: re.Match[str]) -> Pieces:
    plain = _CJK_PUNCTUATION[match[0]]
    whole, (start, end) = match.string, match.span()
    before, after = whole[max(0, start - 1) : start], whole[end : end + 1]
    if before.isdigit() and after.isdigit():
        return (plain,)
    return (plain,) if match[1] is None else (plain, " ")


def _money(match: re.Match[str]) -> Pieces:
    one, many = _CURRENCIES[match[2]]
    name = one if match[1] or (match[3] == "1" and not match[4]) else many
    return [*(group for group in (1, 3, 4) if match[group]), " ", name]


_MODEL_TOKEN = re.compile(r"<\|[\w ]{0,40}\|>")
_MODEL_TOKEN_EDGE = re.compile(r"<\|+|(?<!\|)\|+>")


def neutralise(text: Traced) -> Traced:
    """Leaves nothing that could pass for a token of the model, such as `<|vision_pad|>`."""
    for pattern in (_MODEL_TOKEN, _MODEL_TOKEN_EDGE, _SPACES):
        text = text.sub(pattern, (" ",))
    return text
