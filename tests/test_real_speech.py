"""What a recogniser hears of whole jobs, spoken by the neural voices without a GPU."""

import asyncio
import base64
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audio.codecs import FORMATS, Encoder
from audio.pcm import Samples
from config import Settings
from delivery.answer import Outputs
from engines.base import Engine
from synthesis.inference import VibeVoiceInference
from tests.fake_recognizer import FakeRecognizer, managed
from tests.hearing import heard, require_hearing, word_errors
from tests.real_engines import kokoro, piper
from tests.test_codecs import by_ffmpeg
from tests.test_engine_espeak import pitch
from transcription.transcriber import Transcriber
from worker.jobs import Jobs

pytestmark = pytest.mark.models

PARAGRAPHS = [
    "On Monday, 14 March, Dr. Helen Carter paid $3.50 for a ticket to Boston. The train was late,"
    " so she read 120 pages of a novel and fell asleep.",
    'Speaker 1: "Have you seen my blue coat?" asked Robert.\n'
    "Speaker 2: It is in the kitchen, next to the old radio.\n"
    "Speaker 1: Thank you. I will be back at half past nine.",
    "The bridge is 2,460 meters long and was opened in 1937. “It will stand for a hundred years,”"
    " said the engineer, and nobody in the crowd doubted him.",
    "Maria opened the window. Outside, three children were building a snowman; the smallest one"
    " wore a red hat that was much too large for her.",
    "In 2019 the company sold 48 percent of its shares to investors from Canada, Norway and Japan."
    " The price rose by 7 dollars within a week.",
    "“Why did nobody call the doctor?” asked Mr. Collins. “Because the telephone was broken,” his"
    " wife answered, “and the road was under water.”",
    "Mix 200 grams of flour with two eggs and a little salt. Let the dough rest for 30 minutes,"
    " then bake it at a low heat until it is golden brown.",
    "Professor Singh has studied whales since the summer of 1998. She says that they sing longer"
    " songs in the north, where the water is cold and quiet.",
    "The museum opens at 10 a.m. and closes at 6 p.m., but on Fridays it stays open until 9."
    " Children under 12 do not pay, and neither do students.",
    "Peter walked along the river for two hours. He thought about the letter from his brother,"
    " about the empty house, and about everything they had never said.",
]
PLAIN = PARAGRAPHS[:3]


class Speaker:
    """Whole jobs by one engine, answered as a worker answers them."""

    def __init__(self, engine: Engine, volume: Path, **env: str) -> None:
        settings = Settings.from_env({"VIBEVOICE_VOLUME": str(volume), **env})
        self.inference = VibeVoiceInference(settings, engine)
        ear = managed(self.inference.models.manager, FakeRecognizer())
        transcriber = Transcriber(ear, 1, 60)  # no job here brings a recording
        outputs = Outputs(volume, save=False)
        self._jobs = Jobs(self.inference, outputs, _Log(), lambda: transcriber)

    def job(self, **fields: object) -> dict[str, Any]:
        answer = asyncio.run(self._jobs.answer({"id": "one", "input": fields}))
        assert "error" not in answer, answer
        return answer

    def speak(self, **fields: object) -> tuple[Samples, int]:
        answer = self.job(**{"output_format": "wav", **fields})
        samples, rate = soundfile.read(
            io.BytesIO(base64.b64decode(answer["audio_base64"])), dtype="float32"
        )
        return samples, rate


class _Log:
    """As RunPod's logger is called."""

    def __getattr__(self, level: str) -> Any:
        return lambda message, *_: logging.getLogger(__name__).debug(message)


@pytest.fixture(scope="module")
def kokoro_speaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaker]:
    require_hearing()
    speaker = Speaker(kokoro(), tmp_path_factory.mktemp("kokoro"))
    yield speaker
    speaker.inference.close()


@pytest.fixture(scope="module")
def piper_speaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaker]:
    require_hearing()
    speaker = Speaker(piper(), tmp_path_factory.mktemp("piper"))
    yield speaker
    speaker.inference.close()


