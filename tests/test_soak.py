"""The long ones, run by `make soak`: an hour of speech, thousands of hostile jobs, flat memory."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import handler
from bench.prose import prose
from config import Settings
from inference import VibeVoiceInference
from tests.test_request import JSON, NAMES

pytestmark = pytest.mark.soak
ROOT = Path(__file__).resolve().parent.parent


def test_an_hour_of_speech_takes_less_than_600_mb(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.job", "long"],
        cwd=ROOT,
        env=os.environ
        | {
            "ENGINE": "espeak",
            "MAX_TEXT_LENGTH": "1000000",
            "VIBEVOICE_VOLUME": str(tmp_path),
            "RUNPOD_LOG_LEVEL": "ERROR",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    (copy,) = (tmp_path / "output").iterdir()
    assert copy.name in output
    assert copy.stat().st_size > 50e6
    peak = int(output.split("peak memory ")[1].split(" MB")[0])
    assert peak < 600, output


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VibeVoiceInference]:
    made_of = Settings.from_env({"ENGINE": "espeak", "VIBEVOICE_VOLUME": str(tmp_path)})
    inference = VibeVoiceInference(made_of)
    monkeypatch.setattr(handler, "settings", lambda: made_of)
    monkeypatch.setattr(handler, "inference", lambda: inference)
    monkeypatch.setattr("handler.delivery.keep", lambda *_: "kept")
    yield inference
    inference.close()


@pytest.mark.usefixtures("worker")
@settings(
    deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(NAMES, JSON, max_size=6), st.text(max_size=60))
def test_any_job_ends_in_an_answer_or_in_a_sentence(fields: dict[str, Any], text: str) -> None:
    job = {"id": "fuzz", "input": {"text": text, **fields}}
    answer = asyncio.run(handler.handler(job))
    json.dumps(answer, allow_nan=False).encode("utf-8")
    assert answer.get("status") == "success" or isinstance(answer["error"], str)
    assert not str(answer.get("error", "")).startswith("internal error")


@pytest.mark.usefixtures("worker")
def test_memory_is_flat_over_a_thousand_jobs() -> None:
    def jobs(count: int) -> float:
        for number in range(count):
            job = {"id": str(number), "input": {"text": prose(200), "seed": number}}
            assert asyncio.run(handler.handler(job))["status"] == "success"
        return float(psutil.Process().memory_info().rss) / 2**20

    early, late = jobs(50), jobs(950)
    assert late < early + 30, f"{early:.0f} MB after 50 jobs, {late:.0f} MB after 1,000"
