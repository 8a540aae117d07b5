"""Answers the queue's jobs: checks a job, has it spoken and delivers the audio.

Logs carry the job's id and never its text.
"""

import asyncio
import base64
import dataclasses
import functools
import json
import os
import signal
import threading
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from audio.codecs import formats_within
from config import on_runpod
from delivery import answer as delivery
from delivery.answer import Delivered, Delivery, Outputs
from delivery.bucket import Bucket
from provision.begin import up
from request.errors import DeliveryError, EngineLost, RequestError, SpeechError
from request.model import SpeechRequest, parse_request, words_of
from synthesis.file import SpeechFile
from synthesis.inference import VibeVoiceInference
from synthesis.plan import PlannedRequest
from synthesis.quality import Progress
from synthesis.result import AudioPart, Result
from transcription.transcriber import Transcriber
from worker import sdk_loop
from worker.progress import reporting
from worker.transcription import LARGE, TranscriptionJob, is_transcription

_MOST_POSTED = 1_000_000
"""The largest item of a stream, in bytes. RunPod drops larger ones without an error."""

Job = dict[str, Any]
Answer = dict[str, Any]
T = TypeVar("T")


class Jobs:
    """Answers jobs with one `VibeVoiceInference`, and with the `Transcriber` that `transcriber`
    gives. `log` is RunPod's logger."""

    def __init__(
        self,
        inference: VibeVoiceInference,
        outputs: Outputs,
        log: Any,
        transcriber: Callable[[], Transcriber],
    ) -> None:
        self._inference, self._outputs, self._log = inference, outputs, log
        self._transcriber = transcriber

    async def answer(self, job: Job) -> Answer:
        """Answers a job in one piece: the audio with its facts, or `{"error": "[code] sentence"}`.

        Raises only `asyncio.CancelledError`.
        """
        try:
            if is_transcription(job.get("input")):
                return await self._transcribed(job)
            request, warnings = parse_request(job.get("input"), self._inference.defaults)
            if request.stream and not request.dry_run:
                warnings.append("stream: this worker answers in one piece (STREAM_JOBS is not set)")
            return await self._whole(job, request, warnings)
        except asyncio.CancelledError:
            self._log.info("cancelled", _id(job))
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: see `_failure`
            return self._failure(error, job)

    async def items(self, job: Job) -> AsyncGenerator[Answer, None]:
        """Answers a job as a generator: with `stream` audio parts, then the facts; else one item.

        The SDK posts each item before it asks for the next. It keeps the same objects for the job's
        final list. So audio is removed from a part once the part is posted, which keeps the list of
        a stream below 1 MB. A whole answer gets its audio only after its post, which keeps the post
        below 1 MB.
        """
        try:
            if is_transcription(job.get("input")):
                answer = await self._transcribed(job)
                large = {name: answer.pop(name) for name in LARGE if name in answer}
                yield answer
                answer.pop(sdk_loop.LOST, None)
                answer.update(large)
                return
            request, warnings = parse_request(job.get("input"), self._inference.defaults)
            if request.stream and not request.dry_run:
                items = self._parts(job, request, warnings)
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
                answer = await self._whole(job, request, warnings)
                if request.dry_run and len(json.dumps(answer)) > _MOST_POSTED:
                    chunks = len(answer["chunks"])
                    problem = f"is read in {chunks} chunks, too many for one stream item"
                    allowed = "a plan below 1 MB: send it in parts"
                    raise RequestError(problem, "text", allowed=allowed)
                audio = answer.pop("audio_base64", None)
                yield answer
                answer.pop(sdk_loop.LOST, None)
                if audio is not None:
                    answer["audio_base64"] = audio
        except (asyncio.CancelledError, GeneratorExit):
            self._log.info("cancelled", _id(job))
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: see `_failure`
            if isinstance(error, EngineLost) and on_runpod():
                # The SDK ignores `refresh_worker` in an item, and reads no item after an error. On
                # SIGTERM it posts the remaining results and ends the worker.
                os.kill(os.getpid(), signal.SIGTERM)
            yield self._failure(error, job)

    async def _transcribed(self, job: Job) -> Answer:
        most_bytes = self._inference.settings.max_upload_mb * 2**20
        tell = functools.partial(self._log.info, request_id=_id(job))
        return await TranscriptionJob(self._transcriber(), most_bytes, tell).answer(job)

    async def _whole(self, job: Job, request: SpeechRequest, warnings: list[str]) -> Answer:
        if request.dry_run:
            answer = (await self._inference.dry_run(request)).model_dump()
            return answer | {"warnings": [*warnings, *answer["warnings"]]}
        return await self._file(job, request, warnings)

    async def _file(self, job: Job, request: SpeechRequest, warnings: list[str]) -> Answer:
        self._log_begin(job, request)
        inference, bucket = self._inference, await self._bucket(job)
        async with inference.plan(request) as planned:
            fitting = functools.partial(_fitting, planned) if request.must_fit else None
            way = Delivery(request.session_id or _id(job), self._outputs, bucket, fitting)
            size = await asyncio.to_thread(planned.expected_bytes)
            progress = Progress(chunks_total=len(planned.text.chunks))
            with inference.workspace() as folder:
                async with reporting(job, progress) as tell:
                    tell(way.foresee(size))
                    file = await inference.generate(planned, Path(folder), progress)
                    if file.may_shrink:
                        file = await self._fitting(way, file, _id(job))
                    result = file.result
                    delivered = await _in_thread(way.deliver, file.path, result.content_type)
        return self._done(job, result, delivered, warnings, delivery_sec=round(way.seconds, 4))

    async def _fitting(self, way: Delivery, file: SpeechFile, job_id: str) -> SpeechFile:
        """The file, or a smaller one where the file could not be delivered."""
        if await _in_thread(way.reaches, file.path, file.result.content_type):
            return file
        try:
            return await self._inference.shrink(file)
        except OSError as error:  # a finished result is never lost: deliver the file as it is
            self._log.error(f"no smaller file could be made: {error.strerror}", job_id)
            return file

    async def _bucket(self, job: Job) -> Bucket | None:
        """The job's own bucket, else the worker's."""
        settings = self._inference.settings
        if job.get("s3Config"):
            life = settings.s3_url_ttl_seconds
            return await asyncio.to_thread(Bucket.from_job, job["s3Config"], url_ttl_seconds=life)
        return settings.bucket

    async def _parts(
        self, job: Job, request: SpeechRequest, warnings: list[str]
    ) -> AsyncGenerator[Answer, None]:
        self._log_begin(job, request)
        with self._inference.workspace() as folder:
            # The name of a format is also its file extension.
            copy = Path(folder) / f"stream.{request.output_format}"
            index = 0
            with copy.open("wb") as file:
                async with aclosing(self._inference.stream(request)) as stream:
                    async for item in stream:
                        if isinstance(item, Result):
                            result = item
                        elif isinstance(item, AudioPart):
                            file.write(item.data)
                            yield {
                                "index": index,
                                "audio_chunk": base64.b64encode(item.data).decode("ascii"),
                                "format": request.output_format,
                                "sample_rate": item.sample_rate,
                                "is_last": item.is_last,
                            }
                            index += 1
            owner = request.session_id or _id(job)
            delivered = await asyncio.to_thread(delivery.copied, copy, owner, self._outputs)
        yield self._done(job, result, delivered, warnings)

    def _failure(self, error: Exception, job: Job) -> Answer:
        """The error for the caller. RunPod takes one string, so the code precedes the sentence.

        No exception may reach the SDK, which would send its traceback and paths to the caller.
        """
        job_id = _id(job)
        if isinstance(error, SpeechError):
            code = error.problems[0].code
            self._log.info(f"refused or failed: {code}", job_id)
            lost = {"refresh_worker": True} if isinstance(error, EngineLost) else {}
            return {"error": f"[{code}] {error.told(words_of(job.get('input')))}", **lost}
        # An exception's message may quote the user's text, so only type and traceback are logged.
        place = "".join(traceback.format_tb(error.__traceback__))
        self._log.error(f"internal error: {type(error).__name__}\n{place}", job_id)
        detail = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        sentence = f"internal error ({type(error).__name__}{detail}); see the worker's log"
        return {"error": f"[internal_error] {sentence}"}

    def _done(
        self,
        job: Job,
        result: Result,
        delivered: Delivered,
        warnings: list[str],
        **further_timings: float,
    ) -> Answer:
        """Builds the answer from a result, and logs its timings."""
        timings = {**result.timings, **further_timings}
        facts = {"audio_sec": result.duration_sec, "chunks": len(result.chunks), **timings}
        self._log.info(f"done: {json.dumps(facts)}", _id(job))
        cold_start = self._inference.tell_cold_start()
        if cold_start is not None:
            timings["cold_start_sec"] = cold_start
            up()
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
            "chunks": [chunk.facts for chunk in result.chunks],
            "timings": timings,
            "warnings": [*warnings, *result.warnings, *delivered.warnings],
        }
        if result.cost_usd is not None:
            answer["cost_usd"] = result.cost_usd
        if result.words is not None:
            answer["words"] = [dataclasses.asdict(word) for word in result.words]
        if result.subtitles is not None:
            answer["subtitles"] = result.subtitles
        if result.model:
            answer["model"] = dict(result.model)
        if result.speakers:
            numbers = map(str, result.speakers)
            answer["speakers"] = dict(zip(numbers, result.voices, strict=True))
        return _bounded(answer, delivery.facts_limit(delivered)) | delivered.fields

    def _log_begin(self, job: Job, request: SpeechRequest) -> None:
        self._log.info(
            f"job of {len(request.text)} characters, request {request.request_id}", _id(job)
        )


