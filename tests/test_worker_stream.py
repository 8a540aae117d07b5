"""Streaming jobs through the real SDK's worker loop, against a RunPod of ours."""

import base64
from collections.abc import Iterator

import numpy as np
import pytest

from tests.answers import audio_of
from tests.runpod_api import RunPodApi
from tests.runpod_wire import Job
from tests.worker_process import FAKE, Worker, worker

pytestmark = pytest.mark.process
SECRET = "the callers secret words"


@pytest.fixture(scope="module")
def stream_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("stream")
    with (
        RunPodApi() as api,
        worker(api, folder, FAKE, STREAM_JOBS="true", MAX_CONCURRENCY="4") as one,
    ):
        yield one


@pytest.fixture
def streams(stream_worker: Worker) -> Iterator[Worker]:
    yield stream_worker
    assert stream_worker.api.violations == []
    assert SECRET not in stream_worker.log()
    assert "Traceback" not in stream_worker.log()


def ask(one: Worker, orders: str, **fields: object) -> str:
    asked = {"text": f"{SECRET} {orders}", "loudness": None, "output_format": "pcm", **fields}
    return one.api.submit(asked)


def stopped(one: Worker, orders: str) -> None:
    one.api.until(lambda: "cancelled" in [what for _, what in one.journal(f"{SECRET} {orders}")])


def posted_bytes(one: Worker, job: Job) -> bytes:
    """What a reader of /stream gets, piece after piece."""
    pieces = [event.body["output"] for event in one.api.seen("job-stream", job.id)]
    audio = [piece for piece in pieces if "audio_chunk" in piece]
    assert [piece["index"] for piece in audio] == list(range(len(audio)))
    assert [piece["is_last"] for piece in audio] == [False] * (len(audio) - 1) + [True]
    return b"".join(base64.b64decode(piece["audio_chunk"]) for piece in audio)


@pytest.mark.smoke
def test_a_stream_is_whole_in_order_and_ends_with_the_facts(streams: Worker) -> None:
    job = streams.api.wait(ask(streams, "frames40", stream=True))
    assert job.status == "COMPLETED", job.error
    data = posted_bytes(streams, job)
    samples = np.frombuffer(data, "<i2")
    assert len(samples) == 3200 * 40
    assert (samples[240:-240] == 16_384).all()
    *pieces, facts = job.output
    assert all(piece["audio_chunk"] == "" for piece in pieces)
    assert facts["status"] == "success"
    assert facts["duration_sec"] == round(len(samples) / 24_000, 6)
    assert "audio_base64" not in facts


def test_the_first_piece_comes_while_the_engine_speaks(streams: Worker) -> None:
    job_id = ask(streams, "frames40 held20", stream=True)
    streams.api.until(lambda: streams.api.seen("job-stream", job_id))
    streams.go_on(f"{SECRET} frames40 held20")
    assert streams.api.wait(job_id).status == "COMPLETED"


def test_a_batch_callers_answer_is_the_lists_last_item(streams: Worker) -> None:
    job = streams.api.wait(ask(streams, "frames20"))
    assert job.status == "COMPLETED", job.error
    samples, _ = audio_of(job.output[-1])
    assert len(samples) == 3200 * 20
    (post,) = streams.api.seen("job-stream", job.id)
    assert "audio_base64" not in post.body["output"]
    assert post.size < 10_000


def test_a_failure_in_the_middle_fails_the_job(streams: Worker) -> None:
    job = streams.api.wait(ask(streams, "frames20 fail15", stream=True))
    assert (job.status, job.error) == (
        "FAILED",
        "[engine_failed] the fake engine failed as it was told to",
    )
    assert streams.temporary_files() == []


def test_a_piece_that_runpod_does_not_take_fails_the_job_and_is_never_a_gap(
    streams: Worker,
) -> None:
    orders = "frames2000 delay20 held20 gap"
    job_id = ask(streams, orders, stream=True)
    streams.api.until(lambda: streams.api.seen("job-stream", job_id))
    streams.api.fail("job-stream", 413, job_id=job_id)
    streams.go_on(f"{SECRET} {orders}")
    job = streams.api.wait(job_id)
    assert (job.status, job.error) == (
        "FAILED",
        "[delivery_failed] RunPod did not take a piece of the audio",
    )
    stopped(streams, orders)
    streams.api.until(lambda: streams.temporary_files() == [])


def test_a_post_that_is_cut_is_posted_again(streams: Worker) -> None:
    job_id = ask(streams, "frames100 held0 cut", stream=True)
    streams.api.fail("job-stream", 0, job_id=job_id)
    streams.go_on(f"{SECRET} frames100 held0 cut")
    job = streams.api.wait(job_id)
    assert job.status == "COMPLETED", job.error
    taken = [each for each in streams.api.seen("job-stream", job_id) if each.status == 200]
    audio = [each.body["output"] for each in taken if "audio_chunk" in each.body["output"]]
    data = b"".join(base64.b64decode(piece["audio_chunk"]) for piece in audio)
    assert len(data) == 2 * 3200 * 100


def test_a_batch_answer_says_nothing_of_a_post_that_was_lost(streams: Worker) -> None:
    job_id = ask(streams, "frames20 held0 quiet")
    streams.api.fail("job-stream", 413, job_id=job_id)
    streams.go_on(f"{SECRET} frames20 held0 quiet")
    job = streams.api.wait(job_id)
    assert "lost" not in job.output[-1]
    assert len(audio_of(job.output[-1])[0]) == 3200 * 20


def test_a_stop_ends_the_engine_also_while_a_piece_is_posted(streams: Worker) -> None:
    with streams.api.holding("job-stream"):
        job_id = ask(streams, "frames2000 delay20", stream=True)
        streams.api.until(lambda: streams.api.held["job-stream"])
        streams.api.cancel(job_id)
        stopped(streams, "frames2000 delay20")
    streams.api.until(lambda: streams.temporary_files() == [])
    assert streams.copies(job_id) == []


def test_streams_run_side_by_side(streams: Worker) -> None:
    ids = [ask(streams, f"frames{20 + index}", stream=True) for index in range(4)]
    for index, job_id in enumerate(ids):
        data = posted_bytes(streams, streams.api.wait(job_id))
        assert len(data) == 2 * 3200 * (20 + index)
