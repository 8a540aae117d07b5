"""RunPod's API on loopback, both sides of it: what a worker polls and posts, what a client calls.

It refuses what production refuses. `events` holds every request with its answer; `violations` has
a sentence for each post that production would have refused, lost or shown garbled. The server has
its own thread and event loop; the methods without an underscore belong to the test's thread.

Where production's own behaviour is not known (the status for a post about a job that has ended,
say) it takes the strict side. It keeps results for ever and knows neither /retry nor webhooks.
"""

import asyncio
import contextlib
import json
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import runpod
from aiohttp import web

from tests.runpod_wire import (
    ENDPOINT,
    KEY,
    MB,
    PIECE_LIMIT,
    RUN_LIMIT,
    RUNSYNC_LIMIT,
    Call,
    Event,
    Job,
    Refused,
    Reply,
    Status,
)

T = TypeVar("T")


class RunPodApi:
    """The server, as a context manager.

    `poll_sec` is how long a poll for jobs or stops is held open; `polls` has, for each worker, how
    many of its polls for jobs are open now. `held` has, for each kind of call, how many wait now
    because of `holding`. `execution_timeout` (seconds) holds for jobs whose
    `policy.executionTimeout` (milliseconds) says nothing.
    """

    def __init__(self, poll_sec: float = 5, execution_timeout: float = 600) -> None:
        self.poll_sec, self.execution_timeout = poll_sec, execution_timeout
        self.held: Counter[str] = Counter()
        self.events: list[Event] = []
        self.violations: list[str] = []
        self.jobs: dict[str, Job] = {}
        self.polls: Counter[str] = Counter()
        self.dumps: Callable[[Any], str] = json.dumps
        self._scripts: defaultdict[tuple[str, str], deque[int]] = defaultdict(deque)
        self._stops: defaultdict[str, list[str]] = defaultdict(list)
        self._told: dict[str, tuple[str, ...]] = {}
        self._holding: set[str] = set()
        self._released: set[str] = set()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="runpod")
        self._started: Future[str] = Future()

    # The test's side

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._started.result(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not end"

    def endpoint(self) -> Any:
        """RunPod's own client, as it is with RUNPOD_ENDPOINT_BASE_URL set to `url`."""
        endpoint = runpod.Endpoint(ENDPOINT, api_key=KEY)
        endpoint.rp_client.endpoint_url_base = self.url
        return endpoint

    def submit(self, job_input: Any, *, sync: bool = False, **fields: Any) -> str:
        """Queues a job as /run or /runsync would; `fields` (policy, s3Config ...) go with it."""
        return self._call(lambda: self._enqueue({"input": job_input, **fields}, sync)).id

    def cancel(self, job_id: str) -> None:
        self._call(lambda: self._end(self.jobs[job_id], "CANCELLED"))

    def expire(self, job_id: str) -> None:
        """The job's time is over."""
        self._call(lambda: self._end(self.jobs[job_id], "TIMED_OUT"))

    @contextlib.contextmanager
    def holding(self, kind: str) -> Iterator[None]:
        """Calls of that kind that come within the block are not looked at before its end."""
        self._call(lambda: self._holding.add(kind))
        try:
            yield
        finally:
            self._call(lambda: self._holding.remove(kind))

    def fail(self, kind: str, *statuses: int, job_id: str = "") -> None:
        """The next calls of that kind, or of them those about one job, get these statuses, 200
        too, and nothing else happens; 0 cuts the connection instead."""
        self._call(lambda: self._scripts[kind, job_id].extend(statuses))

    def release(self, worker: str) -> None:
        """Ends that worker's open and future polls at once; it is given no more jobs."""
        self._call(lambda: self._released.add(worker))

    def seen(self, kind: str, job_id: str | None = None) -> list[Event]:
        return [
            event
            for event in list(self.events)
            if event.kind == kind and (job_id is None or job_id in event.jobs)
        ]

    def until(self, ready: Callable[[], T], timeout: float = 60) -> T:
        """Waits for something true, here or in a file of the worker's. It is looked at between two
        calls, so that a job whose end is seen has its event too."""
        deadline = time.monotonic() + timeout
        while not (found := self._on_loop(ready)):
            assert time.monotonic() < deadline, f"not within {timeout} s: {self.events[-5:]}"
            with self._news:
                self._news.wait(0.05)
        return found

    def wait(self, job_id: str, timeout: float = 60) -> Job:
        """The job, once it has ended."""
        self.until(lambda: self.jobs[job_id].ended, timeout)
        return self.jobs[job_id]

    def excuse(self, part: str) -> list[str]:
        """Takes the violations that contain `part` off the list; there must be some."""
        excused = [sentence for sentence in self.violations if part in sentence]
        assert excused, f"no violation has {part!r}: {self.violations}"
        self.violations = [each for each in self.violations if each not in excused]
        return excused

    def _call(self, work: Callable[[], T]) -> T:
        """Runs `work`, which changes something, in the server's thread."""

        def changed() -> T:
            try:
                return work()
            finally:
                self._notify()

        return self._on_loop(changed)

    def _on_loop(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    # The server's side

    async def _serve(self) -> None:
        self._loop, self._closing, self._changed = (
            asyncio.get_running_loop(),
            asyncio.Event(),
            asyncio.Event(),
        )
        app = web.Application(client_max_size=64 * MB)
        routes = [
            ("GET", "job-take/{worker}", self._take),
            ("GET", "job-take-batch/{worker}", self._take),
            ("GET", "job-stop/{worker}", self._stop),
            ("GET", "ping/{worker}", self._ping),
            ("POST", "job-done/{worker}/{job}", self._done),
            ("POST", "job-stream/{worker}/{job}", self._piece),
            ("POST", "run", self._run),
            ("POST", "runsync", self._run),
            ("GET", "status/{job}", self._status),
            ("GET", "stream/{job}", self._stream),
            ("POST", "cancel/{job}", self._cancel),
            ("POST", "purge-queue", self._purge),
            ("GET", "health", self._health),
        ]
        for method, path, answer in routes:
            kind = path.split("/")[0]
            app.router.add_route(method, f"/v2/{ENDPOINT}/{path}", self._route(kind, answer))
        app.router.add_route("*", "/{rest:.*}", self._route("unknown", self._unknown))
        # A poll whose worker is gone must not take a job along.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            self._started.set_result(f"http://{host}:{port}/v2")
            await self._closing.wait()
        except OSError as error:
            self._started.set_exception(error)
        finally:
            await runner.cleanup()

    def _route(
        self, kind: str, answer: Callable[[Call], Awaitable[Reply]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            call = await Call.read(kind, request)
            await self._let_go(call.kind)
            try:
                reply = self._disturbance(call) or await answer(call)
            except Refused as refused:
                if refused.violation:
                    self.violations.append(f"{call.kind} {call.job or call.worker}: {refused}")
                reply = Reply(refused.status, {"error": str(refused)})
            jobs = reply.jobs or ((call.job,) if call.job else ())
            self.events.append(
                Event(
                    time.monotonic(), call.kind, jobs, call.worker, reply.status, call.size,
                    call.body if request.method == "POST" else call.query,
                )
            )  # fmt: skip
            self._notify()
            if not reply.status:
                assert request.transport is not None
                request.transport.abort()
                return web.Response(status=500)
            if reply.body is None:
                return web.Response(status=reply.status)
            return web.json_response(reply.body, status=reply.status, dumps=self.dumps)

        return respond

    async def _let_go(self, kind: str) -> None:
        self.held[kind] += 1
        self._notify()
        try:
            while kind in self._holding:
                await self._changed.wait()
        finally:
            self.held[kind] -= 1

    def _disturbance(self, call: Call) -> Reply | None:
        if script := self._scripts[call.kind, call.job] or self._scripts[call.kind, ""]:
            return Reply(script.popleft())
        if call.kind == "unknown" or call.authorization == (
            KEY if call.worker else f"Bearer {KEY}"
        ):
            return None
        if call.worker:
            raise Refused("the Authorization is not the worker's key", 401)
        return Reply(401)

    async def _until(self, ready: Callable[[], T], seconds: float) -> T:
        deadline = self._loop.time() + seconds
        while not (found := ready()) and (left := deadline - self._loop.time()) > 0:
            # Not `wait_for`: Python 3.11's forgets a cancellation that comes with the change.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        return found

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        with self._news:
            self._news.notify_all()

    def _queued(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.status == "IN_QUEUE"]

    def _enqueue(self, request: dict[str, Any], sync: bool) -> Job:
        job_id = f"{'sync-' if sync else ''}{uuid.uuid4()}-u1"
        job = Job({"id": job_id, **request}, RUNSYNC_LIMIT if sync else RUN_LIMIT)
        self.jobs[job_id] = job
        if ttl := request.get("policy", {}).get("ttl"):
            self._loop.call_later(ttl / 1000, self._end, job, "TIMED_OUT")
        return job

    def _end(self, job: Job, status: Status, output: Any = None, error: str | None = None) -> None:
        if job.ended:
            return
        if job.status == "IN_PROGRESS" and status in ("CANCELLED", "TIMED_OUT"):
            self._stops[job.worker].append(job.id)
        job.status, job.output, job.error = status, output, error
        self._notify()

    # What workers call

    async def _take(self, call: Call) -> Reply:
        batch = call.kind == "job-take-batch"
        count = int(call.query["batch_size"]) if batch else 1
        released = self._released
        self.polls[call.worker] += 1
        self._notify()
        try:
            await self._until(lambda: call.worker in released or self._queued(), self.poll_sec)
        finally:
            self.polls[call.worker] -= 1
            self._notify()
        jobs = [] if call.worker in released else self._queued()[:count]
        for job in jobs:
            job.status, job.worker = "IN_PROGRESS", call.worker
            policy = job.wire.get("policy", {}).get("executionTimeout")
            seconds = policy / 1000 if policy else self.execution_timeout
            self._loop.call_later(seconds, self._end, job, "TIMED_OUT")
        if not jobs:
            return Reply(204)
        wires = [job.wire for job in jobs]
        return Reply(200, wires if batch else wires[0], tuple(job.id for job in jobs))

    async def _stop(self, call: Call) -> Reply:
        stops, released = self._stops[call.worker], self._released
        self._told[call.worker] = ()  # who asks again has read the last answer
        await self._until(lambda: call.worker in released or stops, self.poll_sec)
        jobs = self._told[call.worker] = tuple(stops)
        stops.clear()
        return Reply(200, {"jobsToStop": list(jobs)}, jobs) if jobs else Reply(204)

    async def _ping(self, call: Call) -> Reply:
        jobs = call.query.get("job_id", "")
        return Reply(200, {}, tuple(jobs.split(",")) if jobs else ())

    async def _done(self, call: Call) -> Reply:
        job = self._job_of(call)
        result = call.posted(job.limit)
        if call.kind == "progress":
            job.output = result.get("output")
        elif "error" in result and not isinstance(result["error"], str):
            self._end(job, "COMPLETED")
            self.violations.append(f"{call.kind} {job.id}: the error is no string, so it is lost")
        elif "error" in result:
            self._end(job, "FAILED", result.get("output"), result["error"])
        elif "output" not in result:
            self._end(job, "COMPLETED")
            self.violations.append(f"{call.kind} {job.id}: neither an output nor an error")
        else:
            self._end(job, "COMPLETED", result["output"])
        return Reply(200, {})

    async def _piece(self, call: Call) -> Reply:
        job = self._job_of(call)
        piece = call.posted(PIECE_LIMIT)
        if "output" not in piece:
            raise Refused("no output")
        job.pieces.append(piece["output"])
        return Reply(200, {})

    def _job_of(self, call: Call) -> Job:
        job = self.jobs.get(call.job)
        if job is None:
            raise Refused("there is no such job", 404)
        if job.status != "IN_PROGRESS":
            unaware = job.id in (*self._stops[call.worker], *self._told.get(call.worker, ()))
            raise Refused(f"the job is {job.status} already", violation=not unaware)
        if job.worker != call.worker:
            raise Refused(f"the job was given to {job.worker}, not to {call.worker}")
        return job

    # What clients call

    async def _run(self, call: Call) -> Reply:
        sync = call.kind == "runsync"
        limit = RUNSYNC_LIMIT if sync else RUN_LIMIT
        if call.size > limit:
            return Reply(413, {"error": f"the request has more than {limit} bytes"})
        if call.flaw or not isinstance(call.body, dict) or "input" not in call.body:
            return Reply(400, {"error": call.flaw or "the body is no object with an input"})
        job = self._enqueue(call.body, sync)
        self._notify()
        if sync:
            await self._until(lambda: job.ended, int(call.query.get("wait", 90_000)) / 1000)
        return Reply(200, job.state(), (job.id,))

    async def _status(self, call: Call) -> Reply:
        job = self.jobs.get(call.job)
        return Reply(200, job.state()) if job else Reply(404, {"error": "job not found"})

    async def _stream(self, call: Call) -> Reply:
        job = self.jobs.get(call.job)
        if job is None:
            return Reply(404, {"error": "job not found"})
        await self._until(lambda: job.ended or len(job.pieces) > job.read, 1)
        fresh, job.read = job.pieces[job.read :], len(job.pieces)
        return Reply(200, {"status": job.status, "stream": [{"output": each} for each in fresh]})

    async def _cancel(self, call: Call) -> Reply:
        if job := self.jobs.get(call.job):
            self._end(job, "CANCELLED")
            return Reply(200, {"id": job.id, "status": job.status})
        return Reply(404, {"error": "job not found"})

    async def _purge(self, _: Call) -> Reply:
        queued = self._queued()
        for job in queued:
            self._end(job, "CANCELLED")
        return Reply(200, {"removed": len(queued), "status": "completed"})

    async def _health(self, _: Call) -> Reply:
        statuses = [job.status for job in self.jobs.values()]
        workers = {event.worker for event in self.events if event.worker} - self._released
        jobs = {
            "inQueue": statuses.count("IN_QUEUE"),
            "inProgress": statuses.count("IN_PROGRESS"),
            "completed": statuses.count("COMPLETED"),
            "failed": statuses.count("FAILED") + statuses.count("TIMED_OUT"),
        }
        return Reply(200, {"jobs": jobs, "workers": {"ready": len(workers)}})

    async def _unknown(self, call: Call) -> Reply:
        raise Refused(f"there is no such address: {call.path}", 404)
