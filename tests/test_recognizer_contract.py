"""The recogniser's contract, by all recognisers."""

import numpy as np
import pytest

from audio.pcm import SAMPLE_RATE, Samples, silence
from request.errors import EngineError
from tests.fake_recognizer import FakeRecognizer, tone
from tests.real_speech import KOKORO, PIPER, WHISPER, kokoro, piper, require_packages
from tests.recognizer_contract import RecognizerContract
from transcription.base import Recognizer
from transcription.registry import create_recognizer


class TestFake(RecognizerContract):
    said = ("440", "440", "880")

    def make_recognizer(self) -> Recognizer:
        return FakeRecognizer()

    def make_speech(self) -> list[Samples]:
        gap = silence(SAMPLE_RATE // 2)
        return [np.concatenate([tone(hertz, 1), gap]) for hertz in (440, 440, 880)]


@pytest.mark.models
class TestWhisper(RecognizerContract):
    said = ("train", "cheaper", "library")

    def make_recognizer(self) -> Recognizer:
        require_packages(*WHISPER)
        return create_recognizer("whisper", {"cpu_threads": 1})

    def make_speech(self) -> list[Samples]:
        require_packages(*KOKORO, *PIPER)
        gap = silence(SAMPLE_RATE)
        return [
            np.concatenate([piper("The first train leaves early in the morning."), gap]),
            np.concatenate([piper("I would rather take the bus, because it is cheaper."), gap]),
            np.concatenate([kokoro("We could meet at the library and walk from there."), gap]),
        ]


def test_a_recogniser_nobody_knows_is_refused() -> None:
    with pytest.raises(EngineError, match="there is no recogniser 'ear': there is whisper"):
        create_recognizer("ear", {})
