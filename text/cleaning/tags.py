"""HTML and SSML: tags go, their words stay. Then entities are resolved, once.

In this order an escaped tag (`&lt;b&gt;`), which was meant to be seen, is spoken. Quantifiers are
bounded, so each pattern is linear.
"""

import html
import re
import unicodedata
from html.entities import html5

from text.aligned import AlignedText, Pieces
from text.writing_systems import HAN, KANA

_BLOCKS = (
    "p|div|li|ul|ol|h[1-6]|blockquote|pre|table|tr|hr|section|article|header|footer|main|nav|"
    "details|summary|figure|figcaption|dl|dt|dd|aside|form|fieldset|address|button|option|caption"
)
_INLINES = (
    "a|abbr|b|big|body|center|cite|code|del|em|font|head|html|i|img|ins|kbd|mark|q|s|small|span|"
    "strike|strong|sub|sup|td|th|thead|tbody|title|tt|u|var|"
    "label|select|input|textarea|time|wbr|video|source|picture|svg|path|iframe|canvas|noscript|bdi|"
    "bdo|dfn|data|dir|link|meta|base|ruby|rb|rt|rp|rtc|samp|legend|col|colgroup|tfoot|"
    "lang|w|par|seq|media|desc|metadata|lexicon|token|[a-z]{1,20}:[a-z-]{1,30}|"
    "speak|voice|prosody|emphasis|say-as|phoneme|sentence|paragraph|audio"
)
_COMMENT = re.compile(r"<!--.{0,5000}?-->|<![a-z][^<>]{0,500}>|<\?[a-z][^<>]{0,500}>", re.S | re.I)
_UNSPOKEN_ELEMENT = re.compile(r"<(script|style)\b[^<>]{0,2000}>.{0,5000}?</\1 ?>", re.I | re.S)
_CDATA = re.compile(r"<!\[CDATA\[((?:(?!<!\[).){0,5000}?)\]\]>", re.S)
_CELL_END = re.compile(r"</t[dh] ?>\s{0,100}(?=<t[dh]\b)", re.I)
# `</a><a>`: adjacent elements are separate words.
_BETWEEN = re.compile(
    r"(?<=[\w.,;:!?])(?:</(?!ruby|rb|rt|rp|su[bp]\b)[a-z][a-z0-9:-]{0,30} ?>)+"
    r"(?=<(?!ruby|rb|rt|rp|su[bp]\b)[a-z][^<>]{0,2000}>\w)",
    re.I,
)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCKS})(?:[\s/][^<>]{{0,2000}})?>", re.I)
_LINE_BREAK_TAG = re.compile(r"</?br(?:\s[^<>]{0,200})? ?/?>", re.I)
# An attribute needs a value: `a <b and c> d` is no tag.
_VALUE = r"""(?:"[^"<>]{0,2000}"|'[^'<>]{0,2000}'|[^\s"'<>=]{1,500})"""
_BARE = (
    "checked|disabled|controls|autoplay|loop|muted|download|selected|hidden|required|readonly|async"
)
_ATTRIBUTES = rf"(?:\s{{1,5}}(?:[\w:.-]{{1,60}}\s?=\s?{_VALUE}|{_BARE})){{0,20}}"
_INLINE_TAG = re.compile(rf"</?(?:{_INLINES}){_ATTRIBUTES}\s{{0,5}}/?>", re.I)
_ALIAS = re.compile(
    r"<sub\b[^<>]{0,200}?\balias\s?=\s?(?:\"([^\"<>]{0,500})\"|'([^'<>]{0,500})')[^<>]{0,200}>"
    r"[^<>]{0,500}</sub ?>",
    re.I,
)
_SHOWN_AS_CODE = re.compile(r"`{1,3}<(/?[a-z][^<>`\n]{0,100})>`{1,3}", re.I)
_NAME = r"[a-z][\w:.-]{0,40}"
_END_TAG = re.compile(rf"</({_NAME})\s{{0,3}}>", re.I)
_ANY_TAG = re.compile(rf"<({_NAME}){_ATTRIBUTES}\s{{0,5}}>", re.I)
_EMPTY_TAG = re.compile(rf"<{_NAME}(?:\s[^<>]{{0,500}})?/>", re.I)
_A_NAME = re.compile(r"(?<!\w)<([A-Z][a-z][\w-]{0,40})>")
_NEEDS_NO_END = re.compile("br|hr|img|li|td|th|tr|dd|dt|wbr", re.I)
# Tags of speakers stay: they are a script's labels.
_SPEAKER = re.compile(r"(?:person|speaker|voice|host|guest)[ _-]?\d{1,3}", re.I)


