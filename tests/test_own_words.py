"""The caller's own words among those that are spoken, and their subtitles."""

from itertools import pairwise

import pytest

from text.chunks import Limits, plan_text
from text.own_words import own_words
from text.subtitles import LINE_CHARS, LINES, ShownWord, cues, subtitles

SCRIPT = """# Title here

Speaker 1: Hello, **dear** friend\u2019s \u201cquoted\u201d words \u2014 and $3.50, or 5% of\
 https://example.com/a_b?c=d (see [the link](http://x.y)).
Speaker 2: It's   fine; e.g. this. \u4eca\u5929\u5f88\u597d\u3002\
 Mail me@x.org now\u2014or never."""


def owned(source: str) -> list[tuple[str, str]]:
    """The caller's words, and what is spoken for each."""
    return [
        (source[word.text_start : word.text_end], turn.text[word.start : word.end])
        for chunk in plan_text(source, Limits()).chunks
        for turn, origins in zip(chunk.turns, chunk.origins, strict=True)
        for word in own_words(source, turn.text, origins)
    ]


def test_words_are_the_callers_where_others_are_spoken() -> None:
    found = dict(owned(SCRIPT))
    assert found["$3.50"] == "3 dollars and 50 cents,"
    assert found["https://example.com/a_b?c=d"] == "example dot com"
    assert found["me@x.org"] == "me at x dot org"
    assert found["dear"] == "dear"
    assert found["friend\u2019s"] == "friend's"
    assert found["5%"] == "5%"
    assert found["\u5f88"] == "\u5f88"
    assert [word for word, _ in owned(SCRIPT)][-3:] == ["now", "or", "never"]


def test_words_are_in_order_and_every_character_of_a_turn_has_its_origin() -> None:
    for chunk in plan_text(SCRIPT, Limits(100, 20)).chunks:
        assert [len(at) for at in chunk.origins] == [len(turn.text) for turn in chunk.turns]
        for turn, origins in zip(chunk.turns, chunk.origins, strict=True):
            words = list(own_words(SCRIPT, turn.text, origins))
            ends = [end for word in words for end in (word.text_start, word.text_end)]
            assert ends == sorted(ends)


@pytest.mark.parametrize("text", ["a" * 20_000, "$1." * 7000, "\u4eca" * 20_000, "\u2014 x" * 7000])
def test_hostile_texts_have_their_words(text: str) -> None:
    for chunk in plan_text(text, Limits()).chunks:
        for turn, origins in zip(chunk.turns, chunk.origins, strict=True):
            assert list(own_words(text, turn.text, origins))


def shown(text: str, speaker: int = 0, start: float = 0.0, each: float = 0.3) -> list[ShownWord]:
    return [
        ShownWord(word, round(start + n * each, 3), round(start + (n + 1) * each, 3), speaker)
        for n, word in enumerate(text.split())
    ]


FIRST = "The ferry left the harbour at nine o'clock, and the fog was still lying on the water."
SECOND = "Two fishermen waved. Nobody on deck <said> a word & then everyone began to talk at once."
WORDS = [*shown(FIRST), *shown(SECOND, speaker=1, start=6)]


def test_a_registrys_parsers_read_them_in_order_and_together_they_are_the_text() -> None:
    srt, webvtt = pytest.importorskip("srt"), pytest.importorskip("webvtt")
    ours = list(cues(WORDS))
    read = list(srt.parse(subtitles(WORDS, "srt"), ignore_errors=False))
    assert [each.index for each in read] == list(range(1, len(ours) + 1))
    assert " ".join(each.content.replace("\n", " ") for each in read) == f"{FIRST} {SECOND}"
    starts = [each.start.total_seconds() for each in read]
    assert starts == sorted(starts) == [cue.start_sec for cue in ours]
    vtt = webvtt.from_string(subtitles(WORDS, "vtt"))
    assert [each.start_in_seconds for each in vtt] == [int(start) for start in starts]
    escaped = SECOND.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    texts = [each.raw_text.replace("\n", " ") for each in vtt]
    assert " ".join(texts) == f"{FIRST} {escaped}"


def test_lines_are_short_and_a_cue_has_one_speaker_and_never_overlaps_the_next() -> None:
    found = list(cues(WORDS))
    assert all(len(line) <= LINE_CHARS for cue in found for line in cue.lines)
    assert all(len(cue.lines) <= LINES for cue in found)
    assert all(cue.end_sec <= after.start_sec for cue, after in pairwise(found))
    assert [cue.start_sec for cue in found if cue.lines[0].startswith("Two")] == [6]


def test_a_cue_ends_with_a_sentence_and_at_a_pause() -> None:
    words = [*shown("It was a rather long first sentence."), *shown("Next.", start=2.2)]
    assert [cue.lines for cue in cues(words)] == [
        ("It was a rather long first sentence.",),
        ("Next.",),
    ]
    assert len(list(cues([*shown("One"), *shown("two", start=1.2)]))) == 2
    assert len(list(cues([*shown("One"), *shown("two", start=1.0)]))) == 1


def test_a_short_cue_stays_for_a_second_if_the_next_leaves_it() -> None:
    first, second = cues([*shown("One."), *shown("Two.", start=1.2)])
    assert (first.start_sec, first.end_sec) == (0, 1.0)
    assert (second.start_sec, second.end_sec) == (1.2, 2.2)


def test_an_endless_word_is_cut_into_lines() -> None:
    found = list(cues([ShownWord("x" * 200, 0, 3)]))
    assert "".join("".join(cue.lines) for cue in found) == "x" * 200
    assert [cue.start_sec for cue in found] == [0, 1, 2]


def test_words_without_spaces_between_them_are_joined() -> None:
    words = [
        ShownWord(char, n, n + 1, spaced=False)
        for n, char in enumerate("\u4eca\u5929\u5f88\u597d\u3002")
    ]
    assert next(cues(words)).lines == ("\u4eca\u5929\u5f88\u597d\u3002",)


def test_an_arrow_in_the_text_is_no_time() -> None:
    text = subtitles(shown("00:00:01,000 --> 00:00:02,000"), "srt")
    assert text.count("-->") == 1
    assert subtitles([], "srt") == ""
    assert subtitles([], "vtt") == "WEBVTT\n"
