"""Markdown, with the extensions of note-taking programs and wikis: marks go, their words stay.

Input: text whose lines are not joined yet. Quantifiers are bounded, so each pattern is linear. A
Markdown parser is no alternative: markdown-it-py gives no offsets inside a line, and takes every
indented paragraph for code.
"""

import re

from text.aligned import AlignedText, Pieces
from text.cleaning.formulas import LEFT_OUT, say_formulas, say_powers
from text.cleaning.notes import strip_notes, strip_source_links
from text.writing_systems import HAN, HANGUL, KANA, SPACELESS_ALPHABETS

# A target has no spaces, so `[laughs](quietly, turning away)` is no link.
_TARGET = (
    r"\( ?<?[^()\s]{0,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500})?>?"
    r"(?: +\"[^\"\n]{0,300}\"| +'[^'\n]{0,300}')? ?\)"
)
_IMAGE = re.compile(rf"!\[([^\[\]\n]{{0,500}})\]{_TARGET}")
_LINK = re.compile(rf"\[([^\[\]\n]{{1,500}})\]{_TARGET}")
_REFERENCE_LINK = re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,100}\]")
# An address must follow the colon: `[Alice]: Hello.` is a line of a script.
_REFERENCE = re.compile(
    r"^ {0,3}\[[^\[\]\n]{1,100}\]: ?(?:<[^<>\n]{0,2000}>|(?:[a-z][a-z0-9+.-]{1,20}:|www\.|"
    r"\.{0,2}/|#)\S{0,2000})"
    r"(?: \"[^\"\n]{0,300}\"| '[^'\n]{0,300}'| \([^()\n]{0,300}\))? *$",
    re.M | re.I,
)
_ESCAPED = re.compile(r"\\(?:([!-/:-@\[-`{-~])|$)", re.M)  # the last: a hard line break
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
# Code does not begin inside a word (don`t). It ends in one only with a suffix (`int`s).
_UNCASED = re.compile(f"[{HAN}{KANA}{HANGUL}{SPACELESS_ALPHABETS}]")
_CODE = re.compile(
    rf"(?:(?<!\w)|(?<={_UNCASED.pattern}))(?:(`{{1,3}})([^`\n]{{1,500}})\1"
    rf"(?:(?!\w)|(?={_UNCASED.pattern}))|(`{{1,3}})([^`\s]{{1,100}})\3(?=(?:e?s|ed|e[nr]|ing)\b))"
)
_TEX_QUOTE = re.compile(r"(?<![`\w])``(?=[^`\s])([^`'\n]{1,500})''")
_GAP = re.compile(
    r"(?<![\w_])_{3,200}(?: _{3,200}){0,20}(?![\w_])|(?<=\w\w)_{4,200}(?![\w_])"
    r"|(?<![\w_])_(?: _){2,100}(?![\w_])"
)
_CALLOUT = re.compile(
    r"^ {0,3}(?:\[![a-z][\w-]{0,30}(?:\|[^\[\]\n]{0,50})?\][+-]? ?"
    r"|:{3,10} ?(?:[a-z][\w-]{0,30})? ?)",
    re.M | re.I,
)
_COMMENT = re.compile(r"(?<![\d%])%%(?!%).{0,5000}?%%", re.S)
_EMBED = re.compile(
    r"!\[\[[^\[\]\n]{1,500}\]\]|\[\[(?:File|Image|Category|Datei|Kategorie|Fichier):[^\[\]\n]{1,500}\]\]",
    re.I,
)
_WIKI_LINK = re.compile(r"\[\[([^\[\]|\n]{1,300})(?:\|([^\[\]|\n]{1,300}))?\]\]")
_BLOCK_ID = re.compile(r"(?<=\S) \^(?=[\d-]{0,40}[A-Za-z])[A-Za-z\d-]{2,40} ?$", re.M)
_WIKI_HEADING = re.compile(r"^={2,6} ([^=\n]{1,300}?) ={2,6} ?$", re.M)
_HIGHLIGHT = re.compile(r"(?<![\w=!<>])==(?=[^\s=])([^=\n]{1,2000}?)(?<=[^\s=])==(?![\w=])")
_STRUCK = re.compile(r"~~(?=\S)([^~\n]{1,2000}?)(?<=\S)~~")
_SENTENCE_END = re.compile(
    r"(?:(?:^|[.!?:\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)]{0,2} ?)|[*_.!?] )"
    r"[*_\"'\u201c]{0,2}\Z|\n ?\Z"
)
_WRAP = r"\n(?! *(?:\n|[-*+>#|]|\d{1,3}[.)]))"
# Double marks may begin or end inside a word (**un**likely), single ones may not (2*3*4).
_EMPHASIS = re.compile(
    rf"\*\*(?=[^\s*])((?:[^*\n]|{_WRAP}){{1,2000}}?)(?<=[^\s*])\*\*"
    rf"|(?:(?<![\w*])|(?<={_UNCASED.pattern}))\*{{1,3}}(?=[^\s*])((?:[^*\n]|{_WRAP}){{1,2000}}?)"
    rf"(?<=[^\s*])\*{{1,3}}(?:(?![\w*])|(?={_UNCASED.pattern}))"
    r"|(?<![\w_])_{1,3}(?=[^\s_])"
    rf"((?:[^_\n]|(?<=\w)_(?=\w)|{_WRAP}){{1,2000}}?)(?<=[^\s_])_{{1,3}}(?![\w_])"
)
# Emphasis marks that are left at a word's edge: unclosed or nested ones.
_STRAY = re.compile(
    r"(?<![\w*])\*{1,3}(?=[\w\"'(\[])|(?<=[\w.,;:!?)\]\"'%])\*{1,3}(?![\w*])|(?<![\w_])_{1,3}(?=\w)|(?<=\w)_{1,3}(?![\w_])"
    r"| \*{1,3}(?=\.?$)",
    re.M,
)


