"""Results too large for an answer: over S3 through the real worker loop, or kept and named."""

import asyncio
import base64
import re
import threading
import urllib.request
from pathlib import Path

import pytest

from config import Settings
from delivery.answer import INLINE_LIMIT
from tests.bad_network import resetting, serving, slowed
from tests.runpod_api import RunPodApi
from tests.swift import SECRET_KEY, settings
from tests.test_s3 import contents
from tests.worker_process import FAKE, Worker, worker

pytestmark = pytest.mark.process
LARGE = "frames1400"  # 187 s: 9.0 MB as wav, more than an answer carries


def asked(orders: str, **fields: object) -> dict[str, object]:
    return {"text": f"say {orders}", "loudness": None, "output_format": "wav", **fields}


def only_copy(one: Worker, owner: str) -> Path:
    (copy,) = (one.volume / "output").glob(f"{owner}_*")
    return copy


def test_a_large_result_is_a_link_to_the_same_bytes(
    swift_store: dict[str, str], tmp_path: Path
) -> None:
    more = {**swift_store, "S3_PREFIX": "speech"}
    with RunPodApi() as api, worker(api, tmp_path, FAKE, **more) as one:
        job = api.wait(api.submit(asked(LARGE, session_id="mine")), timeout=300)
        assert job.status == "COMPLETED", job.error
        url = job.output["audio_url"]
        assert "audio_base64" not in job.output
        assert re.search(r"/speech/mine/[0-9a-f]{32}\.wav\?", url)
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own store
            data = answer.read()
            assert answer.headers["Content-Type"] == "audio/wav"
        assert len(data) == 44 + 2 * 3200 * 1400 > INLINE_LIMIT
        assert only_copy(one, "mine").read_bytes() == data
        assert api.violations == []
        assert SECRET_KEY not in one.log()


def test_without_a_store_it_fails_and_the_file_is_where_the_error_says(tmp_path: Path) -> None:
    with RunPodApi() as api, worker(api, tmp_path, FAKE) as one:
        job = api.wait(api.submit(asked(LARGE, session_id="kept")), timeout=300)
        assert job.status == "FAILED"
        copy = only_copy(one, "kept")
        assert (job.error or "").endswith(f"It is kept as output/{copy.name} in VIBEVOICE_VOLUME")
        assert copy.stat().st_size == 44 + 2 * 3200 * 1400
        smaller = api.wait(api.submit(asked(LARGE, allow_recompress=True)), timeout=300)
        assert smaller.status == "COMPLETED", smaller.error
        assert smaller.output["format"] == "opus"
        assert "so it is opus" in smaller.output["warnings"][0]
        assert api.violations == []


LONG = "The quick brown fox jumps over the lazy dog, and nobody is surprised. " * 60
"""Some five minutes."""


def test_what_should_be_too_large_is_said_at_once_and_ends_as_it_does(tmp_path: Path) -> None:
    with RunPodApi() as api, worker(api, tmp_path) as one:
        job_id = api.submit({"text": LONG, "output_format": "wav", "session_id": "kept"})
        job = api.wait(job_id, timeout=300)
        assert only_copy(one, "kept").name in (job.error or "")
        first = api.seen("progress", job_id)[0].body["output"]
        assert (first["chunks_done"], first["chunks_total"]) == (0, 5)
        # 4,200 characters by 65 ms, at 48,000 bytes a second
        assert re.match(r"the audio will have about 1[12]\.\d MB", first["warning"])
        small = api.submit({"text": LONG, "output_format": "wav", "allow_recompress": True})
        assert api.wait(small, timeout=300).status == "COMPLETED"
        outputs = [post.body["output"] for post in api.seen("progress", small)]
        assert all("warning" not in output for output in outputs)
        assert api.violations == []


def test_what_cannot_fit_is_refused_before_it_is_spoken_where_no_copy_is_kept(
    tmp_path: Path,
) -> None:
    with RunPodApi() as api, worker(api, tmp_path, SAVE_OUTPUT="false") as one:
        job_id = api.submit({"text": LONG, "output_format": "wav"})
        error = api.wait(job_id).error or ""
        assert error.startswith("[invalid_value] text: the audio will have about 1")
        assert "S3_ENDPOINT_URL" in error
        assert api.seen("progress", job_id) == []
        assert list((one.volume / "output").iterdir()) == []
        assert api.wait(api.submit({"text": LONG}), timeout=300).status == "COMPLETED"


