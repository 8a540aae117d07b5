"""The whole job through the handler with the preview voice: speed, and memory of an hour of audio.

The hour runs in a process of its own, whose peak memory the kernel reports.
"""

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from bench.prose import prose

MINUTES = 60
CHARACTERS_A_MINUTE = 950  # of the preview voice


def speak(characters: int) -> dict[str, Any]:
    import handler

    job = {"id": "bench", "input": {"text": prose(characters), "seed": 1}}
    return asyncio.run(handler.handler(job))


def short_job() -> None:
    speak(100)
    start = time.perf_counter()
    answer = speak(4000)
    elapsed = time.perf_counter() - start
    seconds = answer["duration_sec"]
    speed = seconds / elapsed
    print(f"{seconds:.0f} s of mp3 in {elapsed:.2f} s: {speed:.0f} x real time (goal: 50 x)")


def long_job() -> None:
    start = time.perf_counter()
    answer = speak(MINUTES * CHARACTERS_A_MINUTE)
    elapsed = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"an hour's text in {elapsed:.0f} s, peak memory {peak:.0f} MB (goal: below 600 MB)")
    print(f"its answer: {answer.get('error') or answer['duration_sec']}")


def main() -> None:
    if sys.argv[1:] == ["long"]:
        long_job()
        return
    with tempfile.TemporaryDirectory() as volume:
        os.environ |= {
            "ENGINE": "espeak",
            "MAX_TEXT_LENGTH": "1000000",
            "VIBEVOICE_VOLUME": volume,
            "RUNPOD_LOG_LEVEL": "ERROR",
        }
        short_job()
        subprocess.run([sys.executable, "-m", "bench.job", "long"], check=True)


if __name__ == "__main__":
    main()
