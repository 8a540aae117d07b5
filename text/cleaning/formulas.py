"""TeX formulas and superscript numbers. Simple ones are said in English words.

A formula that has more than simple signs is left out whole.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from html.entities import html5
from unicodedata import normalize

from text.aligned import AlignedText, Pieces

LEFT_OUT = "text: formulas are not read aloud and were left out"
_DISPLAYED = re.compile(
    r"(?<!\$)\$\$(?=[^$]{0,2000}?[\\^_{}=+<>])([^$]{1,2000})\$\$(?!\$)"
    r"|\\\[((?=[^\\\]]{0,500}(?:[\^_=]|\\[a-zA-Z]))(?:[^\\]|\\(?![\]\[])){1,2000})\\\]"
)
_ENVIRONMENT = re.compile(r"\\(?:begin|(end))\{([a-z]{1,20}\*?)\}")
_INLINE = re.compile(
    r"(?<![\w$\\])\$(?=[^\s$])([^$\n]{0,300}[^\s$\\])\$(?![\w$])(?!(?<=[A-Z]\$) \d)"
    r"|\\\((?=\S| )([^\n]{1,300}?)\\\)"
)
_SIGNS_OF_TEX = re.compile(r"[\\^_{}=]")
# `$a > b$`, `$n+1$`, `$f(x)$`: single letters between the signs of arithmetic.
_VARIABLES = re.compile(
    r"(?=[^A-Za-z]{0,20}[A-Za-z])(?:(?<![A-Za-z])[A-Za-z](?![A-Za-z])|[\d +*/<>(),.'|!-]){1,30}"
)
_EMPTIED = re.compile(r"\$\$[\s.,]{0,20}\$\$|\\\[[\s.,]{0,20}\\\]")
# Prose: two clauses, or several words outside of a command. The dollar signs are then money.
_PROSE = re.compile(
    r"(?<!\\)(?:[.;!?]|(?<!\b[A-Za-z]):)(?: |\Z)|(?<!\\), ?[a-z]{2,}(?![a-z(])"
    r"|(?<![\\a-z{])[a-z]{2,} (?:[a-z]{2,} )",
    re.I,
)
# Language models put a result into `\boxed{}`.
_BOXED = re.compile(r"\\boxed ?\{((?:[^{}\n]|\{[^{}\n]{0,100}\}){1,200})\}")
_OPENING, _CLOSING = "([-\"'", ")]-\"'"
_TEXT = re.compile(
    r"\\(?:text|mathrm|mathbf|mathit|mathbb|mathcal|operatorname) ?\{([^{}\\]{0,80})\}"
)


def say_formulas(text: AlignedText) -> tuple[AlignedText, bool]:
    """Replaces formulas by words. Also gives whether a formula was left out."""
    left_out = False

    def said(match: re.Match[str]) -> Pieces:
        nonlocal left_out
        words = _in_words(match[1] or match[2])
        left_out = left_out or words is None
        whole, (start, end) = match.string, match.span()
        opened, closed = whole[start - 1 : start], whole[end : end + 1]
        spaces = " " if opened not in _OPENING else "", " " if closed not in _CLOSING else ""
        return (spaces[0], words or "", spaces[1])

    shorter = text.replaced(_environments(text.text), " ")
    left_out = shorter is not text
    if left_out:
        shorter = shorter.sub(_EMPTIED, (" ",))
    text = shorter.sub(_DISPLAYED, said)
    text = text.sub(_INLINE, lambda match: said(match) if _is_formula(match) else None, "$\\")
    return text.sub(_BOXED, (1,), "\\"), left_out


def _environments(text: str) -> Iterator[tuple[int, int]]:
    begun: dict[str, list[int]] = defaultdict(list)
    for mark in _ENVIRONMENT.finditer(text):
        if not mark[1]:
            begun[mark[2]].append(mark.start())
        elif begun[mark[2]]:
            yield begun[mark[2]].pop(), mark.end()


def _is_formula(match: re.Match[str]) -> bool:
    content = match[1] or match[2]
    if _VARIABLES.fullmatch(content):
        return True
    return bool(_SIGNS_OF_TEX.search(content)) and not _PROSE.search(_TEXT.sub("", content))


_COMMANDS = {
    **dict.fromkeys(("times", "cdot", "ast"), "times"),
    **dict.fromkeys(("leq", "le", "leqslant"), "is at most"),
    **dict.fromkeys(("geq", "ge", "geqslant"), "is at least"),
    **dict.fromkeys(("neq", "ne"), "is not equal to"),
    **dict.fromkeys(("approx", "sim", "simeq"), "is about"),
    **dict.fromkeys(("to", "rightarrow", "mapsto"), "to"),
    **dict.fromkeys(("ldots", "dots", "cdots"), "and so on"),
    **dict.fromkeys(("left", "right", "big", "Big", "quad", "qquad", "displaystyle"), ""),
    "lt": "is less than",
    "gt": "is greater than",
    "equiv": "is equivalent to",
    "pm": "plus or minus",
    "div": "divided by",
    "in": "in",
    "infty": "infinity",
    "circ": "degrees",
    "degree": "degrees",
    "partial": "partial",
    "Rightarrow": "implies",
    "implies": "implies",
    **{name: name for name in ("sin", "cos", "tan", "log", "ln", "exp", "min", "max", "lim")},
}
_SIGNS = {
    "=": "equals",
    "+": "plus",
    "-": "minus",
    "\u2212": "minus",
    "<": "is less than",
    ">": "is greater than",
    "\u2264": "is at most",
    "\u2265": "is at least",
    "\u2260": "is not equal to",
    "\u2248": "is about",
    "\u00d7": "times",
    "\u00b7": "times",
    "*": "times",
    "/": "over",
}
_ATOM = r"[A-Za-z0-9]{1,20}"
_REWRITES = (
    (re.compile(r"\\([%$#&])"), r"\1"),
    (re.compile(r"\\[,;:! ]|[~&]"), " "),
    (re.compile(rf"\\[dt]?frac ?\{{({_ATOM})\}} ?\{{({_ATOM})\}}"), r" \1 over \2 "),
    (re.compile(rf"\\sqrt ?\{{({_ATOM})\}}"), r" the square root of \1 "),
    (re.compile(r"\^ ?\{? ?\\circ ?\}?"), " degrees "),
    (re.compile(r"\^ ?(?:2(?!\d)|\{2\})"), " squared "),
    (re.compile(r"\^ ?(?:3(?!\d)|\{3\})"), " cubed "),
    (re.compile(rf"\^ ?(?:([A-Za-z0-9])|\{{(-?{_ATOM})\}})"), r" to the power of \1\2 "),
    (re.compile(rf"_ ?(?:([A-Za-z0-9])|\{{({_ATOM})\}})"), r" \1\2 "),
    (re.compile(rf"\{{({_ATOM})\}}"), r"\1"),
    (re.compile(r"(?<=[\w)])!"), " factorial "),
)
_COMMAND = re.compile(r"\\([A-Za-z]{1,30})")
_SAYABLE = re.compile(r"[\w .,()%|'!]{1,1000}")


def _in_words(formula: str) -> str | None:
    """The formula in words; None if a sign is left that has no word here."""
    if len(formula) > 300:
        return None
    said = _TEXT.sub(_plain_words, _BOXED.sub(r"\1", formula.replace("\n", " ")))
    for pattern, by in _REWRITES:
        said = pattern.sub(by, said)
    said = _COMMAND.sub(_command, said)
    said = "".join(f" {_SIGNS[char]} " if char in _SIGNS else char for char in said)
    said = " ".join(said.split()).replace("( ", "(").replace(" )", ")")
    return said if _SAYABLE.fullmatch(said) and "_" not in said else None


def _plain_words(match: re.Match[str]) -> str:
    return f" {match[1].replace('/', ' per ')} "


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in _COMMANDS:
        return f" {_COMMANDS[name]} "
    is_greek = "\u0370" <= html5.get(f"{name};", "") < "\u0400"
    return f" {name.removeprefix('var')} " if is_greek else match[0]


_DIGITS = "\u2070\u00b9\u00b2\u00b3\u2074-\u2079"
_RAISED_CHARS = f"{_DIGITS}\u207a-\u207f\u2071"
_RAISED = re.compile(
    f"( ?)([{_RAISED_CHARS}]{{1,12}}(?:[,\u2013-] ?[{_RAISED_CHARS}]{{1,6}}){{0,8}})"
)
_PLAIN = {
    ord(char): plain
    for char, plain in zip(
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207c\u207d\u207e\u207f\u2071",
        "0123456789+-=()ni",
        strict=True,
    )
}
_CARET = re.compile(
    r"(?<=[\w)])(?:\^(?:\{(-?[0-9]{1,3}|n)\}|\((-?[0-9]{1,3}|n)\)|(-?[0-9]{1,3}|n)(?![\w^]))"
    r"|\^(-?[0-9]{1,3})\^)"
)
_LETTER_POWER = re.compile(
    r"(?<=[\w)])(?<![A-Za-z]{2})\^(?:\{(-?)([a-z])\}|(-?)([a-z])(?!\w))", re.I
)
_TO_RAISED = {ord(plain): chr(code) for code, plain in _PLAIN.items()}
_LOWERED = re.compile(r"(?<=[A-Za-z)])~([0-9]{1,2})~")
_TEN = re.compile(r"(?<!\d)10\Z")
_YEAR = re.compile(r"(?<![\w.,])(?:1[5-9]|20)\d\d\Z")
_WORD = re.compile(r"(?<![^\W\d_])[^\W\d_]{1,4}\Z")
_UNITS = re.compile("m|km|cm|mm|dm|nm|\u00b5m|\u03bcm|ft|yd|mi|in|hm|dam|s|kg|px|ha")
_WORDS_TOO = frozenset(("in", "ft", "mi", "ha", "a", "s"))
_FUNCTIONS = re.compile("a?(?:sin|cos|tan|cot|sec|csc)h?|log|ln")
_COUNTS = re.compile(r"(?:\d ?|[/\u00b7\u22c5])\Z")
_PARENTHESISED = re.compile(r"\((?:[^\W\d_]{0,2}[\d\s+*/=.,-]){0,20}[^\W\d_]{0,2}\)\Z")
_EXPONENT = re.compile(r"[-+]?\d{1,3}|[-+]?[ni]")
_CHARGE = re.compile(r"\d?[-+]")
_ION = re.compile(r"[A-Z][A-Za-z]?\d{0,2}\Z")
_ISOTOPE = re.compile(r"[A-Z][a-z]?(?![a-z])")


def say_powers(text: AlignedText) -> AlignedText:
    """Replaces superscripts. After a number, unit or variable a superscript is a power (10⁶, 5 m²).
    After a word or punctuation it is a note (`proven.²³`), which is removed."""
    text = text.sub(_CARET, lambda m: (m[m.lastindex or 1].translate(_TO_RAISED),), "^")
    text = text.sub(_LETTER_POWER, _letter_power, "^")
    text = text.sub(_LOWERED, (1,), "~")
    raised = "".join(map(chr, _PLAIN))
    return text.sub(_RAISED, _power_or_note, raised).translate({0x2044: "/"})


def _letter_power(match: re.Match[str]) -> Pieces:
    minus = "minus " if match[1] or match[3] else ""
    return (f" to the power of {minus}", 2 if match[2] else 4)


def _power_or_note(match: re.Match[str]) -> Pieces:
    plain = match[2].translate(_PLAIN)
    whole, (start, end) = match.string, match.span()
    before, after = whole[max(0, start - 60) : start], whole[end : end + 3]
    if after[:1] == "\u2044":
        return (1, "" if match[1] or not before[-1:].isdigit() else " ", plain)
    if (match[1] or not before[-1:].isalnum()) and _ISOTOPE.match(after) and plain.isdigit():
        return (1, plain)
    if _CHARGE.fullmatch(plain):
        return (" " if _ION.search(before) else "", plain)
    if not _EXPONENT.fullmatch(plain) or not _is_raised(before, plain):
        return ()
    if plain in ("2", "3"):
        return (2,)
    exponent = plain.replace("-", "minus ").replace("+", "plus ")
    return (f" to the power of {exponent}", " " if after[:1].isalnum() else "")


def _is_raised(before: str, exponent: str) -> bool:
    """Whether `before` can be the base of a power. A year cannot. Only 10 can have the power 1."""
    if exponent == "1":
        return bool(_TEN.search(before))
    if before[-1:].isdigit():
        return not _YEAR.search(before) or not exponent.isdigit()
    if before[-1:] == ")":
        return bool(_PARENTHESISED.search(before))
    word = _WORD.search(before)
    if not word:
        return False
    name, has_number = word[0], bool(_COUNTS.search(before[: word.start()]))
    if _UNITS.fullmatch(name):
        return has_number or name not in _WORDS_TOO or exponent[0] == "-"
    if _FUNCTIONS.fullmatch(name):
        return True
    if len(name) == 1:
        return name[0] < "\u0400" and (name != "I" or has_number)  # Elizabeth I²
    is_word = name.isupper() or any(char in "aeiouy" for char in normalize("NFD", name.lower()))
    is_word = is_word or name in ("st", "nd", "rd", "th")
    return len(name) <= 3 and name[0] < "\u0400" and not is_word
