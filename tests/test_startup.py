"""What a worker does beside its jobs."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provision.in_use import stay_in_use
from tests.bootstrap_site import until
from tests.http_server import server_process
from tests.runpod_api import RunPodApi
from tests.worker_process import worker
from worker.startup import every


@contextmanager
def staying(mark: Path) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=stay_in_use, args=(mark, ended, 0.01))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_mark_of_a_worker_stays_fresh_and_keeps_what_it_names(tmp_path: Path) -> None:
    mark = tmp_path / "worker"
    mark.write_text("venv-1\n")
    os.utime(mark, (1, 1))
    with staying(mark):
        until(lambda: mark.stat().st_mtime > 1)
        assert mark.read_text() == "venv-1\n"
        mark.unlink()  # as happens to a worker that was frozen for a day
        until(mark.exists)
        until(lambda: mark.read_text() == "venv-1\n")


def test_a_volume_that_is_lost_and_comes_back_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    (marks / "worker").write_text("venv-1\n")
    os.utime(marks / "worker", (1, 1))
    with staying(marks / "worker"):
        until(lambda: (marks / "worker").stat().st_mtime > 1)
        marks.rename(tmp_path / "lost")  # in one step: what is emptied first may be filled again
        until(lambda: caplog.messages)
        marks.mkdir()
        until((marks / "worker").exists)
        until(lambda: (marks / "worker").read_text() == "venv-1\n")
    (message,) = caplog.messages
    assert message.startswith("the volume cannot be told")


@pytest.fixture
def old_mark(tmp_path: Path) -> Path:
    mark = tmp_path / "mark"
    mark.write_text("venv-1\n")
    os.utime(mark, (1, 1))
    return mark


def test_a_queue_worker_keeps_its_mark_fresh(tmp_path: Path, old_mark: Path) -> None:
    with RunPodApi() as api, worker(api, tmp_path, VIBEVOICE_IN_USE=str(old_mark)):
        until(lambda: old_mark.stat().st_mtime > 1)


def test_the_first_answer_of_a_worker_tells_what_its_start_took(tmp_path: Path) -> None:
    # As bootstrap.sh does: a script that takes a while and then becomes the worker.
    script = f"sleep 1.5; exec {sys.executable} handler.py"
    bootstrap = ("-c", f"import os; os.execvp('bash', ['bash', '-c', {script!r}])")
    began = time.monotonic()
    with RunPodApi() as api, worker(api, tmp_path, bootstrap):
        started = time.monotonic() - began
        time.sleep(2)  # without a job, which is no part of the start
        jobs = [api.wait(api.submit({"text": "Hi."})) for _ in range(2)]
    first, second = (job.output["timings"] for job in jobs)
    assert 1.5 <= first["cold_start_sec"] <= started + first["load_sec"] + 0.02
    assert "cold_start_sec" not in second


def test_a_queue_worker_is_a_failed_start_until_its_first_answer(tmp_path: Path) -> None:
    failed, repaired = tmp_path / ".failed-1", tmp_path / ".repaired-1"
    repaired.touch()
    begun = ("provision/begin.py", "handler.py")
    with RunPodApi() as api, worker(api, tmp_path, begun, VIBEVOICE_FAILED=str(failed)):
        assert failed.read_bytes() == b""
        assert repaired.exists()
        assert api.wait(api.submit({"text": "Hi."})).status == "COMPLETED"
        assert not failed.exists()
        assert not repaired.exists()


def test_a_queue_worker_removes_old_copies_beside_its_jobs(tmp_path: Path) -> None:
    folders = tmp_path / "volume" / "output", tmp_path / "tmp" / "vibevoice-output"
    copies = [folder / f"job_{'0' * 32}.mp3" for folder in folders]
    for copy in copies:
        copy.parent.mkdir(parents=True)
        copy.touch()
        os.utime(copy, (1, 1))
    with RunPodApi() as api, worker(api, tmp_path):
        until(lambda: not any(copy.exists() for copy in copies))


def test_work_beside_the_jobs_is_done_again_and_again() -> None:
    ended, times = threading.Event(), list[float]()

    def work() -> None:
        times.append(time.monotonic())
        if len(times) == 3:
            ended.set()

    every(0.05, work, ended).join(60)
    assert len(times) == 3
    assert times[2] - times[0] >= 0.1


def test_the_http_server_is_no_failed_start_once_its_engine_is_loaded(tmp_path: Path) -> None:
    failed = tmp_path / ".failed-1"
    failed.touch()
    with server_process(tmp_path, VIBEVOICE_FAILED=str(failed)):
        until(lambda: not failed.exists())


def test_the_http_server_keeps_its_mark_fresh(tmp_path: Path, old_mark: Path) -> None:
    with server_process(tmp_path, VIBEVOICE_IN_USE=str(old_mark)):
        until(lambda: old_mark.stat().st_mtime > 1)
