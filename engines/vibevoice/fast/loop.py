"""The thread that moves all slots on, frame by frame: admit, launch, read.

On a GPU a frame is read while the next one is made, so a chunk that has ended is known one frame
late; that frame leaves its slot alone. A reader that is slow never holds up the loop, since what it
leaves goes to disk (`frames.py`).
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from engines.base import End, Frame, Samples
from engines.vibevoice.failures import failure_of, free_memory, loss_of
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.meter import Meter
from engines.vibevoice.fast.scheduler import Job, Occupant, Scheduler, Work
from engines.vibevoice.frames import Frames
from request.errors import Cancelled, EngineError, EngineLost

_PROMPT_TOKENS = 1024
"""Tokens of prompts that are read between two frames, so that those who speak do not wait long."""


class Came(Protocol):
    """What came for a chunk in a frame: it ended, or sound, or neither."""

    @property
    def eos(self) -> bool: ...

    @property
    def samples(self) -> Samples | None: ...


class Lease(Protocol):
    """What a job holds until it ends."""

    def release(self) -> None: ...


class Runner(Protocol):
    """What makes the frames: see `batch.Batch`. `lag` frames may be under way at a time. While
    nobody waits it may `prepare`, step by step, as long as that is true."""

    @property
    def slots(self) -> int: ...

    @property
    def lag(self) -> int: ...

    @property
    def context_step(self) -> int | None: ...

    def prepare(self) -> bool: ...

    def lease(self) -> Lease: ...

    def admit(self, occupant: Occupant[Any], lease: Any) -> None: ...

    def release(self, occupant: Occupant[Any], *, wipe: bool = False) -> None: ...

    def launch(self, shape: GraphShape, occupants: Sequence[Occupant[Any]]) -> Any: ...

    def read(self, ticket: Any) -> Iterable[tuple[Occupant[Any], Came]]: ...


class SpeechJob(Job[Work]):
    """The chunks of a speech that have words, and where their frames go. `spoken` and `capped` are
    the chunks of which a part had sound, or hit its limit; `device_sec` is each chunk's share of
    the time in which the loop was at work."""

    def __init__(self, works: Iterable[Work], frames: Frames) -> None:
        super().__init__(works)
        self.spoken: set[int] = set()
        self.capped: set[int] = set()
        self.device_sec: defaultdict[int, float] = defaultdict(float)
        self.frames = frames
        self.cancelled = threading.Event()
        self.lease: Lease | None = None

    def end(self, work: Work) -> End:
        """The end of a chunk of which nothing is left."""
        reason: Literal["eos", "cap", "empty"] = "cap" if work.index in self.capped else "eos"
        if work.index not in self.spoken:
            reason = "empty"
        return End(work.index, reason, work.seed, self.device_sec[work.index])


class Loop:
    """Its thread runs from `start` or the first `submit` to `close`. `lose` is told of an error
    after which the device works no more."""

    def __init__(self, runner: Runner, lose: Callable[[EngineLost], None]) -> None:
        self.meter = Meter(lambda: f"{len(self._scheduler.jobs)} jobs; {runner}")
        self._runner = runner
        self._lose = lose
        self._scheduler: Scheduler[Work] = Scheduler(runner.slots, runner.context_step)
        self._flight: deque[list[Any]] = deque()
        self._frame_at = 0.0
        self._changed = threading.Condition()
        self._arrived: deque[SpeechJob] = deque()
        self._closed = False
        self._ending: BaseException = Cancelled()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Lets the runner prepare before there is a job."""
        with self._changed:
            self._start()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
            self._thread.start()

    def submit(self, job: SpeechJob) -> None:
        """From any thread. Raises `Cancelled` after `close`, or why the loop has ended."""
        with self._changed:
            if self._closed:
                raise self._ending
            self._arrived.append(job)
            self._start()
            self._changed.notify()

    def cancel(self, job: SpeechJob) -> None:
        """From any thread. The job gets nothing more; a frame later its slots are free."""
        job.cancelled.set()
        job.frames.close()

    def close(self) -> None:
        """Waits for the frame that is being made. What was not read is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._has_work():
                self._move()
        except BaseException as error:  # noqa: BLE001 - raised again where the speeches are read
            self._ending = lost = loss_of(error)
            self._lose(lost)
        with self._changed:
            self._closed = True
            self._take_arrived()
        self._flight.clear()
        for job in self._jobs():
            self._scheduler.drop(job)
            self._close(job, self._ending)

    def _move(self) -> None:
        """All slots by one token. What fails fails the jobs that are there; only a broken device
        ends the loop."""
        began = time.monotonic()
        try:
            self._sweep()
            self._admit()
            started = self._advance()
            self.meter.add(started, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - raised again where the speeches are read
            failure = failure_of(error)
        else:
            return
        # Only here the failed frame's tensors are let go of.
        if isinstance(failure, EngineLost):
            raise failure
        self._flight.clear()
        for job in self._jobs():
            self._end(job, failure, wipe=True)
        free_memory()

    def _has_work(self) -> bool:
        """Waits for some. False once the loop is closed."""
        while not self._is_wanted() and self._runner.prepare():
            pass
        with self._changed:
            if not (self._scheduler.jobs or self._flight):
                self._changed.wait_for(self._is_wanted)
                self._frame_at = time.monotonic()
            self._take_arrived()
            return not self._closed

    def _is_wanted(self) -> bool:
        return bool(self._closed or self._arrived or self._scheduler.jobs or self._flight)

    def _take_arrived(self) -> None:
        while self._arrived:
            job = self._arrived.popleft()
            job.lease = self._runner.lease()
            self._scheduler.add(job)

    def _jobs(self) -> list[SpeechJob]:
        return [job for job in self._scheduler.jobs if isinstance(job, SpeechJob)]

    def _sweep(self) -> None:
        for job in self._jobs():
            if job.cancelled.is_set():
                self._end(job, Cancelled())

    def _admit(self) -> None:
        tokens = 0
        while tokens < _PROMPT_TOKENS and (occupant := self._scheduler.next()):
            job = _job(occupant)
            failure = None
            try:
                self._runner.admit(occupant, job.lease)
            except Exception as error:  # noqa: BLE001 - raised again where the speech is read
                failure = failure_of(error)
            if isinstance(failure, EngineLost):
                raise failure
            if failure is not None:
                self._end(job, failure, wipe=True)
                free_memory()
            tokens += occupant.work.tokens

    def _advance(self) -> int:
        """Starts a frame for each number of steps and reads those that it overtakes. Gives how
        many it started."""
        running = list(self._scheduler.occupants.values())
        tickets = []
        for shape in self._scheduler.shapes():
            moved = [each for each in running if each.work.steps == shape.steps]
            tickets.append(self._runner.launch(shape, moved))
            for occupant in moved:
                occupant.launched += 1
        if tickets:
            self._flight.append(tickets)
        while len(self._flight) > (self._runner.lag if tickets else 0):
            read = [each for ticket in self._flight.popleft() for each in self._runner.read(ticket)]
            self._share_time([occupant for occupant, _ in read])
            for occupant, came in read:
                self._deliver(occupant, came)
        return len(tickets)

    def _share_time(self, moved: Sequence[Occupant[Work]]) -> None:
        """Divides the time since the last frame, prompts included, among those whom this one moved.
        So all shares together are the time in which the loop was at work."""
        now = time.monotonic()
        for occupant in moved:
            _job(occupant).device_sec[occupant.work.index] += (now - self._frame_at) / len(moved)
        if moved:
            self._frame_at = now

    def _deliver(self, occupant: Occupant[Work], came: Came) -> None:
        if self._scheduler.occupants.get(occupant.slot) is not occupant:
            return  # it was cancelled, or its job has failed, while the frame was made
        job, work = _job(occupant), occupant.work
        occupant.seen += 1
        if came.samples is not None:
            if not np.isfinite(came.samples).all():
                damaged = "the model made samples that are no numbers: its weights are damaged"
                self._end(job, EngineError(damaged), wipe=True)
                return
            job.spoken.add(work.index)
            job.frames.put(Frame(work.index, np.clip(came.samples, -1, 1)))
        if came.eos or occupant.seen == work.limit:
            if not came.eos:
                job.capped.add(work.index)
            if work.rest is None:
                job.frames.put(job.end(work))
            self._runner.release(occupant)
            if self._scheduler.finish(occupant):
                self._close(job)

    def _end(self, job: SpeechJob, error: BaseException, *, wipe: bool = False) -> None:
        """A job ends before its time. `wipe` where its slots may hold what is no number."""
        try:
            for occupant in self._scheduler.drop(job):
                self._runner.release(occupant, wipe=wipe)
        finally:
            self._close(job, error)

    def _close(self, job: SpeechJob, error: BaseException | None = None) -> None:
        if job.lease is not None:
            job.lease.release()
        job.frames.finish(error)


def _job(occupant: Occupant[Work]) -> SpeechJob:
    assert isinstance(occupant.job, SpeechJob)  # noqa: S101 - for the type checker
    return occupant.job
