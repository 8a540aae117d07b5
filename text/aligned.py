"""AlignedText: a string whose characters carry their offsets in the source.

Cleaning rewrites a text many times, and answers report offsets into the caller's own text. So each
character carries the offset, in code points, of the source character that it stands for.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Self

Piece = str | int | slice
Pieces = Sequence[Piece]
"""What replaces a match: new text (str), a group of the match (int) or a part of the text (slice).
A group and a part keep their offsets."""


class AlignedText:
    """A string `text`, and `at` of the same length: each character's offset in the source."""

    __slots__ = ("at", "text")

    def __init__(self, text: str, at: "array[int] | None" = None) -> None:
        self.text = text
        self.at = array("L", range(len(text))) if at is None else at

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, part: slice) -> Self:
        return type(self)(self.text[part], self.at[part])

    def sub(
        self,
        pattern: re.Pattern[str],
        pieces: Pieces | Callable[[re.Match[str]], Pieces | None],
        needs: str = "",
    ) -> Self:
        """Replaces each match by `pieces`, or by what a function gives; None keeps the match.

        New text gets the offset of the kept text before it in the match, else of the match's start.
        `needs` are characters of which each match has one. A text without any of them is not
        searched, which halves the time for a plain text.
        """
        if needs and not any(char in self.text for char in needs):
            return self
        source, origins, size = self.text, self.at, len(self.at)
        text: list[str] = []
        at: array[int] = array("L")
        append, extend = text.append, at.extend
        end = 0
        changed = False
        for match in pattern.finditer(source):
            made = pieces(match) if callable(pieces) else pieces
            if made is None:
                continue
            changed = True
            start, stop = match.span()
            if start > end:
                append(source[end:start])
                extend(origins[end:start])
            origin = origins[start] if start < size else start
            for piece in made:
                if isinstance(piece, str):
                    append(piece)
                    if len(piece) == 1:  # as most are
                        at.append(origin)
                    else:
                        extend([origin] * len(piece))
                    continue
                kept = piece if isinstance(piece, slice) else slice(*match.span(piece))
                append(source[kept])
                extend(origins[kept])
                origin = max(origin, at[-1] if at else 0)
            end = stop
        if not changed:
            return self
        text.append(source[end:])
        at.extend(origins[end:])
        return type(self)("".join(text), at)

    def replaced(self, spans: Iterable[tuple[int, int]], by: str) -> Self:
        """Replaces each span (start, end) by `by`. Of nested spans the outermost counts."""
        text: list[str] = []
        at: array[int] = array("L")
        end = 0
        for start, last in sorted(spans):
            if start >= end:
                text += [self.text[end:start], by]
                at.extend(self.at[end:start])
                at.extend([self.at[start]] * len(by))
            end = max(end, last)
        if not text:
            return self
        text.append(self.text[end:])
        at.extend(self.at[end:])
        return type(self)("".join(text), at)

    def translate(self, table: dict[int, str]) -> Self:
        """Replaces characters, each by one character; the keys are code points."""
        return type(self)(self.text.translate(table), self.at)
