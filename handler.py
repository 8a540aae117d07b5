"""Door 1: RunPod queue jobs. Checks a job, asks the inference layer for speech, delivers it.

    python handler.py                    a worker on RunPod; elsewhere speaks test_input.json once
    python handler.py --rp_serve_api     the local RunPod API on port 8000

Importing this module starts nothing. Logs carry the job's id and never its text.
"""

import asyncio
import base64
import dataclasses
import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import runpod

from audio.codecs import FORMATS
from config import ConfigError, Settings, on_runpod
from delivery import answer as delivery
from delivery import s3
from delivery.answer import Delivered, Delivery, Outputs
from delivery.bucket import Bucket
from request.errors import DeliveryError, EngineLost, RequestError, SpeechError
from request.model import SpeechRequest, parse_request, words_of
from synthesis.inference import Progress, Result, StreamStart, VibeVoiceInference
from worker import sdk_loop, startup
from worker.progress import reporting

_CLEANUP_SEC = 600
_MOST_POSTED = 1_000_000
"""Bytes of a stream's item: RunPod takes no longer ones, and tells nobody."""

Job = dict[str, Any]
Answer = dict[str, Any]


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


async def handler(job: Job) -> Answer:
    """Answers a job with its audio, or with `{"error": "[code] sentence"}`. Raises only on
    cancellation."""
    job_id = _id(job)
    try:
        request, warnings = parse_request(job.get("input"), inference().defaults)
        if request.dry_run:
            return await _dry_run(request, warnings)
        if request.stream:
            warnings.append("stream: this worker answers in one piece (STREAM_JOBS is not set)")
        return await _speak(job, request, warnings)
    except asyncio.CancelledError:
        log().info("cancelled", job_id)
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence: see `_failure`
        return _failure(error, job)


async def stream_handler(job: Job) -> AsyncGenerator[Answer, None]:
    """The handler where STREAM_JOBS is set. With `stream` it yields the file piece by piece and
    the facts at the end, else the one answer.

    The SDK posts each item before it asks for the next, and keeps the very objects for the job's
    final list. So audio is taken out of a piece once it is posted, and put into a whole answer only
    then: posts stay below 1 MB, and so does the list of a stream.
    """
    job_id = _id(job)
    try:
        request, warnings = parse_request(job.get("input"), inference().defaults)
        if request.stream and not request.dry_run:
            items = _stream(job, request, warnings)
            close = _closes_with_task(items)
            try:
                async for item in items:
                    yield item
                    lost = item.pop(sdk_loop.LOST, False)
                    if "audio_chunk" in item:
                        item["audio_chunk"] = ""
                        if lost:
                            raise DeliveryError("RunPod did not take a piece of the audio")
            finally:
                await close()
        else:
            dry = request.dry_run
            answer = await (_dry_run(request, warnings) if dry else _speak(job, request, warnings))
            if dry and len(json.dumps(answer)) > _MOST_POSTED:
                problem = f"is read in {len(answer['chunks'])} chunks, too many for one stream item"
                raise RequestError(problem, "text", allowed="a plan below 1 MB: send it in parts")
            audio = answer.pop("audio_base64", None)
            yield answer
            answer.pop(sdk_loop.LOST, None)
            if audio is not None:
                answer["audio_base64"] = audio
    except (asyncio.CancelledError, GeneratorExit):
        log().info("cancelled", job_id)
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence: see `_failure`
        if isinstance(error, EngineLost) and on_runpod():
            # The SDK does not read `refresh_worker` in an item, and asks for nothing after an
            # error; after SIGTERM it posts what is left and ends the worker.
            os.kill(os.getpid(), signal.SIGTERM)
        yield _failure(error, job)


