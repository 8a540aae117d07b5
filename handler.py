"""Door 1: RunPod queue jobs. Checks a job, asks the inference layer for speech, delivers it.

    python handler.py                    a worker on RunPod; elsewhere speaks test_input.json once
    python handler.py --rp_serve_api     the local RunPod API on port 8000

Importing this module starts nothing. `worker/jobs.py` has the inside.
"""

import functools
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import runpod

from config import ConfigError, Settings, on_runpod
from delivery import answer as delivery
from delivery import s3
from delivery.answer import Outputs
from request.errors import DeliveryError, SpeechError
from synthesis.inference import VibeVoiceInference
from worker import sdk_loop, startup
from worker.jobs import Answer, Job, Jobs

_CLEANUP_SEC = 600


@functools.cache
def settings() -> Settings:
    return Settings.from_env()


@functools.cache
def inference() -> VibeVoiceInference:
    # RunPod replaces a worker whose engine is lost; elsewhere only another process brings it back.
    return VibeVoiceInference(settings(), subprocess=not on_runpod())


@functools.cache
def log() -> Any:
    return runpod.RunPodLogger()


def outputs() -> Outputs:
    return Outputs(settings().output_dir, settings().save_output, settings().output_retention_days)


def jobs() -> Jobs:
    return Jobs(inference(), outputs(), log())


async def handler(job: Job) -> Answer:
    """Answers a job with its audio, or with `{"error": "[code] sentence"}`. Raises only on
    cancellation."""
    return await jobs().answer(job)


async def stream_handler(job: Job) -> AsyncGenerator[Answer, None]:
    """The handler where STREAM_JOBS is set. With `stream` it yields the file part by part and the
    facts at the end, else the one answer."""
    async with aclosing(jobs().items(job)) as items:
        async for item in items:
            yield item


def upload_to_s3(path: Path, owner: str, content_type: str) -> str:
    """Uploads a file to the worker's bucket and gives a link to it."""
    bucket = settings().bucket
    if bucket is None:
        raise DeliveryError("S3 is not set up: see S3_ENDPOINT_URL and the settings beside it")
    return s3.upload(bucket, path, owner, content_type)


def cleanup_old_files() -> int:
    """Removes copies that are past their retention. Gives their number."""
    try:
        return delivery.cleanup_old_files(outputs())
    except OSError as error:
        log().warn(f"old copies could not be removed: {error.strerror}")
        return 0


def main() -> None:
    try:
        settings()
        inference()
    except (ConfigError, SpeechError) as error:
        sys.exit(f"The worker cannot start:\n{error}")
    startup.prepare(inference(), log())
    startup.every(_CLEANUP_SEC, cleanup_old_files)
    sdk_loop.use()
    # The local API ends by the signal itself, which would leave the temporary folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    start: dict[str, Any] = {"concurrency_modifier": lambda _: inference().concurrency}
    if settings().stream_jobs:
        start |= {"handler": stream_handler, "return_aggregate_stream": True}
    else:
        start |= {"handler": handler}
    try:
        runpod.serverless.start(start)
    finally:
        inference().close()


if __name__ == "__main__":
    main()