def _fitting(planned: PlannedRequest, size: int) -> list[str]:
    """The formats in which a plan's audio of `size` bytes should fit into an answer."""
    return formats_within(delivery.INLINE_LIMIT, size, planned.smallest_format, planned.rate)


def _bounded(answer: Answer, most: int) -> Answer:
    """The answer without its longest lists where it would have more than `most` bytes."""
    for name in ("words", "subtitles", "chunks"):
        # The SDK silently drops an answer with NaN or infinity in it. `allow_nan=False` raises.
        if len(json.dumps(answer, allow_nan=False)) > most and name in answer:
            answer[name] = [] if name == "chunks" else None
            left_out = f"{name}: left out, there are too many"
            answer["warnings"] = [*answer["warnings"][:100], left_out]
    return answer


async def _in_thread(work: Callable[..., T], path: Path, content_type: str) -> T:
    """Runs a delivery in a thread. On cancellation, waits for the upload to end, then re-raises."""
    cancelled = threading.Event()
    working = asyncio.create_task(asyncio.to_thread(work, path, content_type, cancelled.is_set))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([working])
        working.exception()  # retrieved, or asyncio would log "exception was never retrieved"
        raise


def _closes_with_task(items: AsyncGenerator[Answer, None]) -> Callable[[], asyncio.Task[None]]:
    """Gives a function that closes `items` once; the end of the current task calls it as well.

    When a job is stopped while the SDK posts an item, only the garbage collector would close the
    generator. The engine was seen to speak on for seconds.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    close = functools.cache(lambda: loop.create_task(items.aclose()))
    if task is not None:
        task.add_done_callback(lambda _: close())
    return close


def _id(job: Job) -> str:
    return str(job.get("id") or "local")
