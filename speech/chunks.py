"""The text plan: which words are generated together, who says them, and the silences between.

The plan depends on the text and the settings alone, never on the door that the request came by.
Every chunk keeps its span: offsets in code points into the caller's own text. The spans do not
overlap, are in order, and together cover all of the text but white space.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from speech.sentences import Span, sentences, split_long
from speech.text import Passage, read, speakable

_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")
_CLOSERS = "\"')]}»”’」』】）"
_ENDS = ".,:;!?…。，、：；！？।؟۔-"
TURN_CHARS = 300
"""A longer turn starts to hurry: VibeVoice's authors advise many turns of one speaker instead."""


SHORTEST_PARAGRAPH = 60
"""Characters. A shorter one, such as a heading, shares a chunk with its neighbour."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that shape a plan; see `config.Settings`."""

    max_chunk_chars: int = 1000
    min_last_chunk_chars: int = 150
    chunk_silence_ms: int = 40
    paragraph_silence_ms: int = 600


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says without a break. `speaker` is an index into the plan's voices."""

    speaker: int
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Turns that are generated together; `pause_ms` of silence follow."""

    turns: tuple[Turn, ...]
    text_start: int
    text_end: int
    pause_ms: int


@dataclass(frozen=True, slots=True)
class TextPlan:
    """All chunks of a text. `speakers` are a script's own numbers, in order of appearance; empty
    for a text that is no script. `lead_ms` of silence come before the first chunk."""

    chunks: tuple[Chunk, ...]
    speakers: tuple[int, ...]
    lead_ms: int
    warnings: tuple[str, ...]


def plan_text(
    source: str, limits: Limits, pronunciations: Mapping[str, str] | None = None
) -> TextPlan:
    """Plans `source`. Raises `speech.errors.RequestError` when it cannot be spoken."""
    reading = read(source, pronunciations)
    groups = [group for section in _sections(reading.passages) for group in _pack(section, limits)]
    pauses = [_pause_after(group[-1], limits) for group in groups]
    if groups:
        pauses[-1] = groups[-1][-1].passage.pause_ms or 0
    chunks = tuple(
        Chunk(_turns(group), start, end, pause_ms)
        for group, (start, end), pause_ms in zip(
            groups, _spans(source, groups), pauses, strict=True
        )
    )
    return TextPlan(chunks, reading.speakers, reading.lead_ms, reading.warnings)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, or a part of one that is too long for a chunk. A span into its passage."""

    passage: Passage
    start: int
    end: int
    ends_passage: bool

    @property
    def letters(self) -> int:
        return letters(self.passage.text.text[self.start : self.end])

    @property
    def ends_paragraph(self) -> bool:
        return self.ends_passage and self.passage.ends_paragraph


_Group = list[_Piece]


def letters(text: str) -> int:
    """Its length in letters of an alphabet: a Chinese character, kana or syllable takes as long to
    say as three."""
    return len(text) if text.isascii() else len(text) + 2 * len(_WIDE.findall(text))


def _size(group: Sequence[_Piece]) -> int:
    """Letters of a chunk: its pieces and one space between them."""
    return sum(piece.letters + 1 for piece in group) - 1


