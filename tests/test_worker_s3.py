"""Results too large for an answer: over S3 through the real worker loop, or kept and named."""

import asyncio
import base64
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings
from speech.delivery import INLINE_LIMIT
from tests.bad_network import resetting, serving, slowed
from tests.runpod_api import RunPodApi
from tests.swift import SECRET_KEY, settings, swift_bucket
from tests.test_s3 import contents
from tests.worker import FAKE, Worker, worker

LARGE = "frames1400"  # 187 s: 9.0 MB as wav, more than an answer carries


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with swift_bucket(tmp_path_factory.mktemp("swift")) as of_worker:
        yield of_worker


def asked(orders: str, **fields: object) -> dict[str, object]:
    return {"text": f"say {orders}", "loudness": None, "output_format": "wav", **fields}


def only_copy(one: Worker, owner: str) -> Path:
    (copy,) = (one.volume / "output").glob(f"{owner}_*")
    return copy


def test_a_large_result_is_a_link_to_the_same_bytes(store: dict[str, str], tmp_path: Path) -> None:
    more = {**store, "S3_PREFIX": "speech"}
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
    store: dict[str, str], tmp_path: Path
) -> None:
    port = int(store["S3_ENDPOINT_URL"].rpartition(":")[2])
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
    store: dict[str, str], tmp_path: Path
) -> None:
    way = slowed(int(store["S3_ENDPOINT_URL"].rpartition(":")[2]))
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
    bucket = Settings.from_env(store).bucket
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
