"""Text that remembers where it came from.

Cleaning rewrites a text many times over; answers still report offsets into what the caller sent.
So every character carries the offset, in code points of the source, that it stands for.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Self

Piece = str | int | slice
Pieces = Sequence[Piece]
"""What takes a match's place: new text, or what stays as it is: a group's number or a slice."""


class AlignedText:
    """A string and, for each of its characters, the offset of its origin in the source."""

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
        """Replaces each match by `pieces`; a function may answer None to leave its match alone.

        New text counts as coming from what it follows in the match, at first from its start. Every
        match has one of the characters `needs`: a text without any is not searched, which saves
        half of the time of a plain text.
        """
        if needs and not any(char in self.text for char in needs):
            return self
        text: list[str] = []
        at: array[int] = array("L")
        end = 0
        changed = False
        for match in pattern.finditer(self.text):
            made = pieces(match) if callable(pieces) else pieces
            if made is None:
                continue
            changed = True
            start = match.start()
            if start > end:
                text.append(self.text[end:start])
                at.extend(self.at[end:start])
            origin = self.at[start] if start < len(self.at) else start
            for piece in made:
                if isinstance(piece, str):
                    text.append(piece)
                    at.extend([origin] * len(piece))
                    continue
                kept = piece if isinstance(piece, slice) else slice(*match.span(piece))
                text.append(self.text[kept])
                at.extend(self.at[kept])
                origin = max(origin, at[-1] if at else 0)
            end = match.end()
        if not changed:
            return self
        text.append(self.text[end:])
        at.extend(self.at[end:])
        return type(self)("".join(text), at)

    def replaced(self, spans: Iterable[tuple[int, int]], by: str) -> Self:
        """Puts `by` in the place of each span; of nested ones the outermost counts."""
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
        """Replaces characters one for one."""
        return type(self)(self.text.translate(table), self.at)
