"""What was heard of a text is aligned with it: words, times, and what is missing or too much."""

import numpy as np
import pytest

from audio.pcm import SAMPLE_RATE, Samples, silence
from transcription.alignment import align
from transcription.base import Word
from transcription.verification import judged
from transcription.words import words_of

FERRY = "The ferry left the harbour at nine o'clock, and the fog was still lying on the water."


def compared(text: str, language: str = "en") -> list[str]:
    return [word.text for word in words_of(text, language)]


@pytest.mark.parametrize(
    ("written", "heard"),
    [
        ("three dollars and fifty cents", "$3.50"),
        ("a ten dollar bill", "a 10 dollar bill"),
        ("twenty-first", "21st"),
        ("nineteen ninety-eight", "1998"),
        ("a hundred and one", "101"),
        ("one point two million pounds", "1.2 million pounds"),
        ("1,200", "twelve hundred"),
        ("ten thirty", "10:30"),
        ("two thousand and five", "2005"),
        ("eleven thousand three hundred and forty-two", "11,342"),
        ("minus twelve degrees", "-12°"),
        ("the first two chapters", "the 1st 2 chapters"),
        ("one, two", "1, 2"),
        ("Dr. Brown's colour & grey", "doctor Browns color and gray"),
        ("sixty percent", "60%"),
        ("42 km", "42 kilometres"),
        ("naïve café", "naive cafe"),
        ("o'clock", "o’clock"),
    ],
)
def test_what_is_said_alike_is_compared_alike(written: str, heard: str) -> None:
    assert compared(written) == compared(heard)


def test_numbers_of_other_languages_stay_as_they_are_written() -> None:
    assert compared("Dreißig Äpfel, 30 Birnen", "de") == ["dreissig", "apfel", "30", "birnen"]


def test_a_character_of_a_script_without_spaces_is_a_word() -> None:
    assert compared("今天 24 号ok", "zh") == ["今", "天", "24", "号", "ok"]


def test_words_keep_their_place_in_the_text() -> None:
    text = "It cost twenty-four dollars."
    assert [text[word.start : word.end] for word in words_of(text)] == [
        "It", "cost", "twenty-four", "dollars",
    ]  # fmt: skip


def pairs(said: str, heard: str) -> list[tuple[str, str]]:
    first, second = said.split(), heard.split()
    return [
        (" ".join(first[n] for n in pair.said), " ".join(second[n] for n in pair.heard))
        for pair in align(first, second)
    ]


def test_missing_added_misheard_split_and_joined_words_are_steps_of_the_alignment() -> None:
    assert pairs(
        "the bookshop sells old sea weed and maps today",
        "the book shop sells seaweed and maps maps maps todey",
    ) == [
        ("the", "the"),
        ("bookshop", "book shop"),
        ("sells", "sells"),
        ("old", ""),
        ("sea weed", "seaweed"),
        ("and", "and"),
        ("", "maps"),
        ("", "maps"),
        ("maps", "maps"),
        ("today", "todey"),
    ]


def test_texts_of_any_length_align_and_no_word_is_lost() -> None:
    said, heard = ["word", "other"] * 500, ["word"] * 9000
    found = align(said, heard)
    assert [n for pair in found for n in pair.said] == list(range(1000))
    assert [n for pair in found for n in pair.heard] == list(range(9000))
    assert [pair.said for pair in align(["a"], [])] == [range(1)]
    assert [pair.heard for pair in align([], ["a"])] == [range(1)]


def take(text: str, word_sec: float = 0.3, pause_sec: float = 0.1) -> tuple[Samples, list[Word]]:
    """A take of humming words with pauses, and what a recogniser would say: it counts a pause to
    the word before."""
    hum = 0.3 * np.sin(np.arange(round(word_sec * SAMPLE_RATE)) / 20).astype(np.float32)
    words = text.split()
    samples = [part for _ in words for part in (hum, silence(round(pause_sec * SAMPLE_RATE)))]
    step = word_sec + pause_sec
    heard = [Word(word, n * step, (n + 1) * step, 0.9) for n, word in enumerate(words)]
    return np.concatenate(samples), heard


