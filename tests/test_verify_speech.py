"""Real speech: Kokoro's takes, whole and damaged, heard by Whisper; words of espeak in time.

The few takes that are heard in every run lie in tests/takes, since Kokoro needs two seconds of CPU
for each of its own. A sentence that is not there is spoken, and kept there."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from audio.pcm import Samples
from bench.damaged_takes import KINDS, PARAGRAPHS, VOICES, Kokoro, damaged, takes, whole
from bench.verify import found, heard, make_verifier, word_errors_sec
from config import Settings
from engines.base import Plan
from synthesis.inference import VibeVoiceInference
from synthesis.result import Result
from tests.fake_engine import CAPABILITIES, FakeEngine, FakeSpeech
from tests.real_speech import KOKORO, WHISPER, require_packages
from tests.test_verify import spoken
from text.pace import Pace
from transcription.verifier import SpeechVerifier

pytestmark = pytest.mark.models
FEW = 3
RECORDED = Path(__file__).with_name("takes")


@pytest.fixture(scope="module")
def verifier() -> Iterator[SpeechVerifier]:
    require_packages(*WHISPER, "resemblyzer", "torch", "rapidfuzz", "whisper_normalizer")
    with closing(make_verifier()) as verifier:
        yield verifier


@pytest.fixture(scope="module")
def kokoro() -> Kokoro:
    return Kokoro(RECORDED)


def test_paragraphs_pass_and_damaged_takes_are_found(
    verifier: SpeechVerifier, kokoro: Kokoro
) -> None:
    good = [heard(verifier, whole(kokoro, index)) for index in range(FEW)]
    assert [each.problem for each in good] == [""] * FEW
    assert max(each.wer for each in good) < 0.15
    bad = [damaged(kokoro, n % FEW, kind) for n, kind in enumerate([*KINDS, *KINDS[:4]])]
    table = found(verifier, Pace(2.5), bad)
    missed = {kind: row["takes"] - row["verify"] for kind, row in table.items()}
    assert sum(row["takes"] for row in table.values()) == 12
    assert sum(missed.values()) <= 1, missed


@pytest.mark.soak
def test_of_40_paragraphs_none_is_suspected_and_of_120_damaged_takes_95_percent_are_found(
    verifier: SpeechVerifier, tmp_path: Path
) -> None:
    require_packages(*KOKORO)
    kokoro = Kokoro(tmp_path)
    good = [whole(kokoro, index) for index in range(len(PARAGRAPHS))]
    assert sum(bool(heard(verifier, take).problem) for take in good) <= 0.02 * len(good)
    table = found(verifier, Pace(2.5), takes(kokoro, 120))
    assert sum(row["verify"] for row in table.values()) >= 0.95 * 120, table


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_words_begin_where_espeak_says_that_they_begin(
    verifier: SpeechVerifier, count: int
) -> None:
    errors = word_errors_sec(verifier, PARAGRAPHS[:count])
    assert len(errors) > 15 * count
    assert np.median(errors) <= 0.08
    assert np.mean(errors <= 0.2) >= 0.9


class Damages(FakeEngine):
    """Kokoro, which loses the second half of one chunk in five at the first attempt."""

    def __init__(self, kokoro: Kokoro) -> None:
        super().__init__(capabilities=replace(CAPABILITIES, varies=True))
        self._kokoro = kokoro

    def start(self, plan: Plan) -> FakeSpeech:
        self.audio = [
            self._take(chunk.turns[0].text, lost=index % 5 == 2 and chunk.attempt == 1)
            for index, chunk in enumerate(plan.chunks)
        ]
        return super().start(plan)

    def _take(self, text: str, lost: bool) -> Samples:
        samples = self._kokoro.say(text, VOICES[0])
        return samples[: len(samples) // 2] if lost else samples


def test_an_answer_of_an_engine_that_loses_one_chunk_in_five_has_every_word(
    verifier: SpeechVerifier, kokoro: Kokoro, tmp_path: Path
) -> None:
    text = "\n\n".join(
        [
            "Two fishermen waved at us from the old wooden pier.",
            "It opened on March 3rd, 1998, in heavy rain, they say.",
            "Please read the first two chapters before you come here.",
            "The council will organise a vote later in the autumn.",
            "In the winter he cuts them back to the ground again.",
        ]
    )
    settings = Settings.from_env(
        {"VIBEVOICE_VOLUME": str(tmp_path), "MAX_CHUNK_CHARS": "100", "MIN_LAST_CHUNK_CHARS": "0"}
    )
    inference = VibeVoiceInference(settings, Damages(kokoro), verifier=verifier)
    result = spoken(inference, tmp_path, text=text, verify="repeat", timestamps="word")
    assert_whole(result)
    assert [chunk.attempts for chunk in result.chunks] == [1, 1, 2, 1, 1]


def assert_whole(result: Result) -> None:
    assert result.warnings == ()
    # Whisper mishears some words of Kokoro's; of the chunk that was made again it hears each.
    assert result.chunks[2].facts["missing"] == []
    assert result.words is not None
    assert [word.word for word in islice(result.words, 4)] == ["Two", "fishermen", "waved", "at"]
