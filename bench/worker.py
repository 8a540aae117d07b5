"""The worker loop with the preview voice, against a RunPod of ours on loopback.

    python -m bench.worker [jobs]    (100)

Jobs a second at concurrency 1 and 8, with the SDK's loop as it comes and with `worker.sdk_loop`;
what the loop adds to the speaking; memory after 50 jobs and after 1,000.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.runpod_api import RunPodApi
from tests.worker_process import HANDLER, Worker, worker

TEXT = "The quick brown fox jumps over the lazy dog."
LOOPS = {
    "SDK": (
        "-c",
        "import handler; from worker import sdk_loop; sdk_loop.use = lambda: None; handler.main()",
    ),
    "ours": HANDLER,
}


def jobs_a_second(one: Worker, count: int) -> float:
    start = time.monotonic()
    ids = [one.api.submit({"text": TEXT, "seed": number}) for number in range(count)]
    for job_id in ids:
        if one.api.wait(job_id, timeout=900).status != "COMPLETED":
            sys.exit(f"job {job_id} failed: {one.api.jobs[job_id].error}")
    return count / (time.monotonic() - start)


def added_latency(one: Worker, count: int) -> tuple[float, float]:
    """Milliseconds from a job's submission to its answer's arrival, less the speaking: median and
    95th percentile of one job after another, with a pause before each."""
    added = []
    for number in range(count):
        time.sleep(0.05 + 0.9 * number / count)  # so that no job keeps step with the loop
        start = time.monotonic()
        job = one.api.wait(one.api.submit({"text": TEXT, "seed": number}))
        (done,) = one.api.seen("job-done", job.id)
        added.append((done.at - start - job.output["timings"]["total_sec"]) * 1e3)
    return statistics.median(added), statistics.quantiles(added, n=20)[-1]


@contextmanager
def started(loop: str, concurrency: int) -> Iterator[Worker]:
    with (
        tempfile.TemporaryDirectory() as folder,
        RunPodApi() as api,
        worker(api, Path(folder), LOOPS[loop], MAX_CONCURRENCY=str(concurrency)) as one,
    ):
        jobs_a_second(one, 3)
        yield one


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for loop in LOOPS:
        for concurrency in (1, 8):
            with started(loop, concurrency) as one:
                jobs = count if (loop, concurrency) != ("SDK", 1) else min(10, count)
                rate = jobs_a_second(one, jobs)
                middle, late = added_latency(one, 40)
                print(
                    f"{loop} loop, concurrency {concurrency}: {rate:.2f} jobs/s, added latency "
                    f"p50 {middle:.0f} ms, p95 {late:.0f} ms",
                    flush=True,
                )
    with started("ours", 8) as one:
        jobs_a_second(one, 47)
        early = one.memory_mb()
        jobs_a_second(one, 950)
        print(f"memory: {early:.0f} MB after 50 jobs, {one.memory_mb():.0f} MB after 1,000")


if __name__ == "__main__":
    main()