def test_a_take_that_says_its_text_has_no_problem_and_its_words_have_times() -> None:
    found = judged(FERRY, *take(FERRY), "en")
    assert (found.wer, found.missing, found.added, found.problem) == (0, (), (), "")
    assert [FERRY[word.start : word.end] for word in found.words][:3] == ["The", "ferry", "left"]
    assert [(word.start_sec, word.end_sec) for word in found.words][1] == (0.4, 0.7)


def test_names_that_are_misheard_are_errors_and_no_problem() -> None:
    text = "Nobody told Siobhan that Nguyen had left the house before noon on that day."
    heard = "Nobody told Shavon that Win had left the house before noon on that day."
    found = judged(text, *take(heard), "en")
    assert found.wer == round(2 / 14, 4)
    assert found.problem == ""


def test_a_number_that_is_misheard_is_no_problem() -> None:
    text = "The new line is long and cost about 1.2 million pounds when it was opened."
    found = judged(text, *take(text.replace(" million pounds", "mlbs")), "en")
    assert (found.missing, found.added) == (("1.2 million", "pounds"), ("1.2", "mlbs"))
    assert found.problem == ""


@pytest.mark.parametrize(
    ("heard", "missing", "added", "problem"),
    [
        (
            FERRY.replace("and the fog was ", ""),
            ("and", "the", "fog", "was"),
            (),
            "4 of its words were not heard",
        ),
        (FERRY.replace(" on the water.", ""), ("on", "the", "water"), (), "3 of its words were"),
        (FERRY.replace(" water.", ""), ("water",), (), "1 of its words were not heard"),
        (FERRY.replace("fog", "fog fog fog fog fog"), (), ("fog",) * 4, "4 words were heard"),
        ("", tuple(FERRY.replace(",", "").replace(".", "").split()), (), "17 of its words"),
    ],
)
def test_what_is_missing_or_too_much_is_a_problem(
    heard: str, missing: tuple[str, ...], added: tuple[str, ...], problem: str
) -> None:
    samples, words = take(heard or "x")
    found = judged(FERRY, samples, words if heard else [], "en")
    assert (found.missing, found.added) == (missing, added)
    assert found.problem.startswith(problem)


def test_another_text_is_a_problem() -> None:
    other = "My grandmother kept her recipes in a wooden box under the window of our kitchen."
    assert judged(FERRY, *take(other), "en").problem


def test_sound_without_words_is_a_problem() -> None:
    samples, words = take(FERRY)
    at = round(3.3 * SAMPLE_RATE)
    noise = 0.3 * np.sin(np.arange(SAMPLE_RATE)).astype(np.float32)
    late = [
        Word(w.text, w.start_sec + (w.start_sec > 3), w.end_sec + (w.end_sec > 3.3), 0.9)
        for w in words
    ]
    found = judged(FERRY, np.concatenate([samples[:at], noise, samples[at:]]), late, "en")
    assert found.wer == 0
    assert found.problem.endswith("s of its sound are no words")


def test_a_word_that_was_not_heard_lies_between_its_neighbours() -> None:
    found = judged("one small step", *take("1 step"), "en")
    times = [(word.start_sec, word.end_sec) for word in found.words]
    assert times == [(0.0, 0.3), (0.3, 0.4), (0.4, 0.7)]


def test_pieces_of_a_word_are_one_word() -> None:
    """Recognisers cut before an apostrophe, a decimal point and a comma."""
    samples, _ = take("a b c d e f")
    cut = ["It", "is", "9", "o", "'clock,", "not", "1", ".2", "or", "5", ",000"]
    words = [Word(text, n * 0.2, n * 0.2 + 0.2, 0.9) for n, text in enumerate(cut)]
    found = judged("It is nine o'clock, not 1.2 or 5,000.", samples, words, "en")
    assert (found.text, found.wer) == ("It is 9 o'clock, not 1.2 or 5,000", 0)
