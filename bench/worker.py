"""The real worker loop with the preview voice, against a RunPod of ours on loopback.

    python -m bench.worker [jobs]    (100)

Jobs a second at concurrency 1 and 8, what the loop adds to the speaking itself, memory over time.
The SDK takes at most one batch of jobs a second, which bounds all of these from below.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.runpod_api import RunPodApi
from tests.worker import Worker, worker

TEXT = "The quick brown fox jumps over the lazy dog."


def jobs_a_second(one: Worker, count: int) -> float:
    start = time.monotonic()
    ids = [one.api.submit({"text": TEXT, "seed": number}) for number in range(count)]
    for job_id in ids:
        if one.api.wait(job_id, timeout=600).status != "COMPLETED":
            sys.exit(f"job {job_id} failed: {one.api.jobs[job_id].error}")
    return count / (time.monotonic() - start)


def added_latency(one: Worker, count: int) -> list[float]:
    """Seconds from a job's being taken to its answer's being posted, less the speaking."""
    added = []
    for number in range(count):
        job = one.api.wait(one.api.submit({"text": TEXT, "seed": number}))
        (done,) = one.api.seen("job-done", job.id)
        take = next(
            event
            for kind in ("job-take", "job-take-batch")
            for event in one.api.seen(kind)
            if job.id in event.jobs
        )
        added.append(done.at - take.at - job.output["timings"]["total_sec"])
    return sorted(added)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for concurrency in (1, 8):
        with (
            tempfile.TemporaryDirectory() as folder,
            RunPodApi() as api,
            worker(api, Path(folder), MAX_CONCURRENCY=str(concurrency)) as one,
        ):
            jobs_a_second(one, 5)
            rate = jobs_a_second(one, 10 if concurrency == 1 else count)
            print(f"concurrency {concurrency}: {rate:.2f} jobs/s")
            if concurrency == 1:
                added = added_latency(one, 10)
                print(
                    f"added to the speaking: p50 {statistics.median(added) * 1e3:.0f} ms, "
                    f"p95 {added[-1] * 1e3:.0f} ms"
                )
            else:
                early = one.memory_mb()
                jobs_a_second(one, 4 * count)
                print(
                    f"memory: {early:.0f} MB after {count} jobs, "
                    f"{one.memory_mb():.0f} MB after {5 * count}"
                )


if __name__ == "__main__":
    main()