def errors_of(speaker: Speaker, texts: list[str]) -> float:
    recognised = [heard(*speaker.speak(text=text)) for text in texts]
    said = [text.replace("Speaker 1:", "").replace("Speaker 2:", "") for text in texts]
    for pair in zip(said, recognised, strict=True):
        print(*pair, sep="\n")  # noqa: T201 - shown where the test fails
    return word_errors(said, recognised)


def test_kokoro_is_understood(kokoro_speaker: Speaker) -> None:
    assert errors_of(kokoro_speaker, PLAIN[:1]) <= 0.05


def test_piper_is_understood(piper_speaker: Speaker) -> None:
    assert errors_of(piper_speaker, PLAIN) <= 0.1


@pytest.mark.soak
def test_kokoro_is_understood_in_every_paragraph(kokoro_speaker: Speaker) -> None:
    assert errors_of(kokoro_speaker, PARAGRAPHS) <= 0.05


@pytest.mark.soak
def test_piper_is_understood_in_every_paragraph(piper_speaker: Speaker) -> None:
    assert errors_of(piper_speaker, PARAGRAPHS) <= 0.1


LONG = " ".join(PARAGRAPHS[3:6])


def test_no_word_is_lost_where_chunks_meet(tmp_path: Path) -> None:
    require_hearing()
    speaker = Speaker(piper(), tmp_path, MAX_CHUNK_CHARS="200")
    try:
        assert len(speaker.job(text=LONG, dry_run=True)["chunks"]) > 2
        assert errors_of(speaker, [LONG]) <= 0.1
    finally:
        speaker.inference.close()


@pytest.mark.soak
def test_no_word_of_kokoros_is_lost_where_chunks_meet(tmp_path: Path) -> None:
    require_hearing()
    speaker = Speaker(kokoro(), tmp_path, MAX_CHUNK_CHARS="200")
    try:
        assert errors_of(speaker, PARAGRAPHS[3:]) <= 0.05
    finally:
        speaker.inference.close()


def test_a_dialogue_is_two_voices(piper_speaker: Speaker) -> None:
    assert_two_voices(piper_speaker)


@pytest.mark.soak
def test_a_dialogue_of_kokoros_is_two_voices(kokoro_speaker: Speaker) -> None:
    assert_two_voices(kokoro_speaker)


def assert_two_voices(speaker: Speaker) -> None:
    """By the pitch of each half of an answer, which is one speaker's."""
    lines = "We will leave early in the morning, when all the others are still asleep."
    samples, _ = speaker.speak(text=f"Speaker 1: {lines}\nSpeaker 2: {lines}")
    half = len(samples) // 2
    one, other = pitch(samples[:half]), pitch(samples[half:])
    assert max(one, other) / min(one, other) > 1.12


def test_every_format_holds_the_same_words(piper_speaker: Speaker) -> None:
    """One take is encoded in each, so that only the encoding differs."""
    said = "The museum opens at ten, and children do not pay."
    samples, rate = piper_speaker.speak(text=said)
    recognised = {"wav": heard(samples, rate)}
    for form in set(FORMATS) - {"wav", "pcm"}:
        encoder = Encoder(form, rate)
        decoded, its_rate = by_ffmpeg(encoder.encode(samples) + encoder.close())
        recognised[form] = heard(decoded.astype(np.float32), its_rate)
    errors = {form: word_errors([said], [words]) for form, words in recognised.items()}
    assert max(errors.values()) <= 0.1, recognised


def test_a_language_that_was_asked_for_is_the_one_that_is_heard(kokoro_speaker: Speaker) -> None:
    said = "Guten Morgen, heute scheint die Sonne, und wir gehen zusammen in den Garten."
    samples, rate = kokoro_speaker.speak(text=said, language="de-AT")
    assert word_errors([said], [heard(samples, rate, "de")], english=False) <= 0.25
