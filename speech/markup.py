"""What is written but not spoken: pause tags, HTML, Markdown, links, citations.

Every function takes and gives a `Traced` text. Line ends are still line ends here; the marks for
pauses and paragraphs are private-use characters, which `speech.text` has removed from the source.
Quantifiers are bounded, so no text makes a pattern slow.
"""

import html
import re

from speech.traced import Pieces, Traced

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
_DURATION = r"(?P<number>\d{1,6}(?:\.\d{0,6})?|\.\d{1,6}) ?(?P<unit>ms|msec|s|sec|secs|seconds?)?"
_PAUSE = re.compile(rf"\[ ?pause ?[:= ]? ?(?:{_DURATION})? ?\]", re.I)
_BREAK = re.compile(r"<break\b(?P<attributes>[^<>]{0,200})>(?: ?</break>)?", re.I)
_TIME = re.compile(rf"""\btime ?= ?["']? ?{_DURATION}""", re.I)
_STRENGTH = re.compile(r"""\bstrength ?= ?["']? ?([a-z-]{1,10})""", re.I)


def _milliseconds(match: re.Match[str]) -> int:
    number, unit = float(match["number"]), (match["unit"] or "").lower()
    # Both units are in use for a bare number: [pause:1.5] is seconds, [pause:1500] cannot be.
    bare_seconds = not unit and number * 1000 <= MAX_PAUSE_MS
    milliseconds = number * 1000 if bare_seconds or unit.startswith("s") else number
    return min(round(milliseconds), MAX_PAUSE_MS)


def take_pauses(text: Traced) -> tuple[Traced, dict[int, int]]:
    """Puts `PAUSE` in the place of each pause tag; also gives the lengths in ms, by origin."""
    lengths: dict[int, int] = {}

    def pause(match: re.Match[str]) -> Pieces:
        lengths[text.at[match.start()]] = (
            _milliseconds(match) if match["number"] else DEFAULT_PAUSE_MS
        )
        return (PAUSE,)

    def ssml_break(match: re.Match[str]) -> Pieces:
        time = _TIME.search(match["attributes"])
        strength = _STRENGTH.search(match["attributes"])
        if time:
            length = _milliseconds(time)
        else:
            length = _STRENGTHS_MS.get(strength[1].lower() if strength else "medium", 500)
        lengths[text.at[match.start()]] = length
        return (PAUSE,)

    text = text.sub(_PAUSE, pause)
    text = text.sub(_BREAK, ssml_break)
    return text, lengths


_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_COMMENT = re.compile(r"<!--.{0,5000}?-->|<![a-z][^<>]{0,500}>|<\?[a-z][^<>]{0,500}>", re.S | re.I)
_UNSPOKEN_ELEMENT = re.compile(r"<(script|style)\b[^<>]{0,2000}>.{0,5000}?</\1 ?>", re.I | re.S)
_BLOCKS = (
    "p|div|li|ul|ol|h[1-6]|blockquote|pre|table|tr|hr|section|article|header|footer|main|nav|"
    "details|summary|figure|figcaption|dl|dt|dd|aside|form|fieldset|address|button|option|caption"
)
_INLINES = (
    "a|abbr|b|big|body|center|cite|code|del|em|font|head|html|i|img|ins|kbd|mark|q|s|small|span|"
    "strike|strong|sub|sup|td|th|thead|tbody|title|tt|u|var|"
    "label|select|input|textarea|time|wbr|video|source|picture|svg|path|iframe|canvas|noscript|bdi|"
    "bdo|dfn|data|dir|link|meta|base|ruby|rt|rp|samp|legend|col|colgroup|tfoot|"
    "lang|w|par|seq|media|desc|metadata|lexicon|token|[a-z]{1,20}:[a-z-]{1,30}|"
    "speak|voice|prosody|emphasis|say-as|phoneme|sentence|paragraph|audio|"
    "tool_call|tool_response|think"
)
_CELL_END = re.compile(r"</t[dh] ?>\s{0,100}(?=<t[dh]\b)", re.I)
# `</a><a>`: words of two elements are two words.
_BETWEEN = re.compile(
    r"(?<=[\w.,;:!?])(?:</[a-z][a-z0-9:-]{0,30} ?>)+(?=<[a-z][^<>]{0,2000}>\w)", re.I
)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCKS})(?:[\s/][^<>]{{0,2000}})?>", re.I)
_LINE_BREAK_TAG = re.compile(r"</?br(?:\s[^<>]{0,200})? ?/?>", re.I)
# Attributes need values here: `a <b and c> d` is no tag.
_VALUE = r"""(?:"[^"<>]{0,2000}"|'[^'<>]{0,2000}'|[^\s"'<>=]{1,500})"""
_BARE = (
    "checked|disabled|controls|autoplay|loop|muted|download|selected|hidden|required|readonly|async"
)
_ATTRIBUTES = rf"(?:\s{{1,5}}(?:[\w:.-]{{1,60}}\s?=\s?{_VALUE}|{_BARE})){{0,20}}"
_INLINE_TAG = re.compile(rf"</?(?:{_INLINES}){_ATTRIBUTES}\s{{0,5}}/?>", re.I)


