"""A long text through the fast runtime at eight slots: side by side inside, in order outside."""

import asyncio
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bench.prose import prose
from config import Settings
from engines.base import Options
from engines.vibevoice.engine import VibeVoiceEngine
from request.model import parse_request
from synthesis.file import SpeechFile
from synthesis.inference import VibeVoiceInference
from tests import vibevoice_fixtures as vibevoice
from text.chunks import plan_text

pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)

FADE = 240


def test_twenty_thousand_characters_come_out_in_order_with_every_span_right(
    tmp_path: Path,
) -> None:
    text = prose(20_000)
    engine = VibeVoiceEngine(
        str(vibevoice.checkpoint()), volume=vibevoice.volume(), device="cpu", slots=8
    )
    environment = {
        "VIBEVOICE_VOLUME": str(tmp_path),
        "MAX_TEXT_LENGTH": "20000",
        "MAX_RETRIES": "0",
        "PACE_TOLERANCE": "100",
    }
    inference = VibeVoiceInference(Settings.from_env(environment), engine)
    asked = {"text": text, "steps": 1, "loudness": None, "output_format": "wav"}
    request, _ = parse_request(asked, inference.defaults)

    async def speak() -> SpeechFile:
        async with inference.plan(request) as planned:
            return await inference.generate(planned, tmp_path)

    file = asyncio.run(speak())
    result = file.result
    heard, rate = soundfile.read(file.path, dtype="float32")
    planned = plan_text(text, inference.limits, {})
    assert len(result.chunks) == len(planned.chunks) > 16
    assert result.model["runtime"] == "fast"

    # Every chunk has its place in the text, one after the other, and nothing is left out
    places = [(chunk.text_start, chunk.text_end) for chunk in result.chunks]
    assert places == [(chunk.text_start, chunk.text_end) for chunk in planned.chunks]
    for (_, end), (start, _) in pairwise(places):
        assert end <= start
        assert not text[end:start].strip()

    # and in the audio, where its own samples are, then the pause that was planned
    spans = [(round(c.start_sec * rate), round(c.end_sec * rate)) for c in result.chunks]
    assert spans[0][0] == 0
    for ((_, end), (start, _)), chunk in zip(pairwise(spans), planned.chunks, strict=False):
        assert start - end == round(chunk.pause_ms * rate / 1000)
        assert not heard[end:start].any()
    assert spans[-1][1] == len(heard)
    for index in (0, 9, len(spans) - 1):
        voices = (inference.voices.resolve(None)[0],)
        alone = vibevoice.plan(
            planned.chunks[index].turns, voices=voices, seed=result.seed, options=Options(steps=1)
        )
        wanted = vibevoice.samples(vibevoice.engine().start(alone))
        start, end = spans[index]
        assert end - start == len(wanted)
        spoken, wanted = heard[start + FADE : end - FADE], wanted[FADE:-FADE]
        assert np.sqrt(np.mean((spoken - wanted) ** 2)) < 1e-4  # a WAV's 16 bits
    inference.close()
