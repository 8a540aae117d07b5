"""The real SDK's worker loop against a RunPod of ours: nothing lost, nothing hung, nothing leaked.

Every test ends with the server's list of violations empty, and no log has the callers' words.
"""

import json
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.answers import audio_of
from tests.fake_worker import SECRET_PATH
from tests.runpod_api import RunPodApi
from tests.runpod_wire import RUN_LIMIT, Job
from tests.worker_process import FAKE, Worker, worker

pytestmark = pytest.mark.process
SECRET = "the callers secret words"


def watched(one: Worker) -> Iterator[Worker]:
    before = len(one.log())
    yield one
    assert one.api.violations == []
    log = one.log()[before:]
    assert SECRET not in log
    assert SECRET_PATH not in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def preview_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with RunPodApi() as api, worker(api, tmp_path_factory.mktemp("preview")) as one:
        yield one


@pytest.fixture(scope="module")
def told_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("told")
    with RunPodApi() as api, worker(api, folder, FAKE, MAX_CONCURRENCY="10") as one:
        yield one


@pytest.fixture
def preview(preview_worker: Worker) -> Iterator[Worker]:
    """`handler.py` itself with the preview voice, a job at a time."""
    yield from watched(preview_worker)


@pytest.fixture
def told(told_worker: Worker) -> Iterator[Worker]:
    """A worker whose engine does what the text says, ten jobs at a time."""
    yield from watched(told_worker)


def speak(one: Worker, orders: str, **fields: Any) -> str:
    """Queues a job for the fake engine."""
    return one.api.submit({"text": f"{SECRET} {orders}", "loudness": None, **fields})


def speaking(one: Worker, *orders: str) -> None:
    """Waits until the fake engine has made a frame for each of those jobs."""
    one.api.until(lambda: all("frame" in whats(one, each) for each in orders))


def go_on(one: Worker, *orders: str) -> None:
    one.go_on(*(f"{SECRET} {each}" for each in orders))


def whats(one: Worker, orders: str) -> list[str]:
    return [what for _, what in one.journal(f"{SECRET} {orders}")]


def stopped(one: Worker, orders: str) -> bool:
    return "cancelled" in whats(one, orders)


def results(one: Worker, job_id: str) -> list[int]:
    """The statuses that the posts of a job's result got."""
    return [event.status for event in one.api.seen("job-done", job_id)]


def assert_delivered(one: Worker, job: Job) -> None:
    assert job.status == "COMPLETED", job.error
    assert results(one, job.id)[-1] == 200
    samples, _ = audio_of(job.output)
    assert float(np.abs(samples).max()) > 0.1


def assert_stopped(one: Worker, job_id: str, orders: str) -> None:
    """The engine was told and ended within a frame; nothing was posted or left behind."""
    one.api.until(lambda: one.api.seen("job-stop", job_id))
    one.api.until(lambda: stopped(one, orders))
    told = whats(one, orders)
    after = told[told.index("cancel") + 1 :]
    assert after in (["cancelled"], ["frame", "cancelled"])
    one.api.until(lambda: "Job stopped." in one.records(job_id))
    assert "cancelled" in one.records(job_id)
    assert results(one, job_id) == []
    assert one.copies(job_id) == []
    assert one.temporary_files() == []


# A job's way


@pytest.mark.smoke
def test_runsync_gives_the_audio_to_runpods_own_client(preview: Worker) -> None:
    output = preview.api.endpoint().run_sync({"text": SECRET, "output_format": "wav"}, timeout=60)
    samples, rate = audio_of(output)
    assert len(samples) / rate == pytest.approx(output["duration_sec"], abs=0.001)
    assert output["engine"] == "espeak"


def test_run_gives_the_audio_by_its_status(preview: Worker) -> None:
    endpoint = preview.api.endpoint()
    job = endpoint.run({"input": {"text": SECRET, "output_format": "flac"}})
    assert_delivered(preview, preview.api.wait(job.job_id))
    assert job.status() == "COMPLETED"
    assert audio_of(job.output())[1] == 24_000
    assert len(preview.copies(job.job_id)) == 1
    assert preview.temporary_files() == []
    assert any("job of 24 characters" in line for line in preview.records(job.job_id))


@pytest.mark.parametrize(
    ("job_input", "error"),
    [
        (
            {"text": "  "},
            "[invalid_value] text: is empty (allowed: text of 1 to 100000 characters)",
        ),
        ("text", "[invalid_type] input: is a string (allowed: an object with a field `text`)"),
        ({"text": SECRET, "speed": "\ud800"}, r"[invalid_type] speed: '\ud800' is "),
    ],
)
def test_bad_input_fails_with_our_sentence(told: Worker, job_input: Any, error: str) -> None:
    job = told.api.wait(told.api.submit(job_input))
    assert job.status == "FAILED"
    assert (job.error or "").startswith(error)
    assert told.api.seen("job-done", job.id)[0].body == {"error": job.error}


