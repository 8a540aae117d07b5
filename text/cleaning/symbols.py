"""Characters: one kind of space, composed letters, plain punctuation, no control tokens."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

from text.aligned import AlignedText, Pieces
from text.cleaning.money import SIGNS, say_money
from text.writing_systems import JOINED

_LINE_ENDS = re.compile("\r\n?|[\u0085\u2028\v\f]")
_PARAGRAPH_SEPARATOR = re.compile("\u2029")
_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs"}
_KEPT_FORMAT = "\n\u200c\u200d"
_IDLE_JOINER = re.compile(f"(?<![{JOINED}])[\u200c\u200d]{{1,20}}")
_JAMO = "\u1160-\u11ff\ud7b0-\ud7ff"
_VARIATION_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u20e3"
_UNSEEN = re.compile(f"[{_VARIATION_SELECTORS}\ufffc\ufffd]")
_SPACES = re.compile(" {2,}")
# A soft hyphen at a line's end; OCR reads it as `¬`.
_SOFT_LINE_END = re.compile("(?<=[^\\W\\d_])[\u00ad\u00ac]\\s{0,3}\n\\s{0,3}(?=[^\\W\\d_])")


def _found(text: str, wanted: Callable[[str], bool]) -> str:
    """The characters of the text that `wanted` accepts, escaped for a character class."""
    return "".join(re.escape(char) for char in sorted(set(text)) if wanted(char))


_ESCAPED_LINE_END = re.compile(
    r"(?:\A|(?<=[^\s\\\"'`(\[])|(?<=[.!?:;] )|(?=\\r\\n)"
    r"|(?<=[.!?,:;]\")|(?<=\S\\\")|(?<=\\n))((?:\\r)?\\n|\\t)"
    r"(?=\\[ntr\"]| ?[^\Wa-z_]| ?[\"'#*>\u2022\u201c-]|\s{0,3}\Z)"
)
_LINE_END_OR_TAB = re.compile(r"\\[nrt]")
_PATH = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]:|\\)[\w.\\-]{0,60}\Z")
_ESCAPED_CHAR = re.compile(r"(?<!\\)(?:\\u[0-9a-fA-F]{4}){1,2}")


def decode_escapes(text: AlignedText) -> AlignedText:
    r"""Decodes escapes of a text that was encoded twice: `\n` and `\t` before a new sentence, and
    `\u2019`. A path (`C:\new`) and a command (`\theta`) stay."""
    if "\\" not in text.text:
        return text
    text = text.sub(_ESCAPED_LINE_END, _line_end)
    return text.sub(_ESCAPED_CHAR, _decoded)


def _line_end(match: re.Match[str]) -> Pieces | None:
    before = match.string[max(0, match.start() - 64) : match.start()]
    if _PATH.search(_LINE_END_OR_TAB.sub("", before.rpartition(" ")[2])):
        return None
    return (" " if match[1] == "\\t" else "\n",)


def _decoded(match: re.Match[str]) -> Pieces:
    units = b"".join(bytes.fromhex(code) for code in match[0].split("\\u")[1:])
    return (units.decode("utf-16-be", "replace"),)


def normalise(text: AlignedText) -> AlignedText:
    """Normalises spaces and line ends, composes letters (NFC), removes invisible characters."""
    text = text.sub(_LINE_ENDS, ("\n",))
    text = text.sub(_PARAGRAPH_SEPARATOR, ("\n\n",))
    text = text.sub(_SOFT_LINE_END, ())
    # Spaces come first: sentencex panics on a no-break space (its case is kept in the tests).
    spaces = {ord(char): " " for char in set(text.text) if char != "\n" and char.isspace()}
    text = text.translate(spaces)
    invisible = _found(
        text.text,
        lambda char: char not in _KEPT_FORMAT and unicodedata.category(char) in _INVISIBLE,
    )
    if invisible:
        text = text.sub(re.compile(f"[{invisible}]"), ())
    text = text.sub(_IDLE_JOINER, (), "\u200c\u200d")
    text = text.sub(_UNSEEN, ())
    text = plain_letters(text)
    return text.sub(_SPACES, (" ",))


# Unicode's decompositions say what a styled letter stands for. The kind "compat" is too wide
# (№, ㋿, ำ): only ligatures, digraphs, Roman numerals, the long s and radicals are taken of it.
# Fractions, ™, ª and º stay. `text.cleaning.formulas` reads superscript numbers.
_STYLE = re.compile("<(?:font|circle|wide|narrow|square|sub|super|isolated|initial|medial|final)>")
_JOINED = re.compile(
    "[\u2103\u2109\u0132\u0133\u0149\u017f\u01c4-\u01cc\u01f1-\u01f3\u2160-\u217f\u2e80-\u2fdf\ufb00-\ufb4f]"
)
_RAISED_LETTER = "[\u02b0-\u02b8\u1d2c-\u1d6a]"
_RAISED_N = re.compile(f"\u207f(?={_RAISED_LETTER})|(?<={_RAISED_LETTER})\u207f")
_KEPT = re.compile(
    "[\u2122\u2120\u00aa\u00ba\u2070-\u207f\u00b9\u00b2\u00b3\uff07\uff3b\uff3d\uff40"
    "\uff02\uff1c\uff1e\uff3f\uff5c\uff5e\uff5b\uff5d\uff08\uff09\uff01\uff0c\uff0e\uff1a\uff1b\uff1f"
    "\uff61\uff62\uff63\uff64\uff0d]"
)
_BADGES = ((0x1F110, 0x1F12A), (0x1F130, 0x1F14A), (0x1F150, 0x1F16A), (0x1F170, 0x1F18A))
_BADGE = {code: chr(65 + code - first) for first, last in _BADGES for code in range(first, last)}
_CIRCLED_NUMBER = "\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf"
_NUMBERED_LINE = re.compile(f"^ {{0,8}}([{_CIRCLED_NUMBER}]) {{0,2}}(?=\\S)", re.M)
_ENCIRCLED = re.compile(f"(\\w)?([{_CIRCLED_NUMBER}]{{1,20}})(?=(\\w)?)")


@cache
def _plain_letter(char: str) -> str:
    """What a styled letter or a ligature stands for, or the character itself."""
    if ord(char) in _BADGE:
        return _BADGE[ord(char)]
    style, _, codes = unicodedata.decomposition(char).partition(" ")
    is_styled = _STYLE.fullmatch(style) or _JOINED.match(char)
    if not is_styled or not codes or _KEPT.match(char) or _circled(char):
        return char
    return "".join(_plain_letter(chr(int(code, 16))) for code in codes.split())


def _circled(char: str) -> int | None:
    number = unicodedata.numeric(char, None)
    is_circled = number is not None and re.match(f"[{_CIRCLED_NUMBER}]", char)
    return int(number) if is_circled and number is not None else None


def plain_letters(text: AlignedText) -> AlignedText:
    """Plain letters for styled letters and ligatures: `fi`, `A` and `5 kg` for `\ufb01`,
    `\U0001d400` and `5 \u338f`."""
    if text.text.isascii():
        return text
    text = text.sub(_NUMBERED_LINE, lambda match: (f"{_circled(match[1])}. ",))
    text = text.sub(_ENCIRCLED, _as_number)
    text = text.sub(_RAISED_N, ("n",), "\u207f")  # in a superscript word: 2nd
    plain = {char: _plain_letter(char) for char in set(text.text)}
    text = text.translate({ord(char): by for char, by in plain.items() if len(by) == 1})
    joined = "".join(char for char, by in plain.items() if len(by) > 1)
    if joined:
        text = text.sub(re.compile(f"[{joined}]"), lambda match: (plain[match[0]],))
    return _compose(text)


def _as_number(match: re.Match[str]) -> Pieces:
    numbers = " ".join(str(_circled(char)) for char in match[2])
    return (1 if match[1] else "", " " if match[1] else "", numbers, " " if match[3] else "")


def _compose(text: AlignedText) -> AlignedText:
    """NFC for each cluster, so that offsets stay exact. Not NFKC, which turns ½ into 1⁄2."""
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
        (
            "\u2018\u2019\u201a\u201b\u2032\u00b4\uff07\u2039\u203a`"
            "\u02b9\u02bb\u02bc\u055a\ua78c\uff40",
            "'",
        ),
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
    "\u3030\u303d\u3297\u3299\u24c2\U000e0020-\U000e007f]+"
)
_FRENCH = re.compile(
    "(?<=\\s[\u00ab\u2039]) |(?<=^[\u00ab\u2039]) | (?=[\u00bb\u203a](?!\\w))", re.M
)
_SHARP, _FLAT = re.compile("(?<=\\b[A-G])\u266f"), re.compile("(?<=\\b[A-G])\u266d")
_HYPHEN = re.compile(
    rf"(?:(?<=\d)|(?<=\d[kKmMbB])) ?[\u2012\u2013] ?(?=[\d{SIGNS}])"
    r"|(?<=\w)[\u2012\u2013](?=[A-Z\d])|(?<!\w)[\u2012\u2013](?=\d)|(?<=\d)\u2014(?=\d)"
)
_DASH = re.compile(r" ?(?:[\u2012-\u2015\u2e3a\u2e3b]|(?<![-<])-{2,20}(?![->]))+ ?")
_ELLIPSIS = re.compile(r"\.{0,20}\u2026[.\u2026]{0,20}|\.{4,}|(?:\. ){2,}\.")
_SHOUT = re.compile(r"[!?]{2,}")


def plain_symbols(text: AlignedText) -> AlignedText:
    """ASCII punctuation, as the model was trained on: no emoji, no dashes, no `!!!`."""
    text = text.sub(_FRENCH, (), "\u00ab\u2039\u00bb\u203a")
    text = text.sub(_SHARP, (" sharp",), "\u266f")
    text = text.sub(_FLAT, (" flat",), "\u266d")
    text = text.sub(_EMOJI, (" ",))
    text = text.translate({**_SAME_LENGTH, **_PARENTHESES})
    text = text.sub(_CJK, _plain_cjk)
    text = text.sub(_HYPHEN, ("-",), "\u2012\u2013\u2014")
    text = text.sub(_DASH, _dash, "-\u2012\u2013\u2014\u2015\u2e3a\u2e3b")
    text = text.sub(_ELLIPSIS, ("...",), ".\u2026")
    text = text.sub(_SHOUT, lambda match: ("?" if "?" in match[0] else "!",))
    text = say_money(text)
    text = text.sub(_SPACES, (" ",))
    return text.sub(_SPACE_BEFORE, ())


_SPACE_BEFORE = re.compile(r"(?<=[^\s.,;:!?]) (?=[.,!?](?:[\s\"')\]]|\Z)|[;:](?:[\s\"]|\Z))")


def _dash(match: re.Match[str]) -> Pieces:
    """A dash as a comma; as nothing beside a line's start, punctuation or a quotation mark."""
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


_MODEL_TOKEN = re.compile(r"<\|[\w ]{0,40}\|>")
_MODEL_TOKEN_EDGE = re.compile(r"<\|+|(?<!\|)\|+>")


def neutralise(text: AlignedText) -> AlignedText:
    """Prompt injection: removes what looks like a control token, such as `<|vision_pad|>`."""
    for pattern in (_MODEL_TOKEN, _MODEL_TOKEN_EDGE):
        text = text.sub(pattern, (" ",), "|")
    return text.sub(_SPACES, (" ",))