def unescape(text: Traced) -> Traced:
    """Resolves HTML entities."""
    return text.sub(_ENTITY, lambda match: (html.unescape(match[0]),))


def strip_html(text: Traced) -> Traced:
    """Removes comments, scripts and known tags; block tags end a paragraph. `a < b` stays."""
    for pattern, piece in (
        (_COMMENT, ""),
        (_UNSPOKEN_ELEMENT, " "),
        (_LINE_BREAK_TAG, "\n"),
        (_CELL_END, ", "),
        (_BLOCK_TAG, "\n\n"),
        (_BETWEEN, " "),
        (_INLINE_TAG, ""),
    ):
        text = text.sub(pattern, (piece,))
    return text


_FENCE = re.compile(
    r"^ {0,3}(`{3,20}(?=[^`\n]{0,200}\n)|~{3,20}(?= ?[\w{.]))[^\n]{0,200}\n"
    r"(?:.*?^ {0,3}\1[`~]* *$|.*\Z)|"
    # Bare tildes are more often a change of scene: code lies close between two of them.
    r"^ {0,3}(~{3,20}) *\n(?! *\n| {0,3}~)(?:.{0,4000}?[^\s~]) *\n {0,3}\2 *$",
    re.S | re.M,
)
_FORMULA = re.compile(
    r"\$\$[^$]{1,2000}\$\$"
    r"|\\\[(?=(?:[^\\\]]|\\(?!\])){0,500}?(?:[\^_=]|\\[a-zA-Z]))(?:[^\\]|\\(?!\])){1,2000}\\\]"
    r"|\\begin\{([a-z]{1,20}\*?)\}(?:(?!\\end).){0,2000}\\end\{\1\}",
    re.S,
)
_INLINE_FORMULA = re.compile(r"(?<![\w$\\])\$(?=[^\s$\d])([^$\n]{0,300}[^\s$\\])\$(?![\w$])")
# A target has no spaces, so `[laughs](quietly, turning away)` is no link.
_TARGET = (
    r"\( ?<?[^()\s]{0,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500})?>?"
    r"(?: +\"[^\"\n]{0,300}\"| +'[^'\n]{0,300}')? ?\)"
)
_IMAGE = re.compile(rf"!\[([^\[\]\n]{{0,500}})\]{_TARGET}")
_LINK = re.compile(rf"\[([^\[\]\n]{{1,500}})\]{_TARGET}")
_REFERENCE_LINK = re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,100}\]")
# What follows the colon must look like an address: `[Alice]: Hello.` is a line of a script.
_REFERENCE = re.compile(
    r"^ {0,3}\[[^\[\]\n]{1,100}\]: ?(?:<[^<>\n]{0,2000}>|(?:[a-z][a-z0-9+.-]{1,20}:|www\.|"
    r"\.{0,2}/|#)\S{0,2000})"
    r"(?: \"[^\"\n]{0,300}\"| '[^'\n]{0,300}'| \([^()\n]{0,300}\))? *$",
    re.M | re.I,
)
_FOOTNOTE = re.compile(r"^ {0,3}\[\^[^\[\]\n]{1,50}\]: ?[^\n]{0,5000}$", re.M)
_CITATION = re.compile(
    r" ?\[\^[^\[\]\s]{1,50}\]|(?<=[\w.,;:!?)\]\"'])\[\d{1,3}(?:[,\u2013-] ?\d{1,3}){0,10}\]"
    r"|(?<=[\w)\"']) \[\d{1,3}(?:[,\u2013-] ?\d{1,3}){0,10}\](?=[.,;:!?)]|$)",
    re.M,
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_RULE = re.compile(
    r"^ {0,3}(?:(?:- ?){3,80}|(?:\* ?){3,80}|(?:_ ?){3,80}|(?:~ ?){3,80}|={3,80}) *$", re.M
)
_TABLE_RULE = re.compile(r"^ {0,3}\|?(?: ?:?-{1,100}:? ?\|){1,50}(?: ?:?-{1,100}:? ?)?$\n?", re.M)
_TABLE_ROW = re.compile(r"^ {0,3}\|([^\n]{1,5000}?)\|? *$", re.M)
_CELL = re.compile(r"[^|\s](?:[^|\n]{0,2000}[^|\s])?")
_HEADING = re.compile(r"^ {0,3}#{1,6} +([^\n]{1,2000}?)(?: +#{1,6})? *$", re.M)
_MARK = r"(?:[-*+•◦▪▫‣⁃·●○■□◆◇►▶➢➤✓✔✗✘☑☐→»–—] |\d{1,3}[.)] |\w\) |#|\||>)"
# An item with the lines that it is wrapped over: those are indented, or begin in lower case.
_ITEM = (
    rf"[^\n]{{1,5000}}?(?: *\n(?: (?!{_MARK})\S|(?!{_MARK})[a-zß-öø-ÿа-я])[^\n]{{0,5000}}){{0,50}}"
)
_BULLET = re.compile(
    rf"^ {{0,12}}[-*+•◦▪▫‣⁃·●○■□◆◇►▶➢➤✓✔✗✘☑☐→»–—]\ufe0f? +(?:\[[ xX]\] +)?({_ITEM}) *$", re.M
)
_NUMBERED = re.compile(rf"^( {{0,12}}(?:\d{{1,3}}[.)]|[a-zA-Z]\)) +{_ITEM}) *$", re.M)
_QUOTE = re.compile(r"^ {0,3}(?:> ?){1,10}", re.M)
_SEPARATOR = re.compile(r"(?<=\S) [|•·‧▪●] (?=\S)")
_CODE = re.compile(r"(`{1,3})([^`\n]{1,500})\1")
_WRAP = r"\n(?! *(?:\n|[-*+>#|]|\d{1,3}[.)]))"
_EMPHASIS = (
    re.compile(
        rf"(?<![\w*])\*{{1,3}}(?=[^\s*])((?:[^*\n]|{_WRAP}){{1,2000}}?)(?<=[^\s*])\*{{1,3}}(?![\w*])"
    ),
    re.compile(
        rf"(?<![\w_])_{{1,3}}(?=[^\s_])((?:[^_\n]|(?<=\w)_(?=\w)|{_WRAP}){{1,2000}}?)(?<=[^\s_])_{{1,3}}(?![\w_])"
    ),
    re.compile(r"~~(?=\S)([^~\n]{1,2000}?)(?<=\S)~~"),
)
# Bold may begin or end inside a word (**un**likely), single marks may not (2*3*4).
_BOLD = re.compile(rf"\*\*(?=[^\s*])((?:[^*\n]|{_WRAP}){{1,2000}}?)(?<=[^\s*])\*\*")
# What is left of them at a word's edge: unclosed or nested marks.
_STRAY = re.compile(
    r"(?<![\w*])\*{1,3}(?=[\w\"'(\[])|(?<=[\w.,;:!?)\]\"'%])\*{1,3}(?![\w*])|(?<![\w_])_{1,3}(?=\w)|(?<=\w)_{1,3}(?![\w_])"
    r"| \*{1,3}(?=\.?$)",
    re.M,
)


_ENDS = (".", ",", ":", ";", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f", "\uff1a", "\uff0c")


def _as_line(match: re.Match[str]) -> Pieces:
    """A heading or list item is a sentence of its own, also where its mark was all that said so."""
    body = match[1].rstrip(" *_~`\"')]")
    return (1, "" if body.endswith(_ENDS) else ".")


_SIGN = re.compile("(?:([\u2705\u2714\u2713\u2611])|[\u274c\u274e\u2717\u2718\U0001f6ab])\ufe0f?")


def _as_sentence(match: re.Match[str]) -> Pieces:
    """A table's row reads as its cells, one after the other."""
    pieces: list[str | slice] = []
    for cell in _CELL.finditer(match.string, *match.span(1)):
        sign = _SIGN.fullmatch(cell[0])
        if sign or any(char.isalnum() for char in cell[0]):
            pieces += [", "] if pieces else []
            pieces.append(slice(*cell.span()) if not sign else "yes" if sign[1] else "no")
    last = match[1].rstrip(" |*_~`\"')]")
    return [*pieces, "" if last.endswith(_ENDS) else "."]


def strip_markdown(text: Traced) -> tuple[Traced, list[str]]:
    """Removes Markdown's marks and keeps its words; fenced code, formulas and footnotes
    are left out, each with a warning."""
    warnings = []
    if _FENCE.search(text.text):
        text = text.sub(_FENCE, ("\n\n",))
        warnings.append("text: fenced code is not read aloud and was left out")
    if _FORMULA.search(text.text):
        text = text.sub(_FORMULA, (" ",))
        warnings.append("text: formulas are not read aloud and were left out")
    text = text.sub(_INLINE_FORMULA, (1,))
    for pattern in (_IMAGE, _LINK):
        text = text.sub(pattern, (1,))
    text = text.sub(_REFERENCE, ())
    if _FOOTNOTE.search(text.text):
        text = text.sub(_FOOTNOTE, ())
        warnings.append("text: footnotes are not read aloud and were left out")
    text = text.sub(_CITATION, ())
    text = text.sub(_REFERENCE_LINK, (1,))
    text = text.sub(_ESCAPED, lambda match: () if match[1] in "*`~" else (1,))
    text = text.sub(_TABLE_RULE, ())
    text = text.sub(_TABLE_ROW, _as_sentence)
    text = text.sub(_RULE, ("\n",))
    text = text.sub(_QUOTE, ())
    text = text.sub(_HEADING, lambda match: ("\n", *_as_line(match), "\n"))
    text = text.sub(_NUMBERED, _as_line)
    text = text.sub(_BULLET, _as_line)
    text = text.sub(_CODE, (2,))
    text = text.sub(_SEPARATOR, (", ",))
    for pattern in (_BOLD, *_EMPHASIS):
        text = text.sub(pattern, (1,))
    text = text.sub(_STRAY, ())
    return text, warnings


_EMAIL = re.compile(
    r"(?:<|\bmailto:)?(?<![\w.@])([\w.+-]{1,64})@((?:[\w-]{1,63}\.){1,8}[a-z]{2,24})(?![A-Za-z0-9_@-])>?",
    re.I,
)
_WIDE = "\u3000-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
_HOST = rf"(?:(?![{_WIDE}])[\w-])"
_PATH = rf"[^\s<>\"'{_WIDE}\u2013\u2014\u2026\u00ab\u00bb\u2018-\u201f]"
_URL = re.compile(
    rf"<?(?<![a-z0-9_])(?:(?:https?|ftp)://|www\.)(?:[^\s/@<>]{{1,100}}@)?"
    rf"((?:{_HOST}{{1,63}}\.){{0,8}}{_HOST}{{1,63}})"
    rf"(?::\d{{1,5}})?([/?#]{_PATH}{{0,2000}})?>?",
    re.I,
)
_LONG_HEX = re.compile(r"\b(?=[0-9a-f]{0,63}\d)(?=[0-9a-f]{0,63}[a-f])[0-9a-f]{32,128}\b", re.I)


def _dotted(text: str, start: int, end: int) -> list[str | slice]:
    pieces: list[str | slice] = []
    for part in text[start:end].split("."):
        pieces += [" dot "] if pieces else []
        pieces.append(slice(start, start + len(part)))
        start += len(part) + 1
    return pieces


def speak_links(text: Traced) -> Traced:
    """`https://www.example.com/a?b` is read as `example dot com`; hashes are not read at all."""

    def domain(match: re.Match[str]) -> Pieces:
        start = match.start(1) + 4 * match[1].lower().startswith("www.")
        path = match[2] or ""
        end = match.end(2)
        # Punctuation at the end is the sentence's, not the address's.
        mark = slice(end - len(path) + len(path.rstrip(".,;:!?)]*")), end)
        return [*_dotted(match.string, start, match.end(1)), *([mark] if path else [])]

    def address(match: re.Match[str]) -> Pieces:
        name, host = (_dotted(match.string, *match.span(part)) for part in (1, 2))
        return [*name, " at ", *host]

    text = text.sub(_URL, domain)
    text = text.sub(_EMAIL, address)
    return text.sub(_LONG_HEX, ())