def test_half_characters_do_not_keep_an_answer_from_its_caller(told: Worker) -> None:
    """The SDK posts UTF-8, which has none, and would never answer."""
    names = {"speaker_name": "\ud800", "\udfff": 1}
    assert_delivered(told, told.api.wait(speak(told, "\ud800", **names)))


def test_an_engine_that_fails_fails_the_job_in_its_words(told: Worker) -> None:
    job = told.api.wait(speak(told, "fail3"))
    assert (job.status, job.error) == (
        "FAILED",
        "[engine_failed] the fake engine failed as it was told to",
    )
    assert told.temporary_files() == []


@pytest.mark.parametrize("streams", ["true", "false"])
def test_no_answer_is_logged_at_any_level(tmp_path: Path, streams: str) -> None:
    more = {"RUNPOD_LOG_LEVEL": "DEBUG", "STREAM_JOBS": streams}
    with RunPodApi() as api, worker(api, tmp_path, FAKE, **more) as one:
        unknown = speak(one, "frames1", speaker_name=SECRET, output_format="wav")
        refused = api.submit({"text": SECRET, "speed": SECRET})
        job = api.wait(unknown)
        answer = job.output[-1] if streams == "true" else job.output
        assert SECRET in answer["warnings"][0]
        assert SECRET in (api.wait(refused).error or "")
        assert "Finished Job" in one.log()
        assert SECRET not in one.log()
        assert answer["audio_base64"][:100] not in one.log()


def test_a_lost_engine_fails_the_job_and_has_the_worker_replaced(told: Worker) -> None:
    job = told.api.wait(speak(told, "lost1"))
    (event,) = told.api.seen("job-done", job.id)
    assert event.body == {"error": "[worker_unavailable] the engine is gone", "stopPod": True}


def test_an_unforeseen_error_tells_no_text_no_path_and_no_traceback(told: Worker) -> None:
    job = told.api.wait(speak(told, "crash1"))
    assert job.error == "[internal_error] internal error (RuntimeError); see the worker's log"
    assert any("internal error: RuntimeError" in line for line in told.records(job.id))


def test_the_largest_answer_that_goes_inline_is_taken_and_a_larger_one_is_kept(
    told: Worker,
) -> None:
    """7 MiB of audio and all warnings that there can be, in a body below 10 MB."""
    unknown = {f"{n}{'unknown' * 9}": n for n in range(1000)}
    fits, large = (
        speak(told, f"frames{count}", output_format="wav", **unknown) for count in (1146, 1147)
    )
    assert_delivered(told, told.api.wait(fits))
    (event,) = told.api.seen("job-done", fits)
    assert 0.97 * RUN_LIMIT < event.size <= RUN_LIMIT
    error = told.api.wait(large).error or ""
    (copy,) = told.copies(large)
    assert error.startswith(
        "[audio_too_large] output_format: the audio has 7.3 MB, and an answer carries at most "
        "7.3 MB; "
    )
    assert error.endswith(f"It is kept as output/{copy.name} in VIBEVOICE_VOLUME")
    assert copy.stat().st_size == 44 + 1147 * 6400


def test_two_hundred_jobs_are_each_answered_once_with_their_own_audio_in_flat_memory(
    told: Worker,
) -> None:
    memory = []
    for first in range(0, 200, 50):
        ids = [
            speak(told, f"frames{1 + n % 9}", output_format="pcm", seed=n)
            for n in range(first, first + 50)
        ]
        for n, job in enumerate((told.api.wait(job_id) for job_id in ids), first):
            assert len(audio_of(job.output)[0]) == 3200 * (1 + n % 9)
            assert job.output["seed"] == n
            assert results(told, job.id) == [200]
            assert len(told.copies(job.id)) == 1
        memory.append(told.memory_mb())
    assert memory[-1] < memory[0] + 20, memory
    assert told.temporary_files() == []


def test_progress_is_shown_while_a_job_runs(told: Worker) -> None:
    job_id = speak(told, "frames40 held30 progress")
    told.api.until(
        lambda: [
            post
            for post in told.api.seen("progress", job_id)
            if post.body["output"]["audio_sec"] == 30 * 3200 / 24_000
        ]
    )
    shown = told.api.endpoint().rp_client.get(f"loopback/status/{job_id}")
    go_on(told, "frames40 held30 progress")
    assert_delivered(told, told.api.wait(job_id))
    assert shown["status"] == "IN_PROGRESS"
    assert shown["output"] == {"chunks_total": 1, "chunks_done": 0, "audio_sec": 4.0}


