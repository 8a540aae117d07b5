"""Realtime against upstream's own class, live, where a clone has it (VIBEVOICE_CODE)."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.base import End, Options
from request.errors import EngineError
from tests.engine_contract import by_chunk
from tests.test_engine_realtime import TEXT, heard, new_engine, plan

pytestmark = pytest.mark.realtime

CLASS = Path("vibevoice", "modular", "modeling_vibevoice_streaming_inference.py")


def clone() -> Path:
    """A clone with the class, or a skip that names it."""
    code = os.environ.get("VIBEVOICE_CODE", "")
    if not code or not (Path(code) / CLASS).is_file():
        pytest.skip("needs VIBEVOICE_CODE, a clone of VibeVoice with its streaming class")
    return Path(code)


def test_the_fast_runtime_speaks_as_the_reference_does() -> None:
    code = clone()
    ours, theirs = new_engine(code=code, put_offs=0), new_engine(code=code, runtime="reference")
    try:
        asked = plan(TEXT, "... !", "More of it.", options=Options(steps=5, cfg_scale=1.5))
        events, wanted = list(ours.start(asked)), list(theirs.start(asked))
        assert {e for e in events if isinstance(e, End)} == {
            e for e in wanted if isinstance(e, End)
        }
        made = by_chunk(events)
        for chunk, samples in by_chunk(wanted).items():
            assert made[chunk].shape == samples.shape
            if len(samples):
                error = np.sqrt(np.mean((made[chunk] - samples) ** 2) / np.mean(samples**2))
                assert error < 1e-4
        assert theirs.capabilities.details["runtime"] == "reference"
        assert not theirs.capabilities.streaming_text
    finally:
        ours.close()
        theirs.close()


def test_without_the_class_the_reference_says_what_it_needs() -> None:
    if os.environ.get("VIBEVOICE_CODE"):
        pytest.skip("a clone is there")
    own = new_engine(runtime="reference")
    with pytest.raises(EngineError, match="set VIBEVOICE_CODE to a clone"):
        heard(list(own.start(plan(TEXT))))
    own.close()
