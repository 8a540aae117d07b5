"""Subtitles: words with their times as SubRip (`srt`) or WebVTT (`vtt`).

A cue has at most two lines of 42 characters, of one speaker. It ends with a sentence, at a pause,
or where it is full.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

LINE_CHARS, LINES = 42, 2
_PAUSE_SEC = 0.8
_LEAST_SEC = 1.0
"""A cue stays for so long if the next leaves the time."""
_SENTENCE_CHARS = 30
"""A cue that has so many characters ends with its sentence."""
_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟")
_CLOSERS = "\"')]}»”’」』】）"


@dataclass(frozen=True, slots=True)
class ShownWord:
    """A word with its punctuation, when it is said (seconds) and by which speaker. `spaced`: a
    space comes before it."""

    text: str
    start_sec: float
    end_sec: float
    speaker: int = 0
    spaced: bool = True


@dataclass(frozen=True, slots=True)
class Cue:
    lines: tuple[str, ...]
    start_sec: float
    end_sec: float


def subtitles(words: Iterable[ShownWord], form: str) -> str:
    """The text of a file with these words; `form` is `srt` or `vtt`. Takes time linear in their
    number."""
    found = list(cues(words))
    if form == "vtt":
        return "WEBVTT\n" + "".join(
            f"\n{clock(cue.start_sec, '.')} --> {clock(cue.end_sec, '.')}\n{_escaped(cue)}\n"
            for cue in found
        )
    return "\n".join(
        f"{number}\n{clock(cue.start_sec, ',')} --> {clock(cue.end_sec, ',')}\n"
        + "\n".join(cue.lines).replace("-->", "->")
        + "\n"
        for number, cue in enumerate(found, 1)
    )


def cues(words: Iterable[ShownWord]) -> Iterator[Cue]:
    """The words in cues. None overlaps the next."""
    groups = [cue for group in _groups(words) for cue in _cut(group)]
    for cue, after in pairwise([*groups, None]):
        if cue is not None:
            end = max(cue.end_sec, cue.start_sec + _LEAST_SEC)
            yield replace(cue, end_sec=end if after is None else min(end, after.start_sec))


def _groups(words: Iterable[ShownWord]) -> Iterator[list[ShownWord]]:
    group: list[ShownWord] = []
    for word in words:
        if group and not _joins(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _joins(group: Sequence[ShownWord], word: ShownWord) -> bool:
    last, text = group[-1], _text(group)
    is_over = len(text) >= _SENTENCE_CHARS and last.text.rstrip(_CLOSERS).endswith(_ENDS)
    return (
        word.speaker == last.speaker
        and word.start_sec - last.end_sec < _PAUSE_SEC
        and not is_over
        and len(_wrapped(_text([*group, word]))) <= LINES
    )


def _text(group: Iterable[ShownWord]) -> str:
    return "".join(" " * word.spaced + word.text for word in group).strip()


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_CHARS, break_on_hyphens=False)


def _cut(group: Sequence[ShownWord]) -> Iterator[Cue]:
    """A cue, or several of one endless word: each has its share of the time."""
    lines, start, end = _wrapped(_text(group)), group[0].start_sec, group[-1].end_sec
    parts = [lines[at : at + LINES] for at in range(0, len(lines), LINES)]
    for number, part in enumerate(parts):
        share = (end - start) / len(parts)
        yield Cue(tuple(part), start + share * number, start + share * (number + 1))


def _escaped(cue: Cue) -> str:
    text = "\n".join(cue.lines)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clock(seconds: float, point: str) -> str:
    """A time as subtitles have it, such as 00:01:02,500."""
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, sec = divmod(rest, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{sec:02}{point}{milliseconds:03}"