def test_no_progress_follows_a_result(told: Worker) -> None:
    with told.api.holding("progress"):
        job_id = speak(told, "frames40 held30 slow progress")
        told.api.until(lambda: told.api.held["progress"])
        go_on(told, "frames40 held30 slow progress")
        told.api.until(lambda: "end" in whats(told, "frames40 held30 slow progress"))
    assert_delivered(told, told.api.wait(job_id))
    (done,) = told.api.seen("job-done", job_id)
    posts = told.api.seen("progress", job_id)
    assert all(post.status == 200 and post.at < done.at for post in posts)


def test_a_long_job_does_not_hold_up_the_short_ones_beside_it(tmp_path: Path) -> None:
    """The engine serves the jobs' chunks in turn."""
    more = {"MAX_CONCURRENCY": "4", "MAX_TEXT_LENGTH": "200000"}
    with RunPodApi() as api, worker(api, tmp_path, **more) as one:
        long_text = "The quick brown fox jumps over the lazy dog. " * 1500
        long = api.submit({"text": long_text, "output_format": "opus"})
        api.until(lambda: any("job of" in line for line in one.records(long)))
        short = [api.submit({"text": f"Short number {n}."}) for n in range(9)]
        for job_id in short:
            assert_delivered(one, api.wait(job_id))
            assert not api.jobs[long].ended
        api.cancel(long)
        api.until(lambda: "Job stopped." in one.records(long))


def test_as_many_jobs_are_taken_and_run_at_once_as_are_allowed(tmp_path: Path) -> None:
    orders = [f"frames10 held5 number {n}" for n in range(12)]
    with RunPodApi() as api:
        ids = [api.submit({"text": f"{SECRET} {each}", "loudness": None}) for each in orders]
        with worker(api, tmp_path, FAKE, MAX_CONCURRENCY="4") as one:
            speaking(one, *orders[:4])
            assert [job.id for job in api.jobs.values() if job.status == "IN_PROGRESS"] == ids[:4]
            go_on(one, *orders)
            jobs = [api.wait(job_id) for job_id in ids]
        for job in jobs:
            assert_delivered(one, job)
        assert api.seen("job-take-batch")[0].jobs == tuple(ids[:4])
        steps = {"start": 1, "end": -1}
        notes = sorted(note for each in orders for note in one.journal(f"{SECRET} {each}"))
        at_once = list(accumulate(steps.get(what, 0) for _, what in notes))
        assert max(at_once) == 4
        assert at_once[-1] == 0


def test_no_jobs_input_costs_the_jobs_that_are_taken_with_it(tmp_path: Path) -> None:
    hostile = {
        "seed": "1" + "0" * 5000,
        "pronunciations": "[" * 100_000 + "]" * 100_000,
        "unknown": '{"]": ' * 100_000 + '"\\"]"' + "}" * 100_000,
    }

    def dumps(body: Any) -> str:
        text = json.dumps(body)
        for name, raw in hostile.items():
            text = text.replace(f'"its {name}"', raw)
        return text

    with RunPodApi() as api:
        api.dumps = dumps
        ids = [api.submit({"text": f"{SECRET} frames1", name: f"its {name}"}) for name in hostile]
        good = api.submit({"text": f"{SECRET} frames1"})
        with worker(api, tmp_path, FAKE, MAX_CONCURRENCY="4") as one:
            assert_delivered(one, api.wait(good))
            errors = [api.wait(job_id).error or "" for job_id in ids]
        assert api.seen("job-take-batch")[0].jobs == (*ids, good)
        assert errors[0].startswith("[invalid_value] seed: inf is not finite ")
        assert errors[1].startswith("[invalid_type] pronunciations: is a list ")
        assert errors[2] == ""
        assert api.violations == []


# Stops


def test_a_cancelled_job_stops_within_a_frame_and_leaves_nothing(told: Worker) -> None:
    orders = "frames400 delay133 cancelled"
    job = told.api.endpoint().run({"text": f"{SECRET} {orders}"})
    other = speak(told, "frames30 beside")
    speaking(told, orders)
    assert job.cancel()["status"] == "CANCELLED"
    assert_delivered(told, told.api.wait(other))
    assert_stopped(told, job.job_id, orders)
    assert job.output() is None


def test_a_job_past_its_execution_timeout_stops_too(told: Worker) -> None:
    orders = "frames400 delay133 late"
    job_id = speak(told, orders)
    speaking(told, orders)
    told.api.expire(job_id)
    assert told.api.jobs[job_id].status == "TIMED_OUT"
    assert_stopped(told, job_id, orders)


def test_a_job_that_is_cancelled_as_soon_as_it_is_taken_stops_too(told: Worker) -> None:
    orders = "frames20 held1 early"
    job_id = speak(told, orders)
    told.api.until(lambda: told.api.jobs[job_id].status == "IN_PROGRESS")
    told.api.cancel(job_id)
    told.api.until(lambda: {"Finished.", "Job stopped."} & set(told.records(job_id)))
    told.api.violations.clear()
    assert "end" not in whats(told, orders)