def strip_tags(text: AlignedText) -> AlignedText:
    """Removes comments, scripts and tags. A block tag ends a paragraph.

    `a < b` stays. A capitalised name (`<Mark>`) is a word, unless the text has its end tag.
    """
    ended = {tag[1].lower() for tag in _END_TAG.finditer(text.text)}

    def lone_name(match: re.Match[str]) -> Pieces | None:
        is_tag = match[1].lower() in ended or _NEEDS_NO_END.fullmatch(match[1])
        return None if is_tag or _SPEAKER.fullmatch(match[1]) else (1,)

    def unknown(match: re.Match[str]) -> Pieces | None:
        is_tag = match[1].lower() in ended and not _SPEAKER.fullmatch(match[1])
        return (" ",) if is_tag else None

    if "<" not in text.text:
        return _strip_readings(text)
    text = text.sub(_SHOWN_AS_CODE, (1,))
    text = text.sub(_CDATA, (1,))
    text = text.sub(_COMMENT, ())
    text = text.sub(_UNSPOKEN_ELEMENT, (" ",))
    text = _strip_readings(text)
    text = text.sub(_ALIAS, lambda match: (match.lastindex or 1,))
    text = text.sub(_FRACTION, lambda m: (*((1, " ") if m[1] else ()), 2, "/", 3))
    text = text.sub(_SCRIPT, _raised_or_lowered)
    text = text.sub(_A_NAME, lone_name)
    for pattern, piece in (
        (_LINE_BREAK_TAG, "\n"),
        (_CELL_END, ", "),
        (_BLOCK_TAG, "\n\n"),
        (_BETWEEN, " "),
        (_INLINE_TAG, ""),
    ):
        text = text.sub(pattern, (piece,))
    text = text.sub(_EMPTY_TAG, (" ",))
    text = text.sub(_ANY_TAG, unknown)
    return text.sub(_END_TAG, lambda match: None if _SPEAKER.fullmatch(match[1]) else ())


_KANJI = f"{HAN}\u3006\u30f6"
_KANA = f"{KANA}\u3105-\u312f\u02ca\u02c7\u02cb\u02d9"
_RUBY_TEXT = re.compile(
    r"<r(?:tc|t|p)(?:\s[^<>]{0,200})?>(?:[^<>]|</?(?!r|/)[a-z][^<>]{0,200}>){0,200}"
    r"(?:</r(?:tc|t|p) ?>|(?=<))",
    re.I,
)
# Remarks in kana that are no readings.
_REMARK = (
    "もちろん|たぶん|ただし|つまり|など|"
    "ほか|のみ|まで|から|より|また|すべて|"
    "なし|あり|うち|いわゆる|おそらく"
)
_SPOKEN_AS = rf"[{_KANA} /\uff0f]{{1,20}}"
_TONES = "āáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜ"
_PINYIN = rf"(?=[a-z\u00fc' ]{{0,20}}[{_TONES}])[a-z\u00fc' {_TONES}]{{1,60}}"
# The reading repeats the kana at a word's end.
_READING = re.compile(
    rf"(?<=[{_KANJI}])([{_KANA}]{{0,4}})(?:\u300a{_SPOKEN_AS}\1\u300b"
    rf"|[(\uff08\[{{](?!(?:{_REMARK})[)\uff09\]}}])(?:{_SPOKEN_AS}\1|{_PINYIN})[)\uff09\]}}])"
)
# A bar marks where the base begins; the brackets after it hold its reading.
_MARKED_BASE = re.compile(r"\uff5c([^\s\uff5c\u300a]{1,30})\u300a[^\u300a\u300b\n]{1,30}\u300b")
_BRACED = re.compile(rf"\{{([{_KANJI}]{{1,20}})(?:\|[{_KANA}]{{1,20}}){{1,10}}\}}")


def _strip_readings(text: AlignedText) -> AlignedText:
    """Ruby: keeps the base. Removes `<rt>`, `<rp>`, and kana in brackets after kanji."""
    text = text.sub(_RUBY_TEXT, ())
    text = text.sub(_MARKED_BASE, (1,))
    text = text.sub(_BRACED, (1,))
    return text.sub(_READING, (1,))


