"""Chunks that are too long for a slot: cut by their tokens, and every word stays."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.base import Options, Plan, PlannedChunk, Turn, Voice
from engines.vibevoice.fast.sequence import Part, Preprocessor, Sequence, halves
from request.errors import EngineError


class Letters:
    """A tokenizer to which every character is a token."""

    speech_start_id, speech_end_id, speech_diffusion_id, eos_token_id = range(4)

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(letter) for letter in text]


def preprocessor(longest: int | None, is_small: bool = True) -> Preprocessor:
    checkpoint: Any = SimpleNamespace(hop=3200, context=65_536, normalise=False, is_small=is_small)
    return Preprocessor(Letters(), lambda samples: samples, checkpoint, longest)


def sequence_of(longest: int | None, *turns: Turn, voice_sec: float = 0) -> Sequence | None:
    """One chunk."""
    samples = np.zeros(int(24_000 * voice_sec), np.float32)
    voices = (Voice("a", samples, "a"), Voice("b", None, "b"))
    plan = Plan((PlannedChunk(turns, 7),), voices, Options())
    return preprocessor(longest).sequences(plan)[0]


def prepared(longest: int | None, *turns: Turn, voice_sec: float = 0) -> list[Part]:
    """The parts of one chunk, in the order in which they are spoken."""
    sequence = sequence_of(longest, *turns, voice_sec=voice_sec)
    assert sequence is not None
    return list(sequence.parts)


def words(part: Part) -> str:
    return "".join(map(chr, part.prompt.ids[part.prompt.shared :])).split(" Speech output")[0]


SENTENCES = " ".join(f"This is sentence {number}, and it goes on." for number in range(40))


def test_what_fits_is_not_cut() -> None:
    (one,) = prepared(8192, Turn(0, SENTENCES))
    assert one.tokens + one.limit <= 8192
    (same,) = prepared(None, Turn(0, SENTENCES))
    assert one.prompt == same.prompt


def test_what_does_not_fit_is_cut_at_sentences_and_every_word_stays() -> None:
    parts = prepared(2048, Turn(0, SENTENCES))
    assert len(parts) == 7
    assert all(part.context == 2048 for part in parts)
    spoken = [words(part).removeprefix(" Speaker 0: ").rstrip("\n") for part in parts]
    assert " ".join(spoken) == SENTENCES
    assert all(each.endswith("goes on.") for each in spoken)


def test_a_dialogue_is_cut_between_its_turns() -> None:
    turns = [Turn(at % 2, f"Turn {at}. {'word ' * 30}end.") for at in range(6)]
    parts = prepared(2048, *turns)
    assert len(parts) > 1
    said = "".join(words(part) for part in parts)
    assert said == "".join(f" Speaker {turn.speaker}: {turn.text}\n" for turn in turns)


@pytest.mark.parametrize("text", ["字" * 1000, "a" * 1000])
def test_a_text_without_spaces_is_cut_between_characters(text: str) -> None:
    parts = prepared(2048, Turn(0, text))
    said = [words(part).removeprefix(" Speaker 0: ").rstrip("\n.") for part in parts]
    assert "".join(said) == text
    assert all(part.context == 2048 for part in parts)


def test_longer_voices_leave_less_room_for_words() -> None:
    alone, behind = (prepared(2048, Turn(0, SENTENCES), voice_sec=sec) for sec in (0, 90))
    assert len(behind) > len(alone)
    assert all(part.context == 2048 for part in behind)
    assert all(sum(part.prompt.is_voice) == 675 for part in behind)


def test_voices_that_leave_no_room_for_a_letter_are_an_error() -> None:
    with pytest.raises(EngineError, match=r"voices fill the 2048 tokens .* shorter voice"):
        prepared(2048, Turn(0, SENTENCES), voice_sec=290)


def test_a_text_without_words_has_no_sequence() -> None:
    assert sequence_of(2048, Turn(0, "... !?")) is None
    assert all("word" in words(each) for each in prepared(2048, Turn(0, "word " + "! " * 2000)))


def test_turns_are_halved_where_they_are_most_even() -> None:
    turns = (Turn(0, "a" * 10), Turn(1, "b" * 10), Turn(0, "c" * 50))
    assert halves(turns, 2048) == (turns[:2], turns[2:])
    assert halves(turns[::-1], 2048) == (turns[:1:-1], turns[1::-1])


def guidance(text: str, options: Options, is_small: bool = True) -> float:
    plan = Plan((PlannedChunk((Turn(0, text),), 7),), (Voice("b", None, "b"),), options)
    sequence = preprocessor(None, is_small).sequences(plan)[0]
    assert sequence is not None
    return sequence.guidance


@pytest.mark.parametrize("text", ["OK", "Hi", "7", "Hello how are you, Jenny?", "好的"])
def test_the_small_model_is_guided_more_through_a_few_words(text: str) -> None:
    assert guidance(text, Options(cfg_is_default=True)) == 3
    assert guidance(text, Options(4.5, cfg_is_default=True)) == 4.5


@pytest.mark.parametrize("text", ["OK", "7"])
def test_who_names_a_guidance_gets_it_and_the_large_model_needs_no_more(text: str) -> None:
    assert guidance(text, Options(1.3)) == 1.3
    assert guidance(text, Options(1.3, cfg_is_default=True), is_small=False) == 1.3


@pytest.mark.parametrize("text", ["A sentence of more than only a very few words.", "01712345678"])
def test_longer_texts_are_guided_as_ever(text: str) -> None:
    assert guidance(text, Options(1.3, cfg_is_default=True)) == 1.3
