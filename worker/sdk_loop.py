"""Fixes for the RunPod SDK's worker loop (runpod 1.12), which loses jobs and time.

`use()` replaces the SDK's scaler, its posts of stream items, its retries and its log of jobs. All
else is the SDK's. Faults that are fixed, each reproduced against the loopback API of the tests:

* a job stopped before its task existed was spoken to its end;
* a job stopped before its task's first step kept its place for ever;
* after SIGTERM and one stopped job, no further stop was polled for;
* a job that was delivered again while it ran was spoken twice, and could not be stopped;
* a number of thousands of digits, or a nesting of a thousand levels, in one job's input lost all
  jobs of the same poll;
* a job from a poll that was open at SIGTERM was taken and never begun;
* open polls delayed the exit by up to 90 s;
* the SDK polled for a free place once a second and for a taken job ten times a second, so a worker
  idled between jobs;
* a result was not posted again after a broken connection or a 429;
* a stream's item that RunPod refused was skipped, and the job completed with a gap;
* at the level DEBUG whole answers went into the log, with audio, links and users' texts.
"""

import asyncio
import functools
import json
import re
import signal
import time
from typing import Any

from aiohttp import ClientConnectionError, ClientError, ClientResponse, ClientSession
from runpod.http_client import AsyncClientSession, TooManyRequests
from runpod.serverless.modules import rp_http, rp_job, rp_scale
from runpod.serverless.modules.rp_logger import RunPodLogger

from request.values import shown, whole_characters

LOST = "lost"
"""The field that marks a stream's item which RunPod did not take."""
_EARLY_STOP_SEC = 5.0
"""Seconds that a stop waits for its job to arrive. A retried job has the same id, so a stop must
not be kept for longer."""
_DEEPEST = 100
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_PAUSE_SEC = 1.0
_LOOK_SEC = 0.5
"""How often a full worker looks whether some of its jobs wait for a load."""
_BUSY_PAUSE_SEC = 5.0


def use() -> None:
    rp_scale.JobScaler = Scaler
    again = {"exceptions": {ClientConnectionError, TimeoutError}, "statuses": {429}}
    rp_http.FibonacciRetry = functools.partial(rp_http.FibonacciRetry, **again)
    rp_job.stream_result = _post_piece
    rp_job.log = _Discreet()


async def _post_piece(session: ClientSession, item: dict[str, Any], job: dict[str, Any]) -> None:
    """The SDK's `stream_result`, except that an item whose post fails is marked with `LOST`."""
    url = rp_http.JOB_STREAM_URL.replace("$ID", job["id"]) + "&isStream=false"
    session.headers["X-Request-ID"] = job["id"]
    try:
        await rp_http._transmit(session, url, json.dumps(item, ensure_ascii=False))
    except (ClientError, TimeoutError) as error:
        RunPodLogger().error(f"a piece was not taken: {type(error).__name__}", job["id"])
        item["output"][LOST] = True


class _Discreet:
    """RunPod's logger without the level DEBUG, at which it would log users' texts."""

    def debug(self, *_: object) -> None:
        """Not logged."""

    def __getattr__(self, name: str) -> Any:
        return getattr(RunPodLogger(), name)


class _Reply(ClientResponse):
    """A response whose JSON parser accepts any job's input. The handler checks the values."""

    async def json(self, **more: Any) -> Any:
        return await super().json(**more, loads=_loads)


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:  # the depth at which it is raised differs between Python versions
        return json.loads(_shallow(text), parse_int=_whole_number)


def _shallow(text: str) -> str:
    """The JSON text with null in place of all values nested deeper than `_DEEPEST` levels."""
    kept, depth, end = [], 0, 0
    for token in _TOKENS.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == _DEEPEST + 1:
                kept += [text[end : token.start()], "null"]
        elif token[0] in "]}":
            if depth == _DEEPEST + 1:
                end = token.end()
            depth -= 1
    return "".join([*kept, text[end:]])


