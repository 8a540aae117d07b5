"""What a recogniser hears of whole jobs, spoken by the neural voices without a GPU."""

import asyncio
import base64
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from audio.pcm import Samples
from config import Settings
from delivery.answer import Outputs
from engines.base import Engine
from synthesis.inference import VibeVoiceInference
from tests.hearing import heard, require_hearing, word_errors
from tests.real_engines import kokoro, piper
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
        self._jobs = Jobs(self.inference, Outputs(volume, save=False), _Log())

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
    recognised = [heard(speaker.speak(text=text)[0]) for text in texts]
    said = [text.replace("Speaker 1:", "").replace("Speaker 2:", "") for text in texts]
    for pair in zip(said, recognised, strict=True):
        print(*pair, sep="\n")  # noqa: T201 - shown where the test fails
    return word_errors(said, recognised)


def test_kokoro_is_understood(kokoro_speaker: Speaker) -> None:
    assert errors_of(kokoro_speaker, PLAIN) <= 0.05


def test_piper_is_understood(piper_speaker: Speaker) -> None:
    assert errors_of(piper_speaker, PLAIN) <= 0.1
