"""What is removed whole: reasoning, code, front matter, subtitle times, page numbers, colours.

Removed words come with a warning. Quantifiers are bounded, so each pattern is linear.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

from text.aligned import AlignedText, Pieces
from text.writing_systems import UNSPACED

_ANSI = re.compile(
    r"(?:\x1b|\u241b|\^\[|\\x1b|\\033|\\e|\\u001b)"
    r"(?:\[[0-9;?]{0,40}[ -/]{0,4}[@-~]|\][^\x07\x1b\n]{0,300}(?:\x07|\x1b\\))"
    # `[1;31m`: a sequence whose escape character was lost in a copy.
    r"|\[(?:\d|[2-4]\d|9[0-7]|10[0-7])(?:;\d{1,3}){0,6}m(?![^\[\]\n]{0,80}\])"
)


def strip_colours(text: AlignedText) -> AlignedText:
    """Removes ANSI control sequences of terminals. Runs before `normalise`, which would remove the
    escape character and leave the rest."""
    return text.sub(_ANSI, (), "[]")


_REASONING = r"think(?:ing)?|thoughts?|reasoning(?:_content)?|reflection|scratchpad|inner_monologue"
_CALLS = r"(?:tool|function)_(?:calls?|uses?|code|responses?|results?|outputs?)"
_TAG = re.compile(
    rf"(?<!`)(?:[<\u25c1] ?(?P<end>/?) ?(?:[a-z]{{1,12}}:)?(?P<name>{_REASONING}|{_CALLS})"
    r"(?:\s[^<>]{0,500}(?<!/))?[>\u25b7]|(?-i:\[(?P<closed>/?)(?P<upper>THINK)\]))(?!`)",
    re.I,
)
_CHANNEL = re.compile(
    r"<\|?channel\|?> ?(?:analysis|commentary|thought)\b.*?(?:<\|(?:end|call)\|>|<channel\|>|\Z)",
    re.S | re.I,
)
# Reasoning in a folded block, as chat programs export it.
_DETAILS = re.compile(
    r"<(?:(/)details ?|details\s[^<>]{0,200}?\btype=[\"']?"
    r"(reasoning|tool_calls|code_interpreter)\b[^<>]{0,500})>",
    re.I,
)
_ROLE = re.compile(
    r"<\|(?:start|im_start)\|> ?(?:assistant|user|system|developer)?|<\|channel\|> ?final", re.I
)
_FENCE = re.compile(
    r"^ {0,3}(`{3,20}(?=[^`\n]{0,200}\n)|~{3,20}(?= ?[\w{.]))[^\n]{0,200}\n"
    r"(?:.*?^ {0,3}\1[`~]* *$|.*\Z)|"
    # A bare `~~~` is mostly a change of scene. It is a fence only directly beside code.
    r"^ {0,3}(~{3,20}) *\n(?! *\n| {0,3}~)(?:.{0,4000}?[^\s~]) *\n {0,3}\2 *$",
    re.S | re.M,
)
# Keys are in lower case or known: `Anna: Hello.` between two rules is a script.
_NAMED_KEY = "Title|Date|Tags|Authors?|Aliases|Categor(?:y|ies)|Created|Updated|Status|Type"
_KEY = rf"(?:[a-z_][\w-]{{0,40}}|{_NAMED_KEY}) ?[:=](?: [^\n]{{0,2000}})?\n"
_FRONT_MATTER = re.compile(
    rf"\A\s{{0,20}}(---|\+\+\+) ?\n{_KEY}(?:{_KEY}|[ #\[\]}}-][^\n]{{0,2000}}\n|\n){{0,200}}"
    r"(?:\1|\.\.\.) ?(?:\n|\Z)"
)
_LINE_START = re.compile(r"(?:\A|\n|[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)*]{0,3}) ?\Z")
_LINE_END = re.compile(r" ?(?:\n|\Z)")


def leave_out(text: AlignedText) -> tuple[AlignedText, list[str]]:
    """Removes front matter, fenced code, reasoning and tool calls. Also gives warnings."""
    left: list[str] = []
    found: set[str] = set()
    text = _left_out(text, _FRONT_MATTER, "front matter is", left)
    # Closed blocks first: reasoning may hold half a fence, and a fence may hold half a block.
    text = text.replaced(_closed_blocks(text.text, found), " ")
    text = text.replaced(_folded_blocks(text.text, found), " ")
    text = _left_out(text, _FENCE, "fenced code is", left)
    text = _left_out(text, _CHANNEL, "a model's reasoning is", left)
    text = text.replaced(_open_blocks(text.text, found), " ")
    text = text.sub(_TAG, lambda tag: None if _is_name(tag["name"]) else (" ",))
    text = text.sub(_ROLE, (" ",))
    if found:
        left.append(f"blocks of {', '.join(sorted(found))} are not read aloud and were left out")
    return text, [f"text: {what}" for what in left]


def _left_out(
    text: AlignedText, pattern: re.Pattern[str], what: str, left: list[str]
) -> AlignedText:
    shorter = text.sub(pattern, ("\n\n",))
    if shorter is not text:
        verb = "were" if what.endswith("are") else "was"
        left.append(f"{what} not read aloud and {verb} left out")
    return shorter


def _closed_blocks(text: str, found: set[str]) -> Iterator[tuple[int, int]]:
    opened: dict[str, list[int]] = defaultdict(list)
    for tag in _TAG.finditer(text):
        name = (tag["name"] or tag["upper"]).lower()
        if not (tag["end"] or tag["closed"]):
            opened[name].append(tag.start())
        elif opened[name]:
            found.add(name)
            yield opened[name].pop(), tag.end()


def _folded_blocks(text: str, found: set[str]) -> Iterator[tuple[int, int]]:
    begun = None
    for tag in _DETAILS.finditer(text):
        if not tag[1]:
            begun = begun or tag
        elif begun:
            found.add(begun[2].lower())
            yield begun.start(), tag.end()
            begun = None


def _open_blocks(text: str, found: set[str]) -> Iterator[tuple[int, int]]:
    """Blocks whose end tag is missing, or whose start tag was in the model's prompt. A tag in the
    middle of a sentence is no block."""
    for tag in _TAG.finditer(text):
        name, (start, end) = tag["name"], tag.span()
        at_start = _LINE_START.search(text[max(0, start - 8) : start])
        if not name or _is_name(name):
            continue
        if not tag["end"]:
            if at_start:
                found.add(name.lower())
                yield start, len(text)
        elif re.fullmatch(_REASONING, name, re.I) and (at_start or _LINE_END.match(text, end)):
            found.add(name.lower())
            yield 0, end


def _is_name(tag: str | None) -> bool:
    """Whether a tag without an end is a word: `<Reflection>` is, `<reflection>` is not."""
    return tag is not None and tag not in (tag.lower(), tag.upper())


_TAG_BEGINS = re.compile(
    rf"[<\u25c1] ?/? ?(?:[a-z_:]{{0,40}}"
    rf"|(?:[a-z]{{1,12}}:)?(?:{_REASONING}|{_CALLS})\s[^<>]{{0,500}})\Z"
    r"|(?-i:\[/?T?H?I?N?K?)\Z",
    re.I,
)


class StreamMask:
    """Streaming removal of reasoning blocks. `text` has a space for each removed character, so
    offsets stay. An incomplete tag and an open block are held back. As in `leave_out`, a block
    begins only where a sentence can."""

    def __init__(self) -> None:
        self.text = ""
        self._unsure = ""
        self._block: str | None = None
        self._depth = 0
        self._hidden = 0

    @property
    def hides(self) -> bool:
        """Whether a block is open, so that the sentence before it has ended."""
        return self._block is not None

    def feed(self, text: str) -> None:
        """Appends text. What may begin a tag is held back."""
        text = self._unsure + text
        begun = _TAG_BEGINS.search(text, max(0, len(text) - 560))
        known = text[: begun.start()] if begun else text
        self._unsure = text[len(known) :]
        at = 0
        for tag in _TAG.finditer(known):
            self._take(known[at : tag.start()])
            self._take_tag(tag)
            at = tag.end()
        self._take(known[at:])

    def flush(self) -> None:
        """Ends the text: an incomplete tag is text, an open block is removed."""
        self._take(self._unsure)
        self._unsure = ""
        self._close()

    def _take(self, text: str) -> None:
        if self._block:
            self._hidden += len(text)
        else:
            self.text += text

    def _take_tag(self, tag: re.Match[str]) -> None:
        name, ends = (tag["name"] or tag["upper"]).lower(), bool(tag["end"] or tag["closed"])
        if not self._block and not ends and _LINE_START.search(self.text[-8:]):
            self._block = name
        self._take(tag[0])
        if name == self._block:
            self._depth += -1 if ends else 1
            if self._depth == 0:
                self._close()

    def _close(self) -> None:
        self.text += " " * self._hidden
        self._block, self._depth, self._hidden = None, 0, 0


_TIME = r"(?:\d{1,3}:)?\d{1,2}:\d{2}[.,]\d{1,3}"
_CUE = re.compile(
    r"(?:\A|(?<!\n)\n)[ \n]{0,8}(?:\d{1,6} ?\n)? ?"
    rf"{_TIME} ?--> ?{_TIME}[^\n]{{0,200}}(?:\n|\Z)"
)
_CUE_HEADER = re.compile(
    r"\A\s{0,8}WEBVTT[^\n]{0,200}\n|^(?:NOTE|STYLE)\b(?:[^\n]{1,500}\n){1,50}", re.M
)
_CUE_VOICE = re.compile(r"<v(?:\.[\w.]{1,60})? (speaker[ _]?\d{1,3})>", re.I)
_CUE_MARK = re.compile(
    r"\{\\[a-z][^{}\n]{0,80}\}|<\d{2}:\d{2}[\d:.]{0,10}>|</?v(?:\.[\w.]{1,60})?(?: [^<>\n]{0,60})?>"
    r"|</?c(?:\.[\w.]{1,60})?>",
    re.I,
)
# Times of lyrics, and of video transcripts, whose first line of time is close to 0:00.
_LYRIC_TIME = re.compile(r"^ ?\[\d{1,3}:\d{2}[.:]\d{2,3}\] ?", re.M)
_TIME_LINE = re.compile(r"(?:\A|\n) ?((?:\d{1,2}:)?\d{1,2}:\d{2}) ?\n")
_FIRST_TIME = re.compile(r"(?:0{1,2}:)?0{1,2}:\d\d")
_FEWEST_TIMES = 3
_NEW_SPEAKER = re.compile(r"[-\u2013]|[\[(]?speaker[ _]?\d|\Z", re.I)
_ENDS = ".!?:;\u2026\u3002\uff01\uff1f\"')]\u201d\u2019\u266a"


def strip_subtitle_times(text: AlignedText) -> AlignedText:
    """Removes numbers and times of SRT, WebVTT, lyrics and transcripts. A sentence that was split
    over two cues is joined."""
    text = text.sub(_LYRIC_TIME, (), "[")
    times = [line[1] for line in islice(_TIME_LINE.finditer(text.text), _FEWEST_TIMES)]
    if len(times) == _FEWEST_TIMES and _FIRST_TIME.fullmatch(times[0]):
        text = text.sub(_TIME_LINE, _between_cues)
    if "-->" not in text.text or not _CUE.search(text.text):
        return text
    text = text.sub(_CUE_HEADER, ())
    text = text.sub(_CUE_VOICE, (1, ": "))
    text = text.sub(_CUE_MARK, ())
    return text.sub(_CUE, _between_cues)


def _between_cues(match: re.Match[str]) -> Pieces:
    whole, (start, end) = match.string, match.span()
    goes_on = whole[start - 1 : start] not in _ENDS and not _NEW_SPEAKER.match(whole, end)
    return (" " if goes_on else "\n",)


_COUNT = r"\d{1,4}(?: ?(?:/|of|von|de|sur|di|van|av|af|z|из) ?\d{1,4})"
_WORD = (
    "page|pages|pg|seite|página|pagina|pág|pag|strona|str|sida|side|sivu|stránka|"
    "oldal|sayfa|trang|halaman|страница|стр|p"
)
_FOLIO = re.compile(
    r"(?:\A|(?<!\n)\n[ \n]{0,8})(?:(?P<sure>[-\u2013\u2014] ?\d{1,4} ?[-\u2013\u2014]|"
    rf"(?:{_WORD})\.? {_COUNT}|第 ?\d{{1,4}} ?[页頁](?: ?[/共] ?\d{{1,4}} ?[页頁])?)"
    rf"|(?:(?:{_WORD})\.? )?(?:{_COUNT}|\d{{1,4}})) ?(?:\n[ \n]{{0,8}}|\Z)",
    re.I,
)
_LONG_LINE = 20


def strip_page_numbers(text: AlignedText) -> AlignedText:
    """Removes lines that are certain to be page numbers: `- 13 -`, `Page 14 of 320`. Also removes
    lines of a bare number between two parts of a sentence."""
    return text.sub(_FOLIO, _folio)


def _folio(match: re.Match[str]) -> Pieces | None:
    whole, (start, end) = match.string, match.span()
    before, after = whole[start - 1 : start], whole[end : end + 1]
    goes_on = after.isalpha() and not after.isupper() and (before.isalpha() or before in ("-", ","))
    if not (goes_on or match["sure"]) or not (before or after):
        return None
    is_apart = match[0].count("\n") > 2
    if not goes_on:
        return ("\n\n" if is_apart else "\n",)
    is_short = start < _LONG_LINE or "\n" in whole[start - _LONG_LINE : start]
    if is_short and not (match["sure"] or is_apart):
        return None
    is_wide = UNSPACED.match(before) and UNSPACED.match(after)
    return ("" if is_wide else "\n" if before == "-" else " ",)


_BORDER = re.compile(
    r"^[ |+]{0,3}(?:[\u2500-\u257f][ \u2500-\u257f]{0,500}|\+(?:[-=]{1,100}\+){1,50}) ?$\n?", re.M
)
_BRANCH = re.compile("^[ \u2502|]{0,80}[\u251c\u2514\u2570][\u2500\u2501]{1,4} (?=[^ \n])", re.M)
_UPRIGHT = dict.fromkeys(map(ord, "\u2502\u2503\u2506\u2507\u250a\u250b\u2551\u254e\u254f"), "|")
_DRAWN = re.compile("[\u2500-\u259f]+")


def strip_drawings(text: AlignedText) -> AlignedText:
    """Removes line drawings. Table cells get `|` between them, tree branches become list items."""
    text = text.sub(_BRANCH, ("- ",))
    text = text.sub(_BORDER, _border)
    return text.translate(_UPRIGHT).sub(_DRAWN, (" ",))


def _border(match: re.Match[str]) -> Pieces:
    is_rule = not match[0].strip(" \n\u2500\u2501\u2550\u2504\u2505\u2508\u2509\u254c\u254d")
    return ("\n\n" if is_rule else "",)
