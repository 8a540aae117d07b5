"""The long ones, run by `make soak`: a long result, thousands of hostile jobs, flat memory."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.prose import prose
from tests.runpod_api import RunPodApi
from tests.swift import swift_bucket
from tests.test_request import JSON, NAMES
from tests.worker_process import Worker, worker

pytestmark = pytest.mark.soak


def test_ninety_minutes_of_speech_arrive_by_a_link_from_less_than_600_mb(tmp_path: Path) -> None:
    with (
        swift_bucket(tmp_path / "swift") as store,
        RunPodApi(execution_timeout=1800) as api,
        worker(api, tmp_path, MAX_TEXT_LENGTH="1000000", **store) as one,
    ):
        job = api.wait(api.submit({"text": prose(100_000), "output_format": "wav"}), 900)
        assert job.status == "COMPLETED", job.error
        seconds = job.output["duration_sec"]
        assert seconds > 90 * 60
        speech = tmp_path / "speech.wav"
        urllib.request.urlretrieve(job.output["audio_url"], speech)  # noqa: S310 - our own store
        info = soundfile.info(speech)
        assert (info.samplerate, info.frames) == (24_000, round(seconds * 24_000))
        status = Path(f"/proc/{one.process.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        assert peak < 600, f"{peak:.0f} MB for {seconds / 60:.0f} minutes"
        assert one.temporary_files() == []
        assert api.violations == []


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Worker]:
    with RunPodApi() as api, worker(api, tmp_path, SAVE_OUTPUT="false") as running:
        yield running
        assert running.api.violations == []
        assert "internal error" not in running.log()


@settings(
    max_examples=5000,
    derandomize=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fields=st.dictionaries(NAMES, JSON, max_size=6), text=st.text(max_size=60))
def test_any_job_ends_in_an_answer_or_in_a_sentence(
    one: Worker, fields: dict[str, Any], text: str
) -> None:
    job = one.api.wait(one.api.submit({"text": text, **fields}), 60)
    if job.status == "COMPLETED":
        assert job.output["status"] == "success"
    else:
        assert job.status == "FAILED"
        assert isinstance(job.error, str)


def test_memory_after_a_thousand_jobs_is_that_after_fifty(tmp_path: Path) -> None:
    with RunPodApi() as api, worker(api, tmp_path, MAX_CONCURRENCY="8") as one:

        def jobs(count: int) -> float:
            ids = [api.submit({"text": prose(200), "seed": seed}) for seed in range(count)]
            assert {api.wait(job_id, 600).status for job_id in ids} == {"COMPLETED"}
            return one.memory_mb()

        early, late = jobs(50), jobs(950)
        assert late < early + 30, f"{early:.0f} MB after 50 jobs, {late:.0f} MB after 1,000"
        assert api.violations == []
