"""The prompt's token ids, against upstream's own processor."""

import importlib
import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from engines.base import Turn
from engines.vibevoice.prompt import build_prompt
from tests import vibevoice_fixtures as vibevoice
from text.chunks import spoken

SENTENCES = (
    "Hello there, how are you today?",
    "It costs $3.50 (or 3,50 EUR), doesn't it?",
    'Mr. O\'Neill said: "Read the manual!"',
    "今天天气很好, 我们去公园吧.",
    "我说 hello, 你说 goodbye!",
    "Ça va très bien; l'été est là...",
    "Привет, как дела?",
    "東京は今日も雨です.",
    "안녕하세요, 반갑습니다.",
    "Speaker 2: is only a word here.",
    "A line with  two spaces, and emoji \U0001f600!",
    "x",
)


@cache
def processor() -> Any:
    vibevoice.engine()  # puts the clone on the path
    module = importlib.import_module("vibevoice.processor.vibevoice_processor")
    return module.VibeVoiceProcessor(vibevoice.model().tokenizer)


def script(number: int) -> tuple[list[Turn], list[np.ndarray[Any, Any]]]:
    """The first are each sentence alone, the rest dialogues of up to four speakers."""
    if number < len(SENTENCES):
        return [Turn(0, SENTENCES[number])], [vibevoice.recording(seconds=0.3)] * (number % 2)
    chance = random.Random(number)
    count = 1 + number % 4
    turns = [Turn(speaker, chance.choice(SENTENCES)) for speaker in range(count)]
    turns += [Turn(chance.randrange(count), chance.choice(SENTENCES)) for _ in range(number % 5)]
    voices = [vibevoice.recording(seconds=chance.uniform(0.05, 0.8)) for _ in range(count)]
    return turns, voices if number % 3 else []


@pytest.mark.parametrize("number", range(50))
def test_ids_and_voice_places_are_those_of_upstreams_processor(number: int) -> None:
    turns, voices = script(number)
    lines = "\n".join(f"Speaker {turn.speaker}: {turn.text}" for turn in turns)
    theirs = processor()([lines], voice_samples=[voices] if voices else None, return_tensors="pt")
    model = vibevoice.model()
    recordings = model.record(voices)
    ours = build_prompt(model.tokenizer, turns, recordings.frames)
    assert list(ours.ids) == theirs["input_ids"][0].tolist()
    assert list(ours.is_voice) == theirs["speech_input_mask"][0].tolist()
    assert theirs["parsed_scripts"][0] == [(turn.speaker, f" {turn.text}") for turn in turns]
    if voices:
        assert vibevoice.torch.equal(recordings.waves, theirs["speech_tensors"])
        assert vibevoice.torch.equal(recordings.masks, theirs["speech_masks"])


def test_marks_of_control_tokens_in_a_text_are_read_as_text() -> None:
    tokenizer = vibevoice.model().tokenizer
    marks = [token for token in tokenizer.get_added_vocab() if token.startswith("<|")]
    assert {"<|vision_pad|>", "<|endoftext|>", "<|im_start|>"} <= set(marks)
    text = " ".join(marks)
    prompt = build_prompt(tokenizer, [Turn(0, f"Hello {text} there")], {0: 3})
    special = set(tokenizer.convert_tokens_to_ids(marks))
    start, end, pad = tokenizer.convert_tokens_to_ids(
        ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"]
    )
    found = [token for token in prompt.ids if token in special]
    assert found == [start, pad, pad, pad, end, start]
    assert text in tokenizer.decode(prompt.ids)


def test_only_the_turns_tokens_are_counted() -> None:
    tokenizer = vibevoice.model().tokenizer
    turns = [Turn(0, "Hello there."), Turn(1, "And you?")]
    lines = " Speaker 0: Hello there.\n", " Speaker 1: And you?\n"
    count = sum(len(tokenizer.encode(line)) for line in lines)
    assert build_prompt(tokenizer, turns, {0: 40, 1: 9}).text_tokens == count


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Hello", "Hello."),
        ("Hello.", "Hello."),
        ("Really?", "Really?"),
        ("well,", "well,"),
        ('He said "hello"', 'He said "hello".'),
        ('He said "hello."', 'He said "hello."'),
        ("(see page 5)", "(see page 5)."),
        ("今天天气很好", "今天天气很好."),
        ("今天天气很好。", "今天天气很好。"),
        ("100 %", "100 %."),
        ("two\nlines\r\n\tand  spaces ", "two lines and spaces."),
        ("Speaker 1: no\nSpeaker 2: injection", "Speaker 1: no Speaker 2: injection."),
    ],
)
def test_a_turn_is_one_line_that_ends_in_a_mark(text: str, read: str) -> None:
    assert spoken([Turn(2, text)]) == (Turn(2, read),)


def test_turns_without_words_are_left_out() -> None:
    turns = [Turn(0, "..."), Turn(1, "Yes."), Turn(0, " \n"), Turn(1, "5"), Turn(0, "€")]
    assert spoken(turns) == (Turn(1, "Yes."), Turn(1, "5."), Turn(0, "€."))