def test_a_store_that_is_down_is_a_warning_or_an_error_with_the_kept_file(tmp_path: Path) -> None:
    more = settings("http://127.0.0.1:9")
    with RunPodApi() as api, worker(api, tmp_path, FAKE, **more) as one:
        small = api.wait(api.submit(asked("frames8")), timeout=300)
        assert small.status == "COMPLETED", small.error
        assert "audio_base64" in small.output
        assert small.output["warnings"][0].startswith("the upload to the S3 store failed:")
        large = api.wait(api.submit(asked(LARGE, session_id="kept")), timeout=300)
        assert large.status == "FAILED"
        assert "the upload to the S3 store failed:" in (large.error or "")
        assert only_copy(one, "kept").name in (large.error or "")
        smaller = api.wait(api.submit(asked(LARGE, allow_recompress=True)), timeout=300)
        assert smaller.status == "COMPLETED", smaller.error
        assert smaller.output["format"] == "opus"
        assert base64.b64decode(smaller.output["audio_base64"]).startswith(b"OggS")
        shrunk, failed = smaller.output["warnings"]
        assert "so it is opus" in shrunk
        assert failed.startswith("the upload to the S3 store failed:")


def test_an_upload_that_is_reset_half_way_ends_in_the_kept_file(
    swift_store: dict[str, str], tmp_path: Path
) -> None:
    port = int(swift_store["S3_ENDPOINT_URL"].rpartition(":")[2])
    with serving(resetting(port, 3_000_000)) as way, RunPodApi() as api:
        more = settings(f"http://127.0.0.1:{way}")
        with worker(api, tmp_path, FAKE, **more) as one:
            job = api.wait(api.submit(asked(LARGE, session_id="cut")), timeout=300)
            assert job.status == "FAILED"
            copy = only_copy(one, "cut")
            assert "the upload to the S3 store failed:" in (job.error or "")
            assert (job.error or "").endswith(
                f"It is kept as output/{copy.name} in VIBEVOICE_VOLUME"
            )
            assert copy.stat().st_size == 44 + 2 * 3200 * 1400
            assert api.violations == []
            assert one.temporary_files() == []


def test_a_job_that_is_stopped_while_it_is_uploaded_leaves_nothing(
    swift_store: dict[str, str], tmp_path: Path
) -> None:
    way = slowed(int(swift_store["S3_ENDPOINT_URL"].rpartition(":")[2]))
    began = threading.Event()

    async def noticed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began.set()
        await way(reader, writer)

    with serving(noticed) as port, RunPodApi() as api:
        more = settings(f"http://127.0.0.1:{port}") | {"S3_PREFIX": "stopped"}
        with worker(api, tmp_path, FAKE, **more) as one:
            job_id = api.submit(asked(LARGE))
            assert began.wait(60)
            api.cancel(job_id)
            api.until(lambda: "Job stopped." in one.records(job_id), 30)
            assert "cancelled" in one.records(job_id)
            assert api.seen("job-done", job_id) == []
            assert one.copies(job_id) == []
            assert one.temporary_files() == []
    bucket = Settings.from_env(swift_store).bucket
    assert bucket is not None
    assert not [key for key in contents(bucket) if "stopped/" in key]


def test_a_jobs_own_bucket_may_not_lie_inside(tmp_path: Path) -> None:
    config = {"accessId": "a", "accessSecret": "b", "bucketName": "audio"}
    with RunPodApi() as api, worker(api, tmp_path, FAKE) as one:
        for endpoint in ("https://127.0.0.1:9", "http://example.com"):
            inside = {**config, "endpointUrl": endpoint}
            job = api.wait(api.submit(asked("frames8"), s3Config=inside))
            assert job.status == "FAILED"
            assert (job.error or "").startswith("[invalid_value] s3Config.endpointUrl: ")
        assert one.journal("say frames8") == []
