"""Streaming sentence segmentation: text of any size goes in, complete sentences come out.

A sentence comes out when its end is certain. That needs a complete word of the next sentence, which
tells an end from `Dr.` or `No.`. A sentence longer than `LONG_SENTENCE` letters is cut at the best
place. Spans are offsets in code points into the whole text.
"""

import re
from dataclasses import dataclass
from typing import Literal

from text.cleaning.unspoken import StreamMask
from text.reading import speakable
from text.sentences import LONG_SENTENCE, is_settled, sentences, split_long

Granularity = Literal["sentence", "clause", "none"]
"""What a client may ask for; `SentenceFeed` knows `word` besides."""

# One-to-one replacements for `text.sentences`: it expects plain spaces, and no lone surrogates,
# which JSON can carry and UTF-8 cannot.
_KNOWN = {
    **dict.fromkeys(map(ord, "\t\r\u00a0"), " "),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_WRITTEN = re.compile(r"\S")
_CLAUSE = re.compile(r"(?<=[,;:\u2014]) ")
_WORDS = re.compile(r"(?:[^\W\d_]+(?:['\u2019][^\W\d_]+)*,? )+(?=[^\W\d_])")
"""Words that no cleaning changes, whatever follows: another word of letters does."""
_SHORTEST_CLAUSE = 30
_MOST_UNSAID = 600
"""Characters. A text without a word waits for the next sentence, up to this length, and is then
dropped. Without the bound each `feed` would search it anew: quadratic time."""
_TAGS = re.compile(r"\[[^\[\]]*\]|<[^<>]*>")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, or a piece of one, and its span. `starts_paragraph`: an empty line precedes it.

    `continues`: it goes on with the sentence of the piece before. `plain`: words that are spoken as
    they are written.
    """

    text: str
    start: int
    end: int
    starts_paragraph: bool = False
    continues: bool = False
    plain: bool = False


class SentenceFeed:
    """One text that grows. `text` is all of it so far.

    `sentence` gives whole sentences, `clause` gives clauses of at least 30 characters, `none` gives
    all text at `flush`. `word` gives the first words of a sentence as they come, as long as nothing
    in it needs to be cleaned, then its rest: however the text comes, the pieces of a sentence
    together are the same.
    """

    def __init__(self, granularity: Granularity | Literal["word"] = "sentence") -> None:
        self.text = ""
        self._mask = StreamMask()
        self._granularity = granularity
        self._at = 0
        self._new_paragraph = self._in_sentence = False
        self._at_empty_line = False

    @property
    def waiting(self) -> bool:
        """Whether some text has not come out yet."""
        return bool(self.text[self._at :].strip())

    def feed(self, text: str) -> list[Sentence]:
        """Appends text, and gives the sentences that it completes."""
        self.text += text
        if self._granularity == "none":
            return []
        before = len(self._mask.text)
        self._mask.feed(text)
        return [] if self._tells_nothing(before) else self._found()

    def flush(self) -> list[Sentence]:
        """Gives the rest as sentences, as if the text ended here."""
        if self._granularity == "none":
            start, self._at = self._at, len(self.text)
            return self._taken([(start, self._at)])
        self._mask.flush()
        return self._found() + self._sure(len(self.text), whole=True)

    def _tells_nothing(self, before: int) -> bool:
        """Whether only more white space has come: none of it is read, however long it gets."""
        shown = self._mask.text
        new, follows = shown[before:], shown[before - 1 : before].isspace()
        more = follows and (self._at_empty_line or "\n" not in new)
        return not self._mask.hides and new.isspace() and more

    def _found(self) -> list[Sentence]:
        found: list[Sentence] = []
        shown = self._mask.text
        self._at_empty_line = False
        while shown[self._at : self._at + 1] == " ":  # spaces in place of a removed block
            self._at += 1
        while paragraph := _PARAGRAPH.search(shown, self._at):
            if paragraph.end() == len(shown):
                self._at_empty_line = True
                break  # more empty lines may follow
            found += self._sure(paragraph.start(), whole=True)
            self._at = paragraph.end()
            said_before = bool(_WRITTEN.search(shown, 0, paragraph.start()))
            self._new_paragraph = self._new_paragraph or said_before
        return found + self._sure(len(shown), whole=self._mask.hides)

    def _sure(self, end: int, whole: bool) -> list[Sentence]:
        start = self._at
        text = self._mask.text[start:end].translate(_KNOWN)
        spans = [part for span in sentences(text) for part in split_long(text, span, LONG_SENTENCE)]
        if not whole and spans:
            last = spans.pop()
            if spans and not is_settled(text[slice(*spans[-1])], text[last[0] :]):
                last = (spans.pop()[0], last[1])
            if self._granularity == "clause":
                spans += self._clauses(text, last)
        taken = self._taken([(start + first, start + last) for first, last in spans])
        if whole:
            self._at = end
        elif taken:
            self._at = taken[-1].end
        elif spans and spans[-1][1] > _MOST_UNSAID:
            self._at = start + spans[-1][1]
        return taken

    def _early(self) -> list[Sentence]:
        """The words of the unfinished sentence that are sure."""
        shown, start = self._mask.text, self._at
        while shown[start : start + 1] == " ":
            start += 1
        words = None if self._mask.hides else _WORDS.match(shown, start)
        return self._words(start, words.end()) if words else []

    def _words(self, start: int, end: int) -> list[Sentence]:
        """A piece of a sentence, which is told to continue the piece before."""
        piece = Sentence(
            self.text[start:end], start, end, self._new_paragraph, self._in_sentence, plain=True
        )
        self._new_paragraph, self._in_sentence, self._at = False, True, end
        return [piece]

    def _clauses(self, text: str, span: tuple[int, int]) -> list[tuple[int, int]]:
        ends = [match.start() for match in _CLAUSE.finditer(text, span[0])]
        ends = [end for end in ends if end - span[0] >= _SHORTEST_CLAUSE]
        return [(span[0], ends[-1])] if ends else []

    def _taken(self, spans: list[tuple[int, int]]) -> list[Sentence]:
        """The spans as sentences. A span without words (a tag) joins the sentence after it."""
        found: list[Sentence] = []
        held: int | None = None
        for start, end in spans:
            first = start if held is None else held
            if not speakable(_TAGS.sub("", self.text[first:end])):
                held = first
                continue
            held = None
            words = (
                _WORDS.match(self._mask.text, first, end) if self._granularity == "word" else None
            )
            if words:
                found += self._words(first, words.end())
                first = words.end()
            found.append(
                Sentence(
                    self.text[first:end],
                    first,
                    end,
                    self._new_paragraph,
                    continues=self._in_sentence,
                )
            )
            self._new_paragraph = self._in_sentence = False
        return found
