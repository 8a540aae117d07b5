"""The token ids of a text that grows, each as soon as no later text can change it.

A text is read as `" ".join(text.split()) + "\\n"`, with plain quotation marks, as upstream's demos
do. The last word is held back until the next one begins, since the tokenizer joins the line end to
punctuation; a word of letters and digits is whole as soon as a space follows. So the tokens do not
depend on how the text is split.
"""

import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from engines.base import Turn

_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})

_RUNS = re.compile(r"\s+|\S+")

Encode = Callable[[str], Sequence[int]]


def has_words(text: str) -> bool:
    """Whether there is anything to say: a letter, a number or a symbol."""
    return any(unicodedata.category(char)[0] in "LNS" for char in text)


def read_as(text: str) -> str:
    """A whole text as the tokenizer gets it."""
    return " ".join(text.translate(_PLAIN).split()) + "\n"


def merged(turns: Iterable[Turn]) -> Iterator[Turn]:
    """The turns, those of one speaker behind each other as one."""
    for speaker, run in groupby(turns, lambda turn: turn.speaker):
        yield Turn(speaker, " ".join(turn.text for turn in run))


class TokenFeed:
    """The tokens of one text. Any thread may call its methods.

    `has_words`: there is something to say. Before that, and without it, there are no tokens.
    """

    def __init__(self, encode: Encode, text: str = "", *, grows: bool = False) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        self._word: list[str] = []
        self._space_follows = False
        self._words: list[str] = []
        self._tokens: list[int] = []
        self._taken = 0
        self.has_words = self.finished = False
        self.feed(text)
        if not grows:
            self.finish()

    @property
    def count(self) -> int:
        """The tokens that are known so far."""
        return len(self._tokens)

    @property
    def unread(self) -> int:
        """The tokens that are known and were not taken."""
        return len(self._tokens) - self._taken

    def is_ready(self, count: int) -> bool:
        """Whether `take(count)` may be called: the tokens are there, or the text has ended."""
        return self.finished or self.unread >= count

    def take(self, count: int) -> list[int]:
        """The next tokens: `count`, or fewer at the end."""
        with self._lock:
            taken = self._tokens[self._taken : self._taken + count]
            self._taken += len(taken)
            return taken

    def feed(self, text: str) -> None:
        """Appends text. After `finish` it is ignored."""
        with self._lock:
            if self.finished:
                return
            self.has_words = self.has_words or has_words(text)
            for run in _RUNS.findall(text.translate(_PLAIN)):
                self._take_in(run)
            if self.has_words:
                self._read()

    def finish(self) -> None:
        with self._lock:
            if self.finished:
                return
            if self.has_words:
                self._read()
                last = " " * bool(self._word and self._tokens) + "".join(self._word)
                self._tokens += self._encode(f"{last}\n")
            self.finished = True

    def _take_in(self, run: str) -> None:
        """Takes a run of characters that are all white space, or none of them."""
        if run.isspace():
            self._space_follows = bool(self._word)
            if self._word and self._word[-1][-1].isalnum():
                self._end_word()
            return
        if self._space_follows:
            self._end_word()
        self._word.append(run)

    def _end_word(self) -> None:
        self._words.append("".join(self._word))
        self._word.clear()
        self._space_follows = False

    def _read(self) -> None:
        if self._words:
            words = " " * bool(self._tokens) + " ".join(self._words)
            self._tokens += self._encode(words)
            self._words.clear()
