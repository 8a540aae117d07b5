"""Alignment of the words of a text with the words that were heard of it.

Edit distance with unequal costs: words that look alike are cheap to exchange, and one word may
stand beside two ("bookshop", "book shop"). It takes time and memory in proportion to the product of
both lengths, 4 bytes a cell; what is heard beyond four times the text is added words. A chunk of
1,000 characters has about 200 words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz
from rapidfuzz.process import cdist

ALIKE = 0.6
"""The similarity from which a word counts as heard, though otherwise spelled or misheard."""
_GAP = 1.0  # what a missing or an added word costs
_EXCHANGE = 0.2, 1.7  # a word for another: this at least, and this more where no letter is the same
_MOST_HEARD, _SPARE = 4, 64

# The steps of a path, (words of the text, heard words).
_STEPS = ((1, 1), (1, 0), (0, 1), (1, 2), (2, 1))


@dataclass(frozen=True, slots=True)
class Pair:
    """Words of the text, by a range of indices, and those heard for them. One of the ranges is
    empty where words are missing or added. `similarity` is from 0 to 1."""

    said: range
    heard: range
    similarity: float


def align(said: Sequence[str], heard: Sequence[str]) -> list[Pair]:
    """All words of both in order, in pairs. Words are compared as they are (`words.words_of`)."""
    most = _MOST_HEARD * len(said) + _SPARE
    pairs = _traced(*_likeness(said, heard[:most])) if said and heard else []
    ends = (pairs[-1].said.stop, pairs[-1].heard.stop) if pairs else (0, 0)
    pairs += [
        Pair(range(at, at + 1), range(ends[1], ends[1]), 0.0) for at in range(ends[0], len(said))
    ]
    return pairs + [
        Pair(range(len(said), len(said)), range(at, at + 1), 0.0)
        for at in range(ends[1], len(heard))
    ]


def _likeness(said: Sequence[str], heard: Sequence[str]) -> tuple[NDArray[np.uint8], ...]:
    """The similarities of (words, heard words), (words, heard pairs) and (pairs, heard words)."""
    return tuple(
        _similar(first, second)
        for first, second in (
            (said, heard),
            (said, [*map("".join, pairwise(heard))]),
            ([*map("".join, pairwise(said))], heard),
        )
    )


def _similar(first: Sequence[str], second: Sequence[str]) -> NDArray[np.uint8]:
    """In hundredths."""
    if not first or not second:
        return np.zeros((len(first), len(second)), np.uint8)
    found: NDArray[np.uint8] = cdist(first, second, scorer=fuzz.ratio, dtype=np.uint8)
    return found


def _traced(
    one: NDArray[np.uint8], two_heard: NDArray[np.uint8], two_said: NDArray[np.uint8]
) -> list[Pair]:
    """The cheapest path. Row by row; added words are a running minimum along a row."""
    rows, columns = one.shape
    likeness = {(1, 1): one, (1, 2): two_heard, (2, 1): two_said}
    offsets = _GAP * np.arange(columns + 1, dtype=np.float32)
    before, last = np.full(columns + 1, np.inf, np.float32), offsets.copy()
    taken = np.full((rows + 1, columns + 1), 2, np.uint8)
    for row in range(1, rows + 1):
        options = np.full((len(_STEPS), columns + 1), np.inf, np.float32)
        options[0, 1:] = last[:-1] + _exchanged(one[row - 1])
        options[1] = last + _GAP
        options[3, 2:] = last[:-2] + _joined(two_heard[row - 1])
        if row > 1:
            options[4, 1:] = before[:-1] + _joined(two_said[row - 2])
        taken[row] = options.argmin(axis=0)
        best = options.min(axis=0)
        swept = np.minimum.accumulate(best - offsets) + offsets
        taken[row][swept < best - 1e-4] = 2
        before, last = last, swept
    return _path(taken, likeness)


def _exchanged(likeness: NDArray[np.uint8]) -> NDArray[np.float32]:
    fixed, by_letters = _EXCHANGE
    cost = fixed + by_letters * (1 - likeness.astype(np.float32) / 100)
    return np.where(likeness == 100, 0, cost).astype(np.float32)


def _joined(likeness: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One word beside two of the same letters. If they were only alike, a short word that is
    missing would hide in the one before it."""
    return np.where(likeness == 100, 0, np.inf).astype(np.float32)


def _path(
    taken: NDArray[np.uint8], likeness: dict[tuple[int, int], NDArray[np.uint8]]
) -> list[Pair]:
    row, column = taken.shape[0] - 1, taken.shape[1] - 1
    pairs: list[Pair] = []
    while row or column:
        step = _STEPS[taken[row, column]]
        row, column = row - step[0], column - step[1]
        similarity = likeness[step][row, column] / 100 if step in likeness else 0.0
        pairs.append(Pair(range(row, row + step[0]), range(column, column + step[1]), similarity))
    return pairs[::-1]
