"""What a worker does beside its jobs."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from startup import stay_in_use
from tests.bootstrap_site import until


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, line: str) -> None:
        self.lines.append(line)


@contextmanager
def staying(mark: Path) -> Iterator[Log]:
    log, ended = Log(), threading.Event()
    thread = threading.Thread(target=stay_in_use, args=(mark, log, ended, 0.01))
    thread.start()
    try:
        yield log
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


def test_a_volume_that_is_lost_and_comes_back_is_reported_once(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    (marks / "worker").write_text("venv-1\n")
    os.utime(marks / "worker", (1, 1))
    with staying(marks / "worker") as log:
        until(lambda: (marks / "worker").stat().st_mtime > 1)
        shutil.rmtree(marks)
        until(lambda: log.lines)
        marks.mkdir()
        until((marks / "worker").exists)
        until(lambda: (marks / "worker").read_text() == "venv-1\n")
    assert len(log.lines) == 1
    assert "the volume cannot be told" in log.lines[0]
