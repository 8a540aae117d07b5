"""Footnotes, citations, and remarks of editors such as `[citation needed]`."""

import re

from text.aligned import AlignedText, Pieces

_FOOTNOTE = re.compile(r"^ {0,3}\[\^[^\[\]\n]{1,50}\]: ?[^\n]{0,5000}$", re.M)
_BEHIND = r".,;:!?)\]\"'\u201d\u2019\u00bb\u203a\u300d\u300f\u3002\uff01\uff1f"
_NUMBERS = r"[1-9]\d{0,2}(?:[,;\u2013-] ?\d{1,3}){0,10}"
_CITATION = re.compile(
    rf" ?\[\^[^\[\]\s]{{1,50}}\]|(?<=[\w{_BEHIND}])\[{_NUMBERS}\]"
    r"(?::\d[\d\u2013-]{0,9})?"
    # After a word other letters complete it: friend[s], provide[d].
    rf"|(?:(?<=[{_BEHIND}])\[[a-z]|(?<=[a-z][a-z][a-z])\[[abc])\]"
)
# A number that links to its source, or to a page of it.
_NUMBERED_LINK = re.compile(
    rf" ?\[{_NUMBERS}\]\((?:pp?\.? ?\d[^()\n]{{0,20}}|https?://[^()\s]{{1,2000}})\)"
)
_IN_PARENTHESES = re.compile(
    r"(?:(?<=[.,;:!?\"'\u201d\u2019])|(?<=[^\W\d_][^\W\d_][^\W\d_]))\(\d{1,3}\)(?=[\s.,;:!?]|\Z)"
)
# Several citations in papers: [1], [2] and [5]-[7].
_CITED = rf"\[{_NUMBERS}\](?:(?:[,;] ?| ?[-\u2013] ?|,? and )\[{_NUMBERS}\]){{0,20}}"
_SET_OFF = re.compile(
    rf"(?<=[\w.!?)\"'\u201d\u2019\u00bb]) {_CITED}(?=[.,;:!?)]|$)"
    rf"|(?:(?<=[a-z)])|(?<=\bal\.)) {_CITED}(?= [a-z(])"
    r"|(?<=[a-z)]) \([1-9]\d{0,2}\)(?=[.;!?](?:\s|\Z))",
    re.M,
)
# After these words the number belongs to the sentence: `as in [23] we see`, `five (5).`
_NEEDS_NUMBER = re.compile(
    r"(?:(?:teen|ty)|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|"
    r"thousand|figure|table|equation|section|chapter|step|part|item|page|number|level|grade|"
    r"paragraph|article|clause|rule|line|point|question|version|in|by|of|to|on|at|as|or|see|and|"
    r"for|ref|from|with|than|cf|like|the|row|column|exercise|problem|theorem|lemma|example|"
    r"choose|press|select|option|type|enter)|"
    r"\b(?:refs?|figs?|eqs?|nos?|sec|ch|pp?|vol|cf)\.)\Z",
    re.I,
)
_LAST_WORD = re.compile(r"[^\W\d_]{1,16}\Z")
_REMARK = (
    r"(?:citation|clarification|page|verification|attribution|quotation|update|"
    r"(?:better |additional |non-primary )?source) needed|"
    r"(?:by |according to )?(?:who|whom|when|where|which|why)\?|"
    r"original research\?|(?:dubious|disputed)(?: ?[,\u2013\u2014-] ?discuss)?|failed verification|"
    r"(?:permanent )?dead link|beleg(?: fehlt|e fehlen)\??|réf\. (?:nécessaire|souhaitée)|"
    r"cita requerida|senza fonte|carece de fontes\??|bron\?|potrzebny przypis|källa behövs|"
    r"kilde mangler|trenger referanse|kaynak belirtilmeli|"
    r"источник(?:\?| не указан[^\[\]\n]{0,20})|"
    r"要出典|来源请求|來源請求|출처 필요"
)
_NOTE = (
    r"(?:foot|end)?notes?|nb|n|nota|anm|anmerkung|fn|fußnote|réf|ref|"
    r"прим|注|註|注釈|脚注|주"
)
_EDIT = (
    r"edit(?: source)?|bearbeiten|modifier(?: le code)?|editar(?: código)?|modifica|bewerken|"
    r"redigera|rediger|edytuj|düzenle|править|"
    r"编辑|編輯|編集|편집"
)
_EDITORIAL = re.compile(
    rf" ?\[(?:(?:{_REMARK})|(?:{_NOTE})\.? ?\d{{1,3}})\]"
    rf"|(?:(?<=\w)| )\[(?:{_EDIT})(?: ?\| ?[^\[\]\n]{{1,30}})?\](?= ?$)",
    re.I | re.M,
)
# Citations in text that is copied from chat programs with search.
_OF_CHATS = re.compile(
    r" ?\u3010\d{1,4}(?::\d{1,4})?\u2020[^\u3010\u3011\n]{1,100}\u3011"
    r"| ?:contentReference\[oaicite:\d{1,4}\]\{index=\d{1,4}\}| ?\[oaicite:\d{1,4}\]"
    r"| ?\b(?:file)?cite(?:turn\d{1,4}[a-z]{1,16}\d{1,4}){1,20}\b"
)
_DAGGERS = re.compile(r"(?<=[\w.,;:!?)\"'\u201d\u2019])[\u2020\u2021]{1,3}(?!\w)")


def strip_source_links(text: AlignedText) -> AlignedText:
    """Removes numbers that link to a source: `[3](https://...)`."""
    return text.sub(_NUMBERED_LINK, (), "[")


def strip_notes(text: AlignedText) -> tuple[AlignedText, list[str]]:
    """Removes footnotes and all references to notes and sources. Also gives warnings."""
    shorter = text.sub(_FOOTNOTE, (), "[")
    warnings = []
    if shorter is not text:
        warnings.append("text: footnotes are not read aloud and were left out")
    text = shorter.sub(_EDITORIAL, (), "[")
    if any(mark in text.text for mark in ("\u3010", "oaicite", "citeturn")):
        text = text.sub(_OF_CHATS, ())
    text = text.sub(_CITATION, (), "[")
    text = text.sub(_IN_PARENTHESES, (), "(")
    text = text.sub(_SET_OFF, _set_off, "[(")
    return text.sub(_DAGGERS, (), "\u2020\u2021"), warnings


def _set_off(match: re.Match[str]) -> Pieces | None:
    before = match.string[max(0, match.start() - 16) : match.start()]
    word = _LAST_WORD.search(before) if match[0][1] == "(" else None
    is_name = bool(word and word[0][0].isupper())
    if before[-1:] in (".", "!", "?") and match.string[match.end() : match.end() + 1] == ":":
        return None  # after a sentence, `[2]: Yes.` is a speaker's label
    return None if is_name or _NEEDS_NUMBER.search(before) else ()
