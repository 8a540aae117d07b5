"""The thread that moves all slots on, step by step: schedule, launch, read, postprocess.

On a GPU a step is read while the next one is made, so a sequence that has ended is known one step
late; that step leaves its slot alone. A reader that is slow never holds up the loop, since what it
leaves goes to disk (`frames.py`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from engines.base import Frame
from engines.vibevoice.failures import failure_of, free_memory, loss_of
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.meter import Meter
from engines.vibevoice.fast.scheduler import Scheduler
from engines.vibevoice.fast.sequence import Lease, Sequence, SequenceGroup, StepOutput
from request.errors import Cancelled, EngineError, EngineLost

_PROMPT_TOKENS = 1024
"""Tokens of prompts that are read between two steps, so that those who speak do not wait long."""


class Runner(Protocol):
    """What makes the steps: see `batch.Batch`. `lag` of them may be under way at a time. While
    nobody waits it may `prepare`, bit by bit, as long as that is true."""

    @property
    def slots(self) -> int: ...

    @property
    def lag(self) -> int: ...

    @property
    def context_step(self) -> int | None: ...

    def prepare(self) -> bool: ...

    def lease(self) -> Lease: ...

    def admit(self, sequence: Sequence, lease: Any) -> None: ...

    def release(self, sequence: Sequence, *, wipe: bool = False) -> None: ...

    def launch(self, shape: GraphShape, sequences: Mapping[int, Sequence]) -> Any: ...

    def read(self, in_flight: Any) -> Iterable[StepOutput]: ...


class Loop:
    """Its thread runs from `start` or the first `submit` to `close`. `lose` is told of an error
    after which the device works no more."""

    def __init__(self, runner: Runner, lose: Callable[[EngineLost], None]) -> None:
        self.meter = Meter(lambda: f"{len(self._scheduler.groups)} jobs; {runner}")
        self._runner = runner
        self._lose = lose
        self._scheduler = Scheduler(runner.slots, runner.context_step)
        self._in_flight: deque[list[Any]] = deque()
        self._step_at = 0.0
        self._changed = threading.Condition()
        self._arrived: deque[SequenceGroup] = deque()
        self._closed = False
        self._ending: BaseException = Cancelled()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Lets the runner prepare before there is a group."""
        with self._changed:
            self._start()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
            self._thread.start()

    def submit(self, group: SequenceGroup) -> None:
        """From any thread. Raises `Cancelled` after `close`, or why the loop has ended."""
        with self._changed:
            if self._closed:
                raise self._ending
            self._arrived.append(group)
            self._start()
            self._changed.notify()

    def cancel(self, group: SequenceGroup) -> None:
        """From any thread. The group gets nothing more; a step later its slots are free."""
        group.cancelled.set()
        group.frames.close()

    def close(self) -> None:
        """Waits for the step that is being made. What was not read is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._has_work():
                self._step()
        except BaseException as error:  # noqa: BLE001 - raised again where the speeches are read
            self._ending = lost = loss_of(error)
            self._lose(lost)
        with self._changed:
            self._closed = True
            self._take_arrived()
        self._in_flight.clear()
        for group in self._groups():
            self._scheduler.drop(group)
            self._close(group, self._ending)

    def _step(self) -> None:
        """Moves all slots on by one token. What fails fails the groups that are there; only a
        broken device ends the loop."""
        began = time.monotonic()
        try:
            self._schedule()
            launched = self._launch()
            for outputs in self._read(self._runner.lag if launched else 0):
                self._postprocess(outputs)
            self.meter.add(launched, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - raised again where the speeches are read
            failure = failure_of(error)
        else:
            return
        # Only here the failed step's tensors are let go of.
        if isinstance(failure, EngineLost):
            raise failure
        self._in_flight.clear()
        for group in self._groups():
            self._end(group, failure, wipe=True)
        free_memory()

    def _has_work(self) -> bool:
        """Waits for some. False once the loop is closed."""
        while not self._is_wanted() and self._runner.prepare():
            pass
        with self._changed:
            if not (self._scheduler.groups or self._in_flight):
                self._changed.wait_for(self._is_wanted)
                self._step_at = time.monotonic()
            self._take_arrived()
            return not self._closed

    def _is_wanted(self) -> bool:
        return bool(self._closed or self._arrived or self._scheduler.groups or self._in_flight)

    def _take_arrived(self) -> None:
        while self._arrived:
            group = self._arrived.popleft()
            group.lease = self._runner.lease()
            self._scheduler.add(group)

    def _groups(self) -> list[SequenceGroup]:
        """A copy: who goes through it may drop some."""
        return list(self._scheduler.groups)

    def _schedule(self) -> None:
        """Drops what was cancelled, and fills the slots that are free."""
        for group in self._groups():
            if group.cancelled.is_set():
                self._end(group, Cancelled())
        tokens = 0
        while tokens < _PROMPT_TOKENS and (sequence := self._scheduler.next()):
            self._admit(sequence)
            tokens += sequence.part.tokens

    def _admit(self, sequence: Sequence) -> None:
        failure = None
        try:
            self._runner.admit(sequence, sequence.group.lease)
        except Exception as error:  # noqa: BLE001 - raised again where the speech is read
            failure = failure_of(error)
        if isinstance(failure, EngineLost):
            raise failure
        if failure is not None:
            self._end(sequence.group, failure, wipe=True)
            free_memory()

    def _launch(self) -> int:
        """Starts a step for each number of solver steps, and gives how many it started."""
        launched = []
        for shape in self._scheduler.shapes():
            moved = {
                slot: each
                for slot, each in self._scheduler.running.items()
                if each.steps == shape.steps
            }
            launched.append(self._runner.launch(shape, moved))
            for sequence in moved.values():
                sequence.launched += 1
        if launched:
            self._in_flight.append(launched)
        return len(launched)

    def _read(self, left: int) -> Iterator[list[StepOutput]]:
        """What came of the steps under way, but for the newest `left`."""
        while len(self._in_flight) > left:
            steps = self._in_flight.popleft()
            yield [output for step in steps for output in self._runner.read(step)]

    def _postprocess(self, outputs: list[StepOutput]) -> None:
        self._share_time(outputs)
        for output in outputs:
            # Not where it was cancelled, or its group has failed, while the step was made.
            if self._scheduler.running.get(output.sequence.slot) is output.sequence:
                self._deliver(output)

    def _share_time(self, outputs: list[StepOutput]) -> None:
        """Divides the time since the last step, prompts included, among those whom this one moved.
        So all shares together are the time in which the loop was at work."""
        now = time.monotonic()
        for output in outputs:
            output.sequence.device_sec += (now - self._step_at) / len(outputs)
        if outputs:
            self._step_at = now

    def _deliver(self, output: StepOutput) -> None:
        sequence, samples = output.sequence, output.samples
        frames = sequence.group.frames
        sequence.seen += 1
        if samples is not None:
            if not np.isfinite(samples).all():
                damaged = "the model made samples that are no numbers: its weights are damaged"
                self._end(sequence.group, EngineError(damaged), wipe=True)
                return
            sequence.spoken = True
            frames.put(Frame(sequence.index, np.clip(samples, -1, 1)))
        if output.eos or sequence.seen == sequence.part.limit:
            sequence.capped |= not output.eos
            if len(sequence.parts) == 1:
                frames.put(sequence.end)
            self._runner.release(sequence)
            if self._scheduler.finish(sequence):
                self._close(sequence.group)

    def _end(self, group: SequenceGroup, error: BaseException, *, wipe: bool = False) -> None:
        """A group ends before its time. `wipe` where its slots may hold what is no number."""
        try:
            for sequence in self._scheduler.drop(group):
                self._runner.release(sequence, wipe=wipe)
        finally:
            self._close(group, error)

    def _close(self, group: SequenceGroup, error: BaseException | None = None) -> None:
        if group.lease is not None:
            group.lease.release()
        group.frames.finish(error)