def test_a_job_that_is_cancelled_behind_another_never_starts(preview: Worker) -> None:
    with preview.api.holding("job-done"):
        first, second = (preview.api.submit({"text": SECRET}) for _ in range(2))
        preview.api.until(lambda: preview.api.jobs[first].status != "IN_QUEUE")
        preview.api.cancel(second)
    third = preview.api.submit({"text": SECRET})
    for job_id in (first, third):
        assert_delivered(preview, preview.api.wait(job_id))
    assert preview.records(second) == []
    assert preview.copies(second) == []


# RunPod's failures


def test_results_outlive_two_5xx_and_are_on_the_volume_when_they_do_not_arrive(
    told: Worker,
) -> None:
    """A post is tried three times after a 5xx, a 429 or a cut connection, once after all else."""
    scripts = {
        "twice": [503, 500],
        "thrice": [502, 503, 504],
        "refused": [400],
        "cut": [0],
        "busy": [429],
    }
    with told.api.holding("job-done"):
        ids = {name: speak(told, f"frames3 {name}") for name in scripts}
        for name, statuses in scripts.items():
            told.api.fail("job-done", *statuses, job_id=ids[name])
    told.api.until(lambda: all("Finished." in told.records(job_id) for job_id in ids.values()))
    assert_delivered(told, told.api.jobs[ids["twice"]])
    assert {name: results(told, job_id) for name, job_id in ids.items()} == {
        **scripts,
        "twice": [503, 500, 200],
        "cut": [0, 200],
        "busy": [429, 200],
    }
    for job_id in ids.values():
        (copy,) = told.copies(job_id)
        assert copy.stat().st_size > 1000
        told.api.cancel(job_id)


def test_failing_polls_lose_no_job(preview: Worker) -> None:
    preview.api.fail("job-take", 500, 400, 0, 502)
    job_id = preview.api.submit({"text": SECRET})
    assert_delivered(preview, preview.api.wait(job_id))


def test_the_heartbeat_names_the_jobs_at_work(told: Worker) -> None:
    job_id = speak(told, "frames40 held20 heartbeat")
    told.api.until(lambda: told.api.seen("ping", job_id))
    go_on(told, "frames40 held20 heartbeat")
    told.api.wait(job_id)
    told.api.until(lambda: told.api.seen("ping")[-1].jobs == ())
    assert told.api.seen("ping")[-1].body["runpod_version"] == "1.12.0"


# The end


def test_an_idle_worker_ends_at_sigterm_though_its_polls_are_open(tmp_path: Path) -> None:
    with RunPodApi(poll_sec=600) as api, worker(api, tmp_path) as one:
        one.terminate()
        assert one.process.wait(60) == 0
        assert one.left() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_sigterm_and_its_like_let_the_running_job_finish(tmp_path: Path, signum: int) -> None:
    with RunPodApi() as api, worker(api, tmp_path, FAKE) as one:
        job_id = speak(one, "frames40 held20 last")
        waiting = speak(one, "frames1 waiting")
        speaking(one, "frames40 held20 last")
        one.process.send_signal(signum)
        go_on(one, "frames40 held20 last")
        assert one.wait() == 0
        assert_delivered(one, api.jobs[job_id])
        spoken = ["start", *["frame"] * 40, "end"]
        assert whats(one, "frames40 held20 last")[: len(spoken)] == spoken
        assert api.jobs[waiting].status == "IN_QUEUE"
        assert list((tmp_path / "tmp").iterdir()) == []
        assert api.violations == []


def test_each_job_can_still_be_stopped_after_sigterm(tmp_path: Path) -> None:
    every = [f"frames400 delay133 number {n}" for n in range(2)]
    with RunPodApi() as api, worker(api, tmp_path, FAKE, MAX_CONCURRENCY="2") as one:
        ids = [speak(one, orders) for orders in every]
        for orders in every:
            speaking(one, orders)
        one.terminate()
        for job_id, orders in zip(ids, every, strict=True):
            api.cancel(job_id)
            api.until(partial(stopped, one, orders))
        assert one.wait() == 0
        assert api.violations == []


def test_a_job_that_comes_after_sigterm_is_done_or_left_to_others(tmp_path: Path) -> None:
    with RunPodApi() as api, worker(api, tmp_path, FAKE, RUNPOD_LOG_LEVEL="DEBUG") as one:
        one.terminate()
        api.until(lambda: "Kill worker." in one.log())
        time.sleep(0.3)  # a job of the first 0.1 s is still done
        job_id = speak(one, "frames1")
        assert one.wait() == 0
        assert api.jobs[job_id].status in ("COMPLETED", "IN_QUEUE")