def _closes_with_task(items: AsyncGenerator[Answer, None]) -> Callable[[], asyncio.Task[None]]:
    """Gives a stream's one and only end, which also comes with the task that reads it. A stop that
    comes while the SDK posts a piece reaches its generator with the garbage: the engine was seen to
    speak on for seconds."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    close = functools.cache(lambda: loop.create_task(items.aclose()))
    if task is not None:
        task.add_done_callback(lambda _: close())
    return close


def _id(job: Job) -> str:
    return str(job.get("id") or "local")


def _failure(error: Exception, job: Job) -> Answer:
    """What the caller is told: RunPod takes one string, so the code stands before the sentence. The
    SDK would send an exception with its traceback and paths."""
    job_id = _id(job)
    if isinstance(error, SpeechError):
        code = error.problems[0].code
        log().info(f"refused or failed: {code}", job_id)
        lost = {"refresh_worker": True} if isinstance(error, EngineLost) else {}
        return {"error": f"[{code}] {error.told(words_of(job.get('input')))}", **lost}
    # The message may quote the text, so only the kind and the place are logged.
    place = "".join(traceback.format_tb(error.__traceback__))
    log().error(f"internal error: {type(error).__name__}\n{place}", job_id)
    detail = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    sentence = f"internal error ({type(error).__name__}{detail}); see the worker's log"
    return {"error": f"[internal_error] {sentence}"}


async def _dry_run(request: SpeechRequest, warnings: list[str]) -> Answer:
    answer = (await inference().dry_run(request)).model_dump()
    return answer | {"warnings": [*warnings, *answer["warnings"]]}


async def _speak(job: Job, request: SpeechRequest, warnings: list[str]) -> Answer:
    _log_begin(job, request)
    bucket = await _bucket(job)
    way = Delivery(request.session_id or _id(job), outputs(), bucket)
    with inference().workspace() as folder:
        progress = Progress()
        async with reporting(job, progress) as tell:
            path, result = await inference().generate(
                request, Path(folder), progress, way.reaches, lambda size: tell(way.foresee(size))
            )
            delivered = await _deliver(way, path, result.content_type)
            result.timings["delivery_sec"] = round(way.seconds, 4)
    _log_end(job, result)
    return _answer(result, delivered, warnings)


async def _bucket(job: Job) -> Bucket | None:
    """The job's own bucket, else the worker's."""
    if job.get("s3Config"):
        life = settings().s3_url_ttl_seconds
        return await asyncio.to_thread(Bucket.from_job, job["s3Config"], url_ttl_seconds=life)
    return settings().bucket


async def _deliver(way: Delivery, path: Path, content_type: str) -> Delivered:
    """Delivers in a thread; a cancelled job's upload ends before the cancellation goes on."""
    cancelled = threading.Event()
    delivering = asyncio.to_thread(way.deliver, path, content_type, cancelled.is_set)
    working = asyncio.create_task(delivering)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([working])
        working.exception()  # asked for, so that asyncio does not report it as forgotten
        raise


def upload_to_s3(path: Path, owner: str, content_type: str) -> str:
    """Uploads a file to the worker's bucket and gives a link to it."""
    bucket = settings().bucket
    if bucket is None:
        raise DeliveryError("S3 is not set up: see S3_ENDPOINT_URL and the settings beside it")
    return s3.upload(bucket, path, owner, content_type)


async def _stream(
    job: Job, request: SpeechRequest, warnings: list[str]
) -> AsyncGenerator[Answer, None]:
    _log_begin(job, request)
    with inference().workspace() as folder:
        copy = Path(folder) / f"stream.{FORMATS[request.output_format].extension}"
        with copy.open("wb") as file:
            async with aclosing(inference().stream(request, Path(folder))) as pieces:
                index = 0
                async for piece in pieces:
                    if isinstance(piece, Result):
                        result = piece
                        break
                    if isinstance(piece, StreamStart):
                        continue
                    file.write(piece.data)
                    yield {
                        "index": index,
                        "audio_chunk": base64.b64encode(piece.data).decode("ascii"),
                        "format": request.output_format,
                        "sample_rate": piece.sample_rate,
                        "is_last": piece.is_last,
                    }
                    index += 1
        owner = request.session_id or _id(job)
        delivered = await asyncio.to_thread(delivery.copied, copy, owner, outputs())
    _log_end(job, result)
    yield _answer(result, delivered, warnings)


def _log_begin(job: Job, request: SpeechRequest) -> None:
    log().info(f"job of {len(request.text)} characters, request {request.request_id}", _id(job))


def _log_end(job: Job, result: Result) -> None:
    facts = {"audio_sec": result.duration_sec, "chunks": len(result.chunks), **result.timings}
    log().info(f"done: {json.dumps(facts)}", _id(job))


def _answer(result: Result, delivered: Delivered, warnings: list[str]) -> Answer:
    cold_start = inference().tell_cold_start()
    answer: Answer = {
        "status": "success",
        "sample_rate": result.sample_rate,
        "duration_sec": result.duration_sec,
        "format": result.format,
        "content_type": result.content_type,
        "engine": result.engine,
        "voice": result.voices[0],
        "seed": result.seed,
        "gain_db": result.gain_db,
        "chunks": [dataclasses.asdict(chunk) for chunk in result.chunks],
        "timings": dict(result.timings),
        "warnings": [*warnings, *result.warnings, *delivered.warnings],
    }
    if cold_start is not None:
        answer["timings"]["cold_start_sec"] = cold_start
    if result.cost_usd is not None:
        answer["cost_usd"] = result.cost_usd
    if result.model:
        answer["model"] = dict(result.model)
    if result.speakers:
        numbers = map(str, result.speakers)
        answer["speakers"] = dict(zip(numbers, result.voices, strict=True))
    # The SDK drops an answer that is no strict JSON without a word; better to fail here.
    if len(json.dumps(answer, allow_nan=False)) > delivery.FACTS_LIMIT:
        answer["chunks"] = []
        answer["warnings"] = [*answer["warnings"][:100], "chunks: left out, there are too many"]
    return answer | delivered.fields


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
