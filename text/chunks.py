"""The text plan: chunks that are generated together, their turns, and the silences between them.

The plan depends on the text and the settings, never on the door of the request. A chunk's span is
in code points of the caller's own text. Spans are in order, do not overlap, and together cover all
text except white space. Sizes are in letters: a Chinese character counts as three
(`text.writing_systems.letters`).
"""

import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

from text.reading import Passage, read, speakable
from text.sentences import Span, sentences, split_evenly, split_long
from text.writing_systems import letters, running_letters

_CLOSERS = "\"')]}»”’」』】）"
_ENDS = ".,:;!?…。，、：；！？।؟۔-"
TURN_CHARS = 300
"""Letters of a turn. The model speaks too fast in longer ones; its authors advise several turns."""
SHORTEST_PARAGRAPH = 60
"""Letters. A shorter paragraph, such as a heading, shares a chunk with its neighbour."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of a plan, as in `config.Text`. Lengths in letters, silences in ms."""

    max_chunk_chars: int = 1000
    min_last_chunk_chars: int = 150
    chunk_silence_ms: int = 40
    paragraph_silence_ms: int = 600


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says without another between. `speaker` is an index into the voices."""

    speaker: int
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Turns that are generated together. `pause_ms` is the silence after them. `origins` has, for
    each turn, the offset in the source of each of its characters."""

    turns: tuple[Turn, ...]
    text_start: int
    text_end: int
    pause_ms: int
    origins: tuple["array[int]", ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TextPlan:
    """All chunks of a text. `speakers` are a script's own speaker numbers in order of appearance,
    or empty without labels. `lead_ms` is the silence before the first chunk."""

    chunks: tuple[Chunk, ...]
    speakers: tuple[int, ...]
    lead_ms: int
    warnings: tuple[str, ...]

    @property
    def characters(self) -> int:
        """How many characters are spoken."""
        return sum(len(turn.text) for chunk in self.chunks for turn in chunk.turns)


def plan_text(
    source: str,
    limits: Limits,
    pronunciations: Mapping[str, str] | None = None,
    most: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> TextPlan:
    """Plans `source`. `most`, `check` and the errors are those of `read`."""
    reading = read(source, pronunciations, most, check)
    groups: list[_Group] = []
    for section in _sections(reading.passages):
        check()
        groups += _pack(section, limits)
    pauses = [_pause_after(group[-1], limits) for group in groups]
    if groups:
        pauses[-1] = groups[-1][-1].passage.pause_ms or 0
    chunks = tuple(
        _chunk(group, start, end, pause_ms)
        for group, (start, end), pause_ms in zip(
            groups, _spans(source, groups), pauses, strict=True
        )
    )
    return TextPlan(chunks, reading.speakers, reading.lead_ms, reading.warnings)


class _Piece(NamedTuple):
    """A sentence, or a part of one that is too long for a turn or a chunk. `start` and `end` are
    offsets into its passage. `size` is in letters, its added comma included. `breaks_off`: its
    sentence continues in the next piece."""

    passage: Passage
    start: int
    end: int
    size: int
    ends_passage: bool
    breaks_off: bool
    has_comma: bool = False

    @property
    def ends_paragraph(self) -> bool:
        return self.ends_passage and self.passage.ends_paragraph


_Group = list[_Piece]


def _size(group: Sequence[_Piece]) -> int:
    """The size of a chunk in letters: its pieces with one space between them."""
    if len(group) == 1:
        return group[0].size
    return sum([piece.size for piece in group]) + len(group) - 1


def _sections(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Splits passages at requested pauses, since the model cannot make a silence of a length."""
    section: list[Passage] = []
    for passage in passages:
        section.append(passage)
        if passage.pause_ms is not None:
            yield section
            section = []
    if section:
        yield section


def _pack(section: list[Passage], limits: Limits) -> list[_Group]:
    """Fills chunks with whole sentences. A paragraph's end also ends a chunk, unless the chunk
    would be a few words, which the model speaks badly."""
    groups: list[_Group] = [[]]
    size = -1
    for sentence, length in _sentences(section, limits.max_chunk_chars):
        group, added = groups[-1], length + 1
        settled = bool(group) and group[-1].ends_paragraph and size >= SHORTEST_PARAGRAPH
        if group and (settled or size + added > limits.max_chunk_chars):
            groups.append([])
            size = -1
        groups[-1] += sentence
        size += added
    least = limits.min_last_chunk_chars
    if len(groups) > 1 and groups[-2][-1].ends_paragraph:
        least = min(least, SHORTEST_PARAGRAPH)
    if len(groups) > 1 and _size(groups[-1]) < least:
        tail = groups.pop()
        groups[-1:] = _balance([*groups[-1], *tail], limits)
    return groups


def _sentences(section: list[Passage], limit: int) -> Iterator[tuple[_Group, int]]:
    """Sentences as pieces that each fit a turn, with their sizes. A sentence that is longer than
    `limit` comes in several parts."""
    for passage in section:
        text = passage.text.text
        sizes = running_letters(text)
        parts = [
            _Piece(passage, start, end, sizes[end] - sizes[start], False, end < sentence[1])
            for sentence in sentences(text)
            for start, end in split_long(text, sentence, limit)
            if text[start].isalnum() or speakable(text, start, end)
        ]
        parts[-1:] = [last._replace(ends_passage=True) for last in parts[-1:]]
        for part in parts:
            pieces = _pieces(part, limit)
            if (size := _size(pieces)) <= limit:
                yield pieces, size
            else:  # one endless word: its parts need room for spaces
                narrow = limit - limit // 50
                yield from (([each], each.size) for each in _recut(pieces, narrow, limit))


def _recut(pieces: _Group, size: int, limit: int) -> _Group:
    """Cuts the pieces' text again, into parts of at most `size` letters."""
    passage, (first, last) = pieces[0].passage, (pieces[0], pieces[-1])
    text = passage.text.text
    parts = split_long(text, (first.start, last.end), size)
    parts = [part for part in parts if speakable(text, *part)]
    return [
        piece
        for part in parts
        for piece in _pieces(
            _Piece(
                passage,
                *part,
                letters(text[slice(*part)]),
                ends_passage=last.ends_passage and part == parts[-1],
                breaks_off=last.breaks_off or part != parts[-1],
            ),
            limit,
        )
    ]


def _pieces(whole: _Piece, limit: int) -> _Group:
    """A piece as pieces that each fit a turn."""
    most = min(limit, TURN_CHARS)
    if not whole.breaks_off and whole.size <= most:
        return [whole]
    passage, text = whole.passage, whole.passage.text.text
    spans = split_evenly(text, (whole.start, whole.end), most)
    spans = [part for part in spans if speakable(text, *part)]
    sizes = [letters(text[slice(*part)]) for part in spans]
    spare = limit + 1 - sum(sizes) - len(sizes)
    pieces = []
    for (start, end), size in zip(spans, sizes, strict=True):
        is_last = end == spans[-1][1]
        breaks = whole.breaks_off or not is_last
        comma = breaks and min(spare, most - size) > 0 and _is_open(text, end)
        spare -= comma
        ends = whole.ends_passage and is_last
        pieces.append(_Piece(passage, start, end, size + comma, ends, breaks, comma))
    return pieces


def _is_open(text: str, end: int) -> bool:
    """Whether the cut at `end` is between two words without punctuation."""
    return text[end - 1].isalnum() and text[end : end + 1].isspace()


def _balance(pieces: _Group, limits: Limits) -> list[_Group]:
    """One chunk if it fits, else two. The second has at least the minimum size, even if a sentence
    must be cut. The maximum size takes precedence over the minimum."""
    if _size(pieces) <= limits.max_chunk_chars:
        return [pieces]
    most = limits.max_chunk_chars
    finer = [part for piece in pieces for part in _recut([piece], most // 4, most)]
    for candidate in (pieces, finer):
        ends = list(accumulate(piece.size + 1 for piece in candidate))
        cuts = [
            (not before.ends_paragraph, before.breaks_off, abs(2 * end - ends[-1]), cut)
            for cut, (before, end) in enumerate(zip(candidate[:-1], ends, strict=False), 1)
            if max(end, ends[-1] - end) - 1 <= limits.max_chunk_chars
            and ends[-1] - end - 1 >= limits.min_last_chunk_chars
        ]
        if cuts:
            # Preferred cuts: a paragraph's end, then a sentence's end, then the most even cut.
            best = min(cuts)[-1]
            return [candidate[:best], candidate[best:]]
    return [pieces[:-1], pieces[-1:]]


def _chunk(group: _Group, start: int, end: int, pause_ms: int) -> Chunk:
    turns = [_turn(run[0], run[-1]) for run in _runs(group)]
    origins = tuple(at for _, at in turns)
    return Chunk(tuple(turn for turn, _ in turns), start, end, pause_ms, origins)


def _runs(group: _Group) -> list[_Group]:
    """Joins sentences of one speaker and paragraph into turns of at most `TURN_CHARS` letters."""
    runs: list[_Group] = []
    size = 0
    for piece in group:
        last = runs[-1][-1] if runs else None
        added = piece.size if last is None else piece.start - last.end + piece.size
        if last and last.passage is piece.passage and size + added <= TURN_CHARS:
            runs[-1].append(piece)
            size += added
        else:
            runs.append([piece])
            size = piece.size
    return runs


def _turn(first: _Piece, last: _Piece) -> tuple[Turn, "array[int]"]:
    """A turn and its origins. One that ends between two words gets a comma: at a full stop the
    pitch would fall."""
    said = first.passage.text[first.start : last.end]
    comma, at = "," * last.has_comma, said.at
    return Turn(first.passage.speaker, said.text + comma), at + at[-1:] * len(comma)


def _pause_after(piece: _Piece, limits: Limits) -> int:
    if piece.ends_passage and piece.passage.pause_ms is not None:
        return piece.passage.pause_ms
    return limits.paragraph_silence_ms if piece.ends_paragraph else limits.chunk_silence_ms


def _spans(source: str, groups: list[_Group]) -> list[Span]:
    """The span of each chunk in the source, without white space at its edges."""
    starts = [0] if groups else []
    for before, group in pairwise(groups):
        starts.append(_start(source, before[-1], group[0]))
    spans = []
    for start, end in pairwise([*starts, len(source)]):
        words = source[start:end]
        spans.append((end - len(words.lstrip()), start + len(words.rstrip())))
    return spans


def _start(source: str, before: _Piece, piece: _Piece) -> int:
    """Where a chunk begins: punctuation directly before its first word belongs to it."""
    at_start = piece.start == 0
    start = piece.passage.start if at_start else piece.passage.text.at[piece.start]
    end = before.passage.text.at[before.end - 1] + 1
    # A pause tag belongs to the chunk before it.
    stops = "]>" if at_start and before.passage.pause_ms is not None else ""
    while start > end and not source[start - 1].isspace() and source[start - 1] not in stops:
        start -= 1
    return start


def spoken(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """The turns as the model reads them best: each on one line, with a full stop if it ends without
    punctuation. Turns of punctuation alone are left out."""
    return tuple(
        Turn(turn.speaker, _ended(" ".join(turn.text.split())))
        for turn in turns
        if any(unicodedata.category(char)[0] in "LNS" for char in turn.text)
    )


def _ended(text: str) -> str:
    words = text.rstrip(_CLOSERS)
    return text if words and words[-1] in _ENDS else f"{text}."
