"""Where the SDK's worker loop (runpod 1.12) loses jobs or time, put right before it starts.

`use()` replaces the SDK's scaler, its posts of pieces, how often it posts again and what it logs of
jobs; all else is the SDK's. What it cures, each seen against the loopback API of the tests:

* a job that is stopped before its task exists was spoken to its end, and one whose task had not
  yet begun kept its place for ever;
* once a job was stopped after SIGTERM, no further stop was looked for;
* a job that came again while it was at work was spoken twice, and could not be stopped;
* a number of thousands of digits or a nesting of a thousand levels in one job's input lost all the
  jobs that were taken with it;
* a job that came in an open poll after SIGTERM was taken and never begun, and open polls held the
  exit for up to 90 s;
* room for a next job was looked for once a second and a taken job ten times a second, so that a
  worker idled between jobs;
* a result whose connection broke, or that came too soon after others (429), was not posted again;
* a stream's piece that RunPod did not take was passed over, and the job completed with a gap;
* at the level DEBUG whole answers went into the log: audio, links, what they quote of the caller.
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

LOST = "lost"
"""The field that a piece gets which RunPod did not take."""
_EARLY_STOP_SEC = 5.0
"""Longest time between a stop and its job's arrival. A retried job has the same id, so a stop must
not be kept for long."""
_DEEPEST = 100
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_PAUSE_SEC = 1.0
_BUSY_PAUSE_SEC = 5.0


def use() -> None:
    rp_scale.JobScaler = Scaler
    again = {"exceptions": {ClientConnectionError, TimeoutError}, "statuses": {429}}
    rp_http.FibonacciRetry = functools.partial(rp_http.FibonacciRetry, **again)
    rp_job.stream_result = _post_piece
    rp_job.log = _Discreet()


async def _post_piece(session: ClientSession, item: dict[str, Any], job: dict[str, Any]) -> None:
    """As the SDK's `stream_result`, but a piece that does not arrive is marked as lost."""
    url = rp_http.JOB_STREAM_URL.replace("$ID", job["id"]) + "&isStream=false"
    session.headers["X-Request-ID"] = job["id"]
    try:
        await rp_http._transmit(session, url, json.dumps(item, ensure_ascii=False))
    except (ClientError, TimeoutError) as error:
        RunPodLogger().error(f"a piece was not taken: {type(error).__name__}", job["id"])
        item["output"][LOST] = True


class _Discreet:
    """RunPod's log without the lines of level DEBUG."""

    def debug(self, *_: object) -> None:
        """Not logged."""

    def __getattr__(self, name: str) -> Any:
        return getattr(RunPodLogger(), name)


class _Reply(ClientResponse):
    """Reads whatever jobs hold; what cannot be used of it is for the handler to say."""

    async def json(self, **more: Any) -> Any:
        return await super().json(**more, loads=_loads)


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:  # at a depth that is each Python's own
        return json.loads(_shallow(text), parse_int=_whole_number)


def _shallow(text: str) -> str:
    """JSON with null for whatever lies deeper than `_DEEPEST` levels."""
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


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) < 100 else float(digits)  # `int` refuses more than 4,300


class Scaler(rp_scale.JobScaler):  # type: ignore[misc]
    """Takes jobs while there is room, begins each at once, stops those that are to be; after
    SIGTERM it lets those at work finish."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._log = RunPodLogger()
        self._room = asyncio.Event()
        self._early_stops: dict[str, float] = {}

    async def run(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT):  # the SDK's handlers do not wake the loop
            asyncio.get_running_loop().add_signal_handler(signum, self.kill_worker)
        async with AsyncClientSession(response_class=_Reply) as session:
            stops = asyncio.create_task(self.monitor_stop_signals(session))
            await self.get_jobs(session)
            while self.jobs_tasks:
                await asyncio.wait(self.jobs_tasks.values())
            stops.cancel()
            await asyncio.wait([stops])

    def is_alive(self) -> bool:
        """Whether there may still be something to stop."""
        return bool(self.jobs_tasks) or not self._shutdown_event.is_set()

    async def get_jobs(self, session: ClientSession) -> None:
        while not self._shutdown_event.is_set():
            await self.set_scale()
            self._room.clear()
            room = self.current_concurrency - self.current_occupancy()
            if room <= 0:
                await self._or_the_end(self._room.wait())
                continue
            try:
                poll = self.jobs_fetcher(session, room)
                for job in await self._or_the_end(poll, self.jobs_fetcher_timeout) or ():
                    self._begin(session, job)
            except TooManyRequests:
                await self._or_the_end(asyncio.sleep(_BUSY_PAUSE_SEC))
            except Exception as error:  # noqa: BLE001 - whatever a poll brings, the next may do
                self._log.error(f"no job could be taken: {type(error).__name__}")
                await self._or_the_end(asyncio.sleep(_PAUSE_SEC))

    def _begin(self, session: ClientSession, job: dict[str, Any]) -> None:
        if working := self.jobs_tasks.get(job["id"]):
            if working.cancelling():  # it timed out, and its caller has asked for it again
                working.add_done_callback(lambda _: self._begin(session, job))
            else:
                self._log.warn("came again while it is at work", job["id"])
            return
        self.job_progress.add(job)
        self.jobs_queue.put_nowait(job)  # `handle_job` tells the queue of each end
        self.jobs_queue.get_nowait()
        task = asyncio.create_task(self.handle_job(session, job))
        # The SDK logs a failure; asyncio's report of an error that nobody asks for quotes the text.
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
        await asyncio.sleep(0)  # a task that is cancelled before its first step never cleans up
        found: bool = await super().stop_job(job_id)
        if not found:
            now = time.monotonic()
            self._early_stops = {
                early: until for early, until in self._early_stops.items() if until > now
            } | {job_id: now + _EARLY_STOP_SEC}
        return found

    async def _or_the_end(self, work: Any, seconds: float | None = None) -> Any:
        """What `work` gives; None after `seconds`, or once the worker is to end."""
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
