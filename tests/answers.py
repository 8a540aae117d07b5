"""Reads the audio of an answer back, with a decoder that had no part in making it."""

import base64
import io
from typing import Any

import numpy as np
import soundfile

from audio.pcm import Samples


def audio_of(answer: dict[str, Any]) -> tuple[Samples, int]:
    """Samples and rate of an answer in wav, flac, mp3, opus or pcm."""
    assert "error" not in answer, answer["error"]
    data = base64.b64decode(answer["audio_base64"])
    if answer["format"] == "pcm":
        pcm = np.frombuffer(data, "<i2").astype(np.float32)
        return pcm / np.float32(32768), answer["sample_rate"]
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return np.asarray(samples, np.float32), rate
