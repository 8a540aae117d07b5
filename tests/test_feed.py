"""Text that is written while it is spoken: no sentence too early, none lost, none twice."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text.feed import SentenceFeed
from text.sentences import Span, sentences


def texts(feed: SentenceFeed, *pieces: str) -> list[list[str]]:
    return [[sentence.text for sentence in feed.feed(piece)] for piece in pieces]


def test_a_sentence_is_spoken_once_the_next_has_a_word() -> None:
    feed = SentenceFeed()
    found = texts(feed, "Hello", " there.", " How", " are", " you? Fine")
    assert found == [[], [], [], ["Hello there."], []]
    assert [each.text for each in feed.flush()] == ["How are you?", "Fine"]
    assert feed.flush() == []


def test_a_title_or_a_number_is_no_end() -> None:
    feed = SentenceFeed()
    found = texts(feed, "See Dr.", " Smith", " in No.", " 5", " at 3.5", " km. ", "Then ", "go.")
    assert found == [[], [], [], [], [], [], ["See Dr. Smith in No. 5 at 3.5 km."], []]


def test_who_said_it_goes_with_the_quotation() -> None:
    feed = SentenceFeed()
    said = texts(feed, '"What?" Tom ', "Berger ", "quietly as", "ked. He ", "left. ")
    assert said == [[], [], [], ['"What?" Tom Berger quietly asked.'], []]
    left = texts(feed, '"Go!" Tom', " left. ", "So ", "did she. “No!” He went ")
    assert left == [["He left."], ['"Go!"'], ["Tom left."], ["So did she.", "“No!”"]]


def test_a_forgotten_space_is_an_end_and_a_domain_is_none() -> None:
    feed = SentenceFeed()
    said = texts(feed, "He left.", "She stayed. See", " example.com or Node.js then.")
    assert said == [[], ["He left."], ["She stayed."]]
    assert [each.text for each in feed.flush()] == ["See example.com or Node.js then."]


def test_an_empty_line_is_an_end_and_is_remembered() -> None:
    feed = SentenceFeed()
    assert texts(feed, "A heading\n\n") == [[]]
    (heading,) = feed.feed("T")
    (rest,) = feed.flush()
    assert (heading.text, heading.starts_paragraph) == ("A heading", False)
    assert (rest.text, rest.starts_paragraph) == ("T", True)


def test_clauses_leave_earlier() -> None:
    feed = SentenceFeed("clause")
    found = texts(feed, "When the long winter was over at last, the", " birds came back, and")
    assert found[0] == ["When the long winter was over at last,"]
    assert [each.text for each in feed.flush()] == ["the birds came back, and"]


def test_without_splitting_all_waits_for_the_end() -> None:
    feed = SentenceFeed("none")
    assert texts(feed, "One. Two. ", "Three.") == [[], []]
    assert [each.text for each in feed.flush()] == ["One. Two. Three."]


def test_what_cannot_be_spoken_alone_goes_along_or_is_left() -> None:
    feed = SentenceFeed()
    assert texts(feed, "[pause:1s]", " One. Two", " it") == [[], [], ["[pause:1s] One."]]
    assert [each.text for each in feed.flush()] == ["Two it"]
    assert feed.feed(" [pause:1s]") == []
    assert feed.flush() == []


def test_a_text_without_an_end_is_cut() -> None:
    feed = SentenceFeed()
    found = [each.text for each in feed.feed("word " * 200)]
    assert len(found) == 3
    assert all(len(text) <= 300 for text in found)


@given(st.lists(st.text(alphabet="ab .?!,\n[]:1", max_size=12), max_size=30))
def test_nothing_is_lost_said_twice_or_out_of_order(pieces: list[str]) -> None:
    feed = SentenceFeed()
    found = [sentence for piece in pieces for sentence in feed.feed(piece)] + feed.flush()
    text = "".join(pieces)
    at, left = 0, ""
    for sentence in found:
        assert sentence.text == text[sentence.start : sentence.end]
        assert at <= sentence.start < sentence.end
        left += text[at : sentence.start]
        at = sentence.end
    assert not any(map(str.isalnum, re.sub(r"\[[^\[\]]*\]", "", left + text[at:])))


@pytest.mark.parametrize("size", [1, 3, 7, 500])
def test_a_models_reasoning_is_no_sentence_and_offsets_still_count_it(size: int) -> None:
    text = (
        "<think>\nIt wants the hours. Keep it <think>very</think> short.\n\nNow answer.\n</think>"
        "\n\nWe open at nine. I < you. <tool_call id='1'>{\"a\": 1}. Yes.</tool_call>"
        "We close at ten."
    )
    feed = SentenceFeed()
    found = [each for at in range(0, len(text), size) for each in feed.feed(text[at : at + size])]
    found += feed.flush()
    said = [each.text for each in found]
    assert said == ["We open at nine.", "I < you.", "We close at ten."]
    assert [text[each.start : each.end] for each in found] == said
    assert not found[0].starts_paragraph


def test_reasoning_that_never_ends_is_left_out_but_a_mention_holds_nothing_back() -> None:
    feed = SentenceFeed()
    assert [each.text for each in feed.feed("Models write <think> first. Then they")] == [
        "Models write <think> first."
    ]
    assert feed.feed(" answer. <think>Should I? No. I")[0].text == "Then they answer."
    assert feed.flush() == []


@pytest.mark.parametrize("unit", ["!", "? ", "... ", "[x] ", "\U0001f44d "])
def test_text_without_a_word_is_not_read_anew_with_every_piece(unit: str) -> None:
    feed = SentenceFeed()
    for _ in range(4000):
        feed.feed(unit)
        assert len(feed.text) - feed._at <= 2000
    assert [each.text for each in feed.feed("Hello there. And then.")][-1].endswith("Hello there.")


@pytest.mark.parametrize("before", ["", "a", "Hi there. "])
@pytest.mark.parametrize("unit", [" ", "\t", "\n", " \n", "\r\n", "\u3000"])
def test_white_space_is_not_read_anew_with_every_piece(
    before: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def counted(text: str) -> list[Span]:
        nonlocal read
        read += len(text)
        return sentences(text)

    monkeypatch.setattr("text.feed.sentences", counted)
    feed = SentenceFeed()
    feed.feed(before)
    for _ in range(2_000):
        feed.feed(unit)
    assert read < 10_000
    assert [each.text for each in feed.feed("And so. On it")][-1].endswith("And so.")