_SCRIPT = re.compile(
    r"<(su[pb])(?:\s[^<>]{0,500})?>((?:[^<]|<(?!/?su[pb]\b)[^<>]{0,500}>){0,100}?)</\1 ?>", re.I
)
_FRACTION = re.compile(r"(\d)?<sup>(\d{1,3})</sup> ?[/\u2044] ?<sub>(\d{1,3})</sub>", re.I)
_MARKUP = re.compile(r"<[^<>]*>|\s")
_RAISED = str.maketrans(
    "0123456789+-\u2212\u2013n",
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207b\u207b\u207f",
)
_POWER = re.compile("[-+\u2212\u2013]?[0-9]{1,3}|n|[0-9]?[-+\u2212\u2013]")
_LETTER_POWER = re.compile("[-\u2212\u2013][a-z]|[b-df-mp-z]")
_BASE = re.compile(r"(?<![^\W_])[a-z0-9]\Z")
_MINUS = str.maketrans("\u2212\u2013", "--")
_ORDINAL = re.compile(r"\d\Z|\b[nN]\Z")
_NOTES = re.compile("[0-9]{1,3}(?:[,;\u2013-][0-9]{1,3}){1,10}|[*\u2020\u2021\u00a7\u00b6#]{1,4}")


def _raised_or_lowered(match: re.Match[str]) -> Pieces:
    """`<sup>` and `<sub>`: a raised number becomes Unicode superscripts, in which `say_powers`
    tells powers from notes. Other content stays as it is: CO2, 1st, XIXe."""
    content = html.unescape(_MARKUP.sub("", match[2]))
    before = match.string[max(0, match.start() - 3) : match.start()]
    if match[1].lower() == "sub":
        return (" ", 2) if content.isalpha() and before[-1:].isalpha() else (2,)
    if _NOTES.fullmatch(content):
        return ()
    if content in ("TM", "SM"):
        return ("\u2122",)
    if content in ("o", "a") and _ORDINAL.search(before):
        return ("\u00ba" if content == "o" else "\u00aa",)
    if _LETTER_POWER.fullmatch(content) and _BASE.search(before):
        return ("^{", content.translate(_MINUS), "}")
    if len(content) == 1 and content.isalpha() and content != "n":
        is_note = before[-1:] in ".,;:!?)\"'" or (before.islower() and before.isalpha())
        return () if is_note else (2,)
    return (content.translate(_RAISED),) if _POWER.fullmatch(content) else (2,)


_ENTITY = re.compile(
    r"&(?:amp;){0,2}(#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});"
    r"|&(amp|nbsp|quot|lt|gt)(?![\w;=])",
    re.I,
)
# A tag that is shown as text becomes its words; `List&lt;String&gt;` and `a &lt; b` do not.
_SHOWN_TAG = re.compile(
    r"(?:(?<!\w)|(?=&lt;/))&(?:amp;)?lt;(?=[^\s&|])([^<>\n]{1,300}?)(?<=\S)&(?:amp;)?gt;"
)
_ESCAPED_DOCUMENT = re.compile(r"\A\s{0,20}&lt;(p|div|speak|html|h[1-6]|ul|ol|article)\b", re.I)


def unescape_document(text: AlignedText) -> AlignedText:
    """Resolves the entities of a document that is escaped as a whole, as in RSS feeds."""
    begin = _ESCAPED_DOCUMENT.match(text.text)
    if not begin or not re.search(r"/[a-z]\w{0,20} ?&gt;\s{0,20}\Z", text.text[-50:], re.I):
        return text
    return text.sub(re.compile("&(?:lt|gt|quot|amp);"), lambda m: (html.unescape(m[0]),))


def unescape(text: AlignedText) -> AlignedText:
    """Resolves entities, even if escaped twice. A tag that is shown as text becomes its words."""
    text = text.sub(_SHOWN_TAG, _shown, "&")
    return text.sub(_ENTITY, _character)


def _shown(match: re.Match[str]) -> Pieces:
    whole, (start, end) = match.string, match.span()
    before, after = whole[max(0, start - 1) : start], whole[end : end + 1]
    return (" " if before.isalnum() else "", 1, " " if after.isalnum() else "")


def _character(match: re.Match[str]) -> Pieces | None:
    name = match[1] or match[2]
    if name[0] != "#" and f"{name};" not in html5:
        return None
    chars = html.unescape(f"&{name};")
    # Private-use characters mark pauses and paragraphs by now, so an entity may not make one.
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co", "Cs") for char in chars):
        return ("\n",) if "\n" in chars else ()
    return (" ",) if chars.isspace() else (chars,)