def _sections(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Passages between pauses that were asked for: a model cannot make silence to order."""
    section: list[Passage] = []
    for passage in passages:
        section.append(passage)
        if passage.pause_ms is not None:
            yield section
            section = []
    if section:
        yield section


def _pack(section: list[Passage], limits: Limits) -> list[_Group]:
    """Fills chunks with whole sentences. A paragraph's end also ends a chunk, unless that is too
    short to stand alone: the model speaks badly from a few words."""
    groups: list[_Group] = [[]]
    for piece in _pieces(section, limits.max_chunk_chars):
        group = groups[-1]
        full = _size([*group, piece]) > limits.max_chunk_chars
        settled = bool(group) and group[-1].ends_paragraph
        if group and (full or (settled and _size(group) >= SHORTEST_PARAGRAPH)):
            groups.append([])
        groups[-1].append(piece)
    least = limits.min_last_chunk_chars
    if len(groups) > 1 and groups[-2][-1].ends_paragraph:
        least = min(least, SHORTEST_PARAGRAPH)
    if len(groups) > 1 and _size(groups[-1]) < least:
        tail = groups.pop()
        groups[-1:] = _balance([*groups[-1], *tail], limits)
    return groups


def _pieces(section: list[Passage], limit: int) -> Iterator[_Piece]:
    for passage in section:
        text = passage.text.text
        spans = [
            (start, end)
            for sentence in sentences(text)
            for start, end in _parts(text, sentence, limit)
            if speakable(text[start:end])
        ]
        for start, end in spans:
            yield _Piece(passage, start, end, ends_passage=(start, end) == spans[-1])


def _parts(text: str, span: Span, limit: int) -> list[Span]:
    """`split_long` by letters."""
    start, end = span
    size = letters(text[start:end])
    if size <= limit:
        return [span]
    parts = split_long(text, span, max(1, limit * (end - start) // size))
    if len(parts) == 1:
        return parts
    return [finer for part in parts for finer in _parts(text, part, limit)]


def _balance(pieces: _Group, limits: Limits) -> list[_Group]:
    """One chunk if it fits, else two of which the second is no shorter than the minimum, if need
    be by cutting the sentence before. The limit wins."""
    if _size(pieces) <= limits.max_chunk_chars:
        return [pieces]
    for candidate in (pieces, _cut_finer(pieces, limits)):
        cuts = [
            cut
            for cut in range(1, len(candidate))
            if max(_size(candidate[:cut]), _size(candidate[cut:])) <= limits.max_chunk_chars
            and _size(candidate[cut:]) >= limits.min_last_chunk_chars
        ]
        if cuts:
            best = min(cuts, key=lambda cut: _unevenness(candidate, cut))
            return [candidate[:best], candidate[best:]]
    return [pieces[:-1], pieces[-1:]]


def _unevenness(pieces: _Group, cut: int) -> tuple[bool, int]:
    """Paragraph ends are better places than others, even ones better than uneven ones."""
    difference = abs(_size(pieces[:cut]) - _size(pieces[cut:]))
    return not pieces[cut - 1].ends_paragraph, difference


def _cut_finer(pieces: _Group, limits: Limits) -> _Group:
    finer: _Group = []
    for piece in pieces:
        span = (piece.start, piece.end)
        parts = _parts(piece.passage.text.text, span, limits.max_chunk_chars // 4)
        finer += [
            _Piece(piece.passage, *part, ends_passage=piece.ends_passage and part == parts[-1])
            for part in parts
        ]
    return finer


def _turns(group: _Group) -> tuple[Turn, ...]:
    """Sentences of one speaker and paragraph share a turn while it is short."""
    turns: list[Turn] = []
    runs: list[_Group] = []
    for piece in group:
        run = runs[-1] if runs else []
        if run and run[0].passage is piece.passage and _size([*run, piece]) <= TURN_CHARS:
            run.append(piece)
        else:
            runs.append([piece])
    for run in runs:
        passage = run[0].passage
        text, span = passage.text.text, (run[0].start, run[-1].end)
        turns += [
            Turn(passage.speaker, text[start:end])
            for start, end in _parts(text, span, TURN_CHARS)
            if speakable(text[start:end])
        ]
    return tuple(turns)


def _pause_after(piece: _Piece, limits: Limits) -> int:
    if piece.ends_passage and piece.passage.pause_ms is not None:
        return piece.passage.pause_ms
    return limits.paragraph_silence_ms if piece.ends_paragraph else limits.chunk_silence_ms


def _spans(source: str, groups: list[_Group]) -> list[Span]:
    """Gives every character of the source to a chunk, then takes white space off the edges."""
    starts = [0] if groups else []
    for before, group in pairwise(groups):
        starts.append(_start(source, before[-1], group[0]))
    spans = []
    for start, end in pairwise([*starts, len(source)]):
        words = source[start:end]
        spans.append((end - len(words.lstrip()), start + len(words.rstrip())))
    return spans


def _start(source: str, before: _Piece, piece: _Piece) -> int:
    """Where a chunk begins: marks that stand directly before its first word belong to it."""
    at_start = piece.start == 0
    start = piece.passage.start if at_start else piece.passage.text.at[piece.start]
    end = before.passage.text.at[before.end - 1] + 1
    # A pause's tag belongs to the chunk that it ends.
    stops = "]>" if at_start and before.passage.pause_ms is not None else ""
    while start > end and not source[start - 1].isspace() and source[start - 1] not in stops:
        start -= 1
    return start


def spoken(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """The turns as the model reads them best: each on one line, and ending in a full stop where
    it ends in no mark at all. Turns that hold nothing but marks are left out."""
    return tuple(
        Turn(turn.speaker, _ended(" ".join(turn.text.split())))
        for turn in turns
        if any(unicodedata.category(char)[0] in "LNS" for char in turn.text)
    )


def _ended(text: str) -> str:
    words = text.rstrip(_CLOSERS)
    return text if words and words[-1] in _ENDS else f"{text}."