_ENDS = (".", ",", ":", ";", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f", "\uff1a", "\uff0c")


def _as_line(match: re.Match[str]) -> Pieces:
    """A heading or list item as a sentence: it gets a full stop if it has no punctuation."""
    body = match[1].rstrip(" *_~`\"')]")
    return (1, "" if body.endswith(_ENDS) else ".")


_SIGN = re.compile("(?:([\u2705\u2714\u2713\u2611])|[\u274c\u274e\u2717\u2718\U0001f6ab])\ufe0f?")


def _as_sentence(match: re.Match[str]) -> Pieces:
    """A table's row as a sentence: its cells with commas between. Check marks are yes and no."""
    pieces: list[str | slice] = []
    for cell in _CELL.finditer(match.string, *match.span(1)):
        sign = _SIGN.fullmatch(cell[0])
        if sign or any(char.isalnum() for char in cell[0]):
            pieces += [", "] if pieces else []
            pieces.append(slice(*cell.span()) if not sign else "yes" if sign[1] else "no")
    last = match[1].rstrip(" |*_~`\"')]")
    return [*pieces, "" if last.endswith(_ENDS) else "."]


def strip_markdown(text: AlignedText) -> tuple[AlignedText, list[str]]:
    """Removes the marks and keeps the words. Also gives warnings.

    Formulas without simple words and footnotes are left out, each kind with a warning.
    """
    text, warnings = _strip_inline_sources(text)
    text = text.sub(_ESCAPED, lambda match: (1,) if match[1] and match[1] not in "*`~" else ())
    text = text.sub(_TABLE_RULE, ())
    text = text.sub(_TABLE_ROW, _as_sentence)
    text = text.sub(_RULE, ("\n",))
    text = text.sub(_GAP, _blank, "_")
    text = text.sub(_QUOTE, ())
    text = text.sub(_CALLOUT, ())
    for pattern in (_HEADING, _WIKI_HEADING):
        text = text.sub(pattern, lambda match: ("\n", *_as_line(match), "\n"))
    text = text.sub(_NUMBERED, _as_line)
    text = text.sub(_BULLET, _as_line)
    text = text.sub(_TEX_QUOTE, ('"', 1, '"'), "`")
    text = text.sub(_CODE, lambda match: (2 if match[1] else 4,), "`")
    text = text.sub(_SEPARATOR, (", ",))
    text = text.sub(_HIGHLIGHT, (1,), "=")
    for _ in ("outer", "inner"):
        text = text.sub(_EMPHASIS, _emphasised, "*_")
    text = text.sub(_STRUCK, (1,), "~")
    text = text.sub(_STRAY, (), "*_")
    return text, warnings


def _strip_inline_sources(text: AlignedText) -> tuple[AlignedText, list[str]]:
    """Replaces or removes formulas, comments, links and notes. Also gives warnings."""
    text, left_out = say_formulas(text)
    text = text.sub(_COMMENT, ())
    text = text.sub(_EMBED, ())
    text = text.sub(_WIKI_LINK, _wiki_link)
    text = text.sub(_BLOCK_ID, ())
    text = strip_source_links(text)
    for pattern in (_IMAGE, _LINK):
        text = text.sub(pattern, (1,), "[")
    undefined, text = text, text.sub(_REFERENCE, (), "[")
    if text is not undefined:
        text = text.sub(_REFERENCE_LINK, (1,), "[")  # before `strip_notes` takes `[1]` for a note
    text, warnings = strip_notes(text)
    text = text.sub(_REFERENCE_LINK, (1,), "[")
    return say_powers(text), [*([LEFT_OUT] if left_out else []), *warnings]


def _wiki_link(match: re.Match[str]) -> Pieces:
    """A wiki link as the text it is shown by: `[[Trips/2024#May|last year]]` as `last year`."""
    if match[2]:
        return (2,)
    target, start = match[1], match.start(1)
    page = target.split("#")[0].split("^")[0].rstrip()
    if not page:
        return (slice(start + 1, match.end(1)),)
    return (slice(start + page.rfind("/") + 1, start + len(page)),)


def _blank(match: re.Match[str]) -> Pieces:
    """A gap to fill in (`____`) as the word `blank`."""
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return (" " if before.isalnum() else "", "blank", " " if after.isalnum() else "")


# An emphasised word of these belongs to the sentence after it: *What* I want, *My* Tesla.
_STRESSED = re.compile(
    "an?|all|and|are|as|at|both|but|by|can|did|do|does|each|even|every|for|from|he|her|his|how|i|"
    "if|in|is|it|its|just|my|never|no|not|of|on|only|our|she|so|some|that|the|their|these|they|"
    "this|those|to|was|we|were|what|when|where|which|who|whose|why|will|with|you|your",
    re.I,
)


def _emphasised(match: re.Match[str]) -> Pieces:
    """Emphasised text. Between two sentences (`*sighs*`) it becomes a sentence of its own."""
    group = match.lastindex or 1
    if not _stands_alone(match, match[group]):
        return (group,)
    return (group, ". " if match.string[match.end() : match.end() + 1].isalnum() else ".")


def _stands_alone(match: re.Match[str], body: str) -> bool:
    whole, (start, end) = match.string, match.span()
    body = body.rstrip(" *_~`\"')]")
    before, after = whole[max(0, start - 4) : start], whole[end : end + 3]
    if body.endswith(_ENDS) or _STRESSED.fullmatch(body) or not _SENTENCE_END.search(before):
        return False
    begins = after.lstrip(" *_\"'(\u00bf\u00a1\u201c\u2018\u00ab\u201e")[:1]
    words = body.split()
    is_name = len(words) > 1 and all(word[:1].isupper() for word in words)
    if after[:1] == " " and after[1:2] in ("*", "_"):
        return True
    spaced = after[:1] == " " or bool(_UNCASED.match(begins))
    return spaced and begins.isalnum() and not begins.islower() and not is_name
