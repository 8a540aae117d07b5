"""Door 1: RunPod queue jobs. Checks a job, asks the inference layer for speech, delivers it.

    python handler.py                    a worker on RunPod; elsewhere speaks test_input.json once
    python handler.py --rp_serve_api     the local RunPod API on port 8000

Importing this module starts nothing. Logs carry the job's id and never its text.
"""

import asyncio
import dataclasses
import functools
import json
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, ClassVar

import runpod

from config import ConfigError, Settings
from inference import Result, VibeVoiceInference
from speech import delivery
from speech.delivery import Delivered, Outputs
from speech.errors import EngineLost, SpeechError
from speech.request import SpeechRequest, parse_request

Job = dict[str, Any]
Answer = dict[str, Any]


@functools.cache
def settings() -> Settings:
    return Settings.from_env()


@functools.cache
def inference() -> VibeVoiceInference:
    return VibeVoiceInference(settings())


@functools.cache
def log() -> Any:
    return runpod.RunPodLogger()


def outputs() -> Outputs:
    return Outputs(settings().output_dir, settings().save_output, settings().output_retention_days)


async def handler(job: Job) -> Answer:
    """Answers a job with its audio, or with `{"error": sentence}`. Raises only on cancellation."""
    job_id = str(job.get("id") or "local")
    try:
        return await _speak(job.get("input"), job_id)
    except EngineLost as error:
        log().error(f"the engine is lost: {error}", job_id)
        return {"error": str(error), "refresh_worker": True}
    except SpeechError as error:
        log().info(f"refused or failed: {type(error).__name__}", job_id)
        return {"error": str(error)}
    except asyncio.CancelledError:
        log().info("cancelled", job_id)
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence; RunPod would send it whole
        # The message may quote the text, so only the kind and the place are logged.
        place = "".join(traceback.format_tb(error.__traceback__))
        log().error(f"internal error: {type(error).__name__}\n{place}", job_id)
        detail = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        return {"error": f"internal error ({type(error).__name__}{detail}); see the worker's log"}


async def _speak(raw: object, job_id: str) -> Answer:
    request, warnings = parse_request(raw, inference().defaults)
    if request.stream:
        warnings.append("stream: this worker answers in one piece")
    log().info(f"job of {len(request.text)} characters, request {request.request_id}", job_id)
    with inference().workspace() as folder:
        path, result = await inference().generate(request, Path(folder))
        owner = request.session_id or job_id
        delivered = await asyncio.to_thread(delivery.deliver, path, owner, outputs())
        await asyncio.to_thread(cleanup_old_files)
    log().info(
        f"{result.duration_sec:.2f} s of audio in {result.timings['total_sec']:.2f} s, "
        f"{len(result.chunks)} chunks",
        job_id,
    )
    return _answer(request, result, delivered, warnings)


def _answer(
    request: SpeechRequest, result: Result, delivered: Delivered, warnings: list[str]
) -> Answer:
    answer: Answer = {
        "status": "success",
        "sample_rate": result.sample_rate,
        "duration_sec": result.duration_sec,
        "format": request.output_format,
        "content_type": result.content_type,
        **delivered.fields,
        "engine": result.engine,
        "voice": result.voices[0],
        "seed": result.seed,
        "gain_db": result.gain_db,
        "chunks": [dataclasses.asdict(chunk) for chunk in result.chunks],
        "timings": result.timings,
        "warnings": [*warnings, *result.warnings, *delivered.warnings],
    }
    if result.model:
        answer["model"] = dict(result.model)
    if result.speakers:
        numbers = map(str, result.speakers)
        answer["speakers"] = dict(zip(numbers, result.voices, strict=True))
    # The SDK drops an answer that is no strict JSON without a word; better to fail here.
    json.dumps(answer, allow_nan=False)
    return answer


def cleanup_old_files() -> int:
    """Removes copies that are past their retention. Gives their number."""
    return delivery.cleanup_old_files(outputs())


class _ToRunPod(logging.Handler):
    """Sends the engines' log lines, which Python's own logging carries, to RunPod's."""

    _LEVELS: ClassVar = {"WARNING": "WARN", "CRITICAL": "ERROR"}

    def emit(self, record: logging.LogRecord) -> None:
        log().log(record.getMessage(), self._LEVELS.get(record.levelname, record.levelname))


def preload() -> None:
    """Loads the model. A failure is logged; the first job tries again and is told."""
    try:
        inference().load_model()
    except SpeechError as error:
        log().error(f"the model is not loaded: {error}")


def main() -> None:
    try:
        settings()
        inference()
    except (ConfigError, SpeechError) as error:
        sys.exit(f"The worker cannot start:\n{error}")
    # The SDK logs whole answers, audio and all, at its default level.
    log().set_level(os.environ.get("RUNPOD_LOG_LEVEL", "INFO"))
    engines = logging.getLogger("vibevoice")
    engines.handlers, engines.propagate = [_ToRunPod()], False
    engines.setLevel(logging.INFO)
    for problem in inference().voices.problems():
        log().warn(problem)
    if settings().preload_model:
        threading.Thread(target=preload, name="preload", daemon=True).start()
    # The local API ends by the signal itself, which would leave the temporary folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        runpod.serverless.start({"handler": handler})
    finally:
        inference().close()


if __name__ == "__main__":
    main()