def _is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can carry: one without lone surrogates."""
    return isinstance(value, str) and value == whole_characters(value)


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) < 100 else float(digits)  # `int` refuses more than 4,300


class Scaler(rp_scale.JobScaler):  # type: ignore[misc]
    """Takes jobs while there is a free place, and begins each at once. As many as the callable
    `jobs_waiting` of `config` tells, at most all, need no place: they wait for a model's load.

    It stops the jobs that RunPod wants stopped. After SIGTERM it takes no more, and running jobs
    finish.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._log = RunPodLogger()
        self._waiting = config.get("jobs_waiting", int)
        self._room = asyncio.Event()
        self._early_stops: dict[str, float] = {}

    async def run(self) -> None:
        # The SDK's do not wake the event loop. `end_alike` makes a SIGTERM of other signals.
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self.kill_worker)
        async with AsyncClientSession(response_class=_Reply) as session:
            stops = asyncio.create_task(self.monitor_stop_signals(session))
            await self.get_jobs(session)
            while self.jobs_tasks:
                await asyncio.wait(self.jobs_tasks.values())
            stops.cancel()
            await asyncio.wait([stops])

    def is_alive(self) -> bool:
        """Whether stops must still be polled for."""
        return bool(self.jobs_tasks) or not self._shutdown_event.is_set()

    async def get_jobs(self, session: ClientSession) -> None:
        while not self._shutdown_event.is_set():
            await self.set_scale()
            self._room.clear()
            places = self.current_concurrency + min(self.current_concurrency, self._waiting())
            room = places - self.current_occupancy()
            if room <= 0:
                await self._or_the_end(self._room.wait(), _LOOK_SEC)
                continue
            try:
                poll = self.jobs_fetcher(session, room)
                for job in await self._or_the_end(poll, self.jobs_fetcher_timeout) or ():
                    self._begin(session, job)
            except TooManyRequests:
                await self._or_the_end(asyncio.sleep(_BUSY_PAUSE_SEC))
            except Exception as error:  # noqa: BLE001 - one failed poll must not end the worker
                self._log.error(f"no job could be taken: {type(error).__name__}")
                await self._or_the_end(asyncio.sleep(_PAUSE_SEC))

    def _begin(self, session: ClientSession, job: dict[str, Any]) -> None:
        if not _is_text(job["id"]):  # it fits neither an address nor the log
            self._log.error(f"a job was left: its id {shown(job['id'])} is no Unicode text")
            return
        if working := self.jobs_tasks.get(job["id"]):
            if working.cancelling():  # the job timed out and is retried under the same id
                working.add_done_callback(lambda _: self._begin(session, job))
            else:
                self._log.warn("came again while it is at work", job["id"])
            return
        self.job_progress.add(job)
        self.jobs_queue.put_nowait(job)  # because `handle_job` calls the queue's `task_done`
        self.jobs_queue.get_nowait()
        task = asyncio.create_task(self.handle_job(session, job))
        # The SDK logs a failure. Retrieving the exception keeps asyncio from logging its message,
        # which may quote the user's text.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self.jobs_tasks[job["id"]] = task

    async def handle_job(self, session: ClientSession, job: dict[str, Any]) -> None:
        task = asyncio.current_task()
        if task and self._early_stops.pop(job["id"], 0) > time.monotonic():
            task.cancel()
        try:
            await super().handle_job(session, job)
        finally:
            self._room.set()

    async def stop_job(self, job_id: str) -> bool:
        await asyncio.sleep(0)  # a task cancelled before its first step never runs its `finally`
        found: bool = await super().stop_job(job_id)
        if not found:
            now = time.monotonic()
            self._early_stops = {
                early: until for early, until in self._early_stops.items() if until > now
            } | {job_id: now + _EARLY_STOP_SEC}
        return found

    async def _or_the_end(self, work: Any, seconds: float | None = None) -> Any:
        """The result of `work`; None after `seconds`, or once the worker has to end."""
        working = asyncio.ensure_future(work)
        ending = asyncio.create_task(self._shutdown_event.wait())
        try:
            await asyncio.wait(
                {working, ending}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return working.result() if working.done() else None
        finally:
            working.cancel()
            ending.cancel()
