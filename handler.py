"""Door 1: RunPod queue jobs. A job is checked, spoken and delivered.

    python handler.py                    a worker on RunPod; elsewhere speaks test_input.json once
    python handler.py --rp_serve_api     the local RunPod API on port 8000

Importing this module starts nothing. `worker/` has the implementation.
"""

import functools
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from config import ConfigError, Settings, on_runpod, trimmed

try:
    # The SDK reads it while it is imported, as it stands.
    if level := trimmed(os.environ.get("RUNPOD_LOG_LEVEL", "")).upper():
        os.environ["RUNPOD_LOG_LEVEL"] = "WARN" if level == "WARNING" else level
    import runpod
except ValueError:
    allowed = "NOTSET, TRACE, DEBUG, INFO, WARN, ERROR"
    sys.exit(f"The worker cannot start:\nRUNPOD_LOG_LEVEL: allowed: {allowed}")

from delivery import answer as delivery
from delivery import s3
from delivery.answer import Outputs
from provision.outcome import end_alike
from request.errors import DeliveryError, SpeechError
from synthesis.inference import VibeVoiceInference
from transcription.registry import NAMES, create_verifier, register_recognizer
from transcription.transcriber import Transcriber
from worker import sdk_loop, startup
from worker.jobs import Answer, Job, Jobs

_CLEANUP_SEC = 600


@functools.cache
def settings() -> Settings:
    """The settings of this process. Raises `ConfigError`."""
    return Settings.from_env()


@functools.cache
def inference() -> VibeVoiceInference:
    """The one inference layer of this process."""
    # RunPod replaces a worker whose engine is lost; elsewhere only another process brings it back.
    one = VibeVoiceInference(settings(), subprocess=not on_runpod())
    lease = register_recognizer(one.models.manager, settings().recognizer_settings)
    one.verifier = create_verifier(lease)
    return one


@functools.cache
def transcriber() -> Transcriber:
    """The one recogniser of this process, loaded by the first job that needs it."""
    lease = functools.partial(inference().models.manager.lease, NAMES[0])
    return Transcriber(lease, settings().max_transcriptions, settings().max_audio_sec)


@functools.cache
def log() -> Any:
    """RunPod's logger."""
    return runpod.RunPodLogger()


def outputs() -> Outputs:
    """Where copies of answers are kept, and for how long."""
    return Outputs(settings().output_dir, settings().save_output, settings().output_retention_days)


def jobs() -> Jobs:
    """The jobs of this worker."""
    return Jobs(inference(), outputs(), log(), transcriber)


async def handler(job: Job) -> Answer:
    """Answers a job with its audio, or with `{"error": "[code] sentence"}`. Raises only on
    cancellation."""
    return await jobs().answer(job)


async def stream_handler(job: Job) -> AsyncGenerator[Answer, None]:
    """The handler with STREAM_JOBS. A job with `stream` yields the file in parts, then the facts.
    Any other job yields its one answer."""
    async with aclosing(jobs().items(job)) as items:
        async for item in items:
            yield item


def upload_to_s3(path: Path, owner: str, content_type: str) -> str:
    """Uploads a file to the worker's S3 bucket and gives a link to it. Raises `DeliveryError`."""
    bucket = settings().bucket
    if bucket is None:
        raise DeliveryError("S3 is not set up: see S3_ENDPOINT_URL and the settings beside it")
    return s3.upload(bucket, path, owner, content_type)


def cleanup_old_files() -> int:
    """Removes kept copies older than OUTPUT_RETENTION_DAYS. Gives their number."""
    try:
        return delivery.cleanup_old_files(outputs())
    except OSError as error:
        log().warn(f"old copies could not be removed: {error.strerror}")
        return 0


def main() -> None:
    """Checks the settings, prepares the worker, and runs RunPod's worker loop."""
    try:
        settings()
        inference()
    except (ConfigError, SpeechError) as error:
        sys.exit(f"The worker cannot start:\n{error}")
    startup.prepare(inference(), log())
    startup.every(_CLEANUP_SEC, cleanup_old_files)
    sdk_loop.use()
    # By default SIGTERM ends the local API at once, and leaves the temporary folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    end_alike()
    start: dict[str, Any] = {
        "concurrency_modifier": lambda _: inference().concurrency,
        "jobs_waiting": lambda: inference().models.waiting,
    }
    if settings().stream_jobs:
        start |= {"handler": stream_handler, "return_aggregate_stream": True}
    else:
        start |= {"handler": handler}
    try:
        runpod.serverless.start(start)
    finally:
        if transcriber.cache_info().currsize:  # some job has needed it
            transcriber().close()
        inference().close()


if __name__ == "__main__":
    main()
