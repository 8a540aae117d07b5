"""The real worker as a process of its own, polling a `tests.runpod_api.RunPodApi`.

    with RunPodApi() as api, worker(api, folder) as one:                 # handler.py, ENGINE=espeak
    with RunPodApi() as api, worker(api, folder, FAKE, MAX_RETRIES="0") as one:

It runs in a clean environment with its own HOME, volume and temporary folder, all below `folder`,
and in a process group of its own, of which nothing may be left in the end. Linux only.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.runpod_api import RunPodApi
from tests.runpod_wire import KEY

ROOT = Path(__file__).resolve().parent.parent
HANDLER = ("handler.py",)
FAKE = ("-m", "tests.fake_worker")
BOOTSTRAP = ("-c", "import os; os.execvp('bash', ['bash', 'bootstrap.sh'])")


@dataclass(frozen=True, slots=True)
class Worker:
    """A running worker. `id` is what RunPod knows it by."""

    api: RunPodApi
    id: str
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    def log(self) -> str:
        """All that it wrote to stdout and stderr."""
        return (self.folder / "log").read_text()

    def records(self, job_id: str) -> list[str]:
        """The messages that it logged with a job's id, which is how RunPod filters them."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line["message"] for line in lines if line["requestId"] == job_id]

    def journal(self, job_text: str) -> list[tuple[float, str]]:
        """When what happened in the fake engine to the job with that text; see `fake_worker`."""
        path = self.folder / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        notes = [json.loads(line) for line in lines]
        return [(at, what) for at, what, text in notes if text == job_text]

    def go_on(self, *job_texts: str) -> None:
        """Lets the fake engine go on with the jobs with those texts; see `fake_worker`."""
        with (self.folder / "go").open("a") as told:
            told.writelines(f"{text}\n" for text in job_texts)

    def temporary_files(self) -> list[Path]:
        """All files below its temporary folder, of which some may go while they are listed."""
        folders = os.walk(self.folder / "tmp")  # `rglob` fails where a folder has just gone
        return [Path(folder, name) for folder, _, names in folders for name in names]

    def copies(self, owner: str) -> list[Path]:
        """The copies on its volume of that job's or session's audio."""
        return sorted((self.volume / "output").glob(f"{owner}_*"))

    def memory_mb(self) -> float:
        """What the main process holds in RAM now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def terminate(self) -> None:
        """SIGTERM, as RunPod sends it. Its open polls go on, and it waits for their end."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 60) -> int:
        """The exit status, once it has ended; its open polls end at once, so that it can."""
        self.api.release(self.id)
        return self.process.wait(timeout)

    def left(self) -> list[int]:
        """The processes of its group that still run."""
        running = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(group) == self.process.pid and state != "Z":
                running.append(int(entry.name))
        return running


@contextmanager
def worker(
    api: RunPodApi,
    folder: Path,
    command: Sequence[str] = HANDLER,
    **settings: str,
) -> Iterator[Worker]:
    """A worker that has polled for its first job. `settings` are environment variables of its own.

    At the end it gets a SIGTERM, has to exit with 0 within a minute, and leave no process behind.
    """
    name = f"worker-{uuid.uuid4().hex[:8]}"
    for sub in ("home", "tmp", "volume"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(api, name, folder) | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    one = Worker(api, name, folder, process)
    try:
        _await_first_poll(one, 900 if command == BOOTSTRAP else 120)
        yield one
        if process.poll() is None:
            one.terminate()
            assert one.wait() == 0, one.log()[-2000:]
        left = one.left()
        assert not left, f"processes {left} outlived the worker"
    finally:
        if one.left():
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def environment(api: RunPodApi, name: str, folder: Path) -> dict[str, str]:
    """What RunPod sets for a worker, and little else of this process's own."""
    here = api.url + "/loopback"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "JOURNAL": str(folder / "journal"),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "ENGINE": "espeak",
        "VIBEVOICE_VOLUME": str(folder / "volume"),
        "RUNPOD_ENDPOINT_ID": "loopback",
        "RUNPOD_POD_ID": name,
        "RUNPOD_POD_HOSTNAME": f"{name}-host",
        "RUNPOD_AI_API_KEY": KEY,
        "RUNPOD_PING_INTERVAL": "1000",
        "RUNPOD_WEBHOOK_GET_JOB": f"{here}/job-take/$ID?gpu=none",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{here}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{here}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
        "RUNPOD_WEBHOOK_PING": f"{here}/ping/$RUNPOD_POD_ID",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }


def _await_first_poll(one: Worker, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while one.id not in one.api.polls:
        assert one.process.poll() is None, f"the worker ended at its start:\n{one.log()[-2000:]}"
        assert time.monotonic() < deadline, f"no poll within {seconds} s:\n{one.log()[-2000:]}"
        time.sleep(0.02)
