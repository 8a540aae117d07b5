"""Continuous batching: the thread that runs steps of all slots (schedule, launch, read, deliver).

On a GPU a step is read while the next one runs. So the end of a sequence is known one step late;
that extra step does not change its slot. A slow reader never blocks the loop, because its frames
spill to disk (`frames.py`).
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
"""The budget of prefill between two steps, in tokens, which bounds the gap of running sequences."""


class Runner(Protocol):
    """What runs the steps: see `batch.Batch`.

    `lag` is how many of the newest steps stay in flight while older ones are read. While the loop
    is idle it calls `prepare` again and again, until that gives False.
    """

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

    def suspend(self, sequence: Sequence) -> None: ...

    def launch(self, shape: GraphShape, sequences: Mapping[int, Sequence]) -> Any: ...

    def read(self, in_flight: Any) -> Iterable[StepOutput]: ...


class Loop:
    """The loop and its thread, which runs from `start` or the first `submit` until `close`.

    `lose` is called with the error after which the device no longer works.
    """

    def __init__(self, runner: Runner, lose: Callable[[EngineLost], None]) -> None:
        self.meter = Meter(lambda: f"{len(self._scheduler.groups)} jobs; {runner}")
        self._runner = runner
        self._lose = lose
        self._scheduler = Scheduler(runner.slots, runner.context_step)
        self._in_flight: deque[list[Any]] = deque()
        self._step_at = 0.0
        self._changed = threading.Condition()
        self._arrived: deque[SequenceGroup] = deque()
        self._news = self._closed = False
        self._ending: BaseException = Cancelled()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread, so that the runner prepares before the first group is submitted."""
        with self._changed:
            self._start()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
            self._thread.start()

    def submit(self, group: SequenceGroup) -> None:
        """Queues a group, from any thread.

        Raises `Cancelled` after `close`, or the error that ended the loop.
        """
        with self._changed:
            if self._closed:
                raise self._ending
            self._arrived.append(group)
            self._start()
            self._changed.notify()

    def cancel(self, group: SequenceGroup) -> None:
        """Cancels a group, from any thread.

        It gets no more frames. A step later its slots are free.
        """
        group.cancelled.set()
        group.frames.close()
        self.wake()

    def wake(self) -> None:
        """Looks for work again, from any thread: for text that a sequence waits for."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the step in flight. Unread frames are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._has_work():
                self._step()
        except BaseException as error:  # noqa: BLE001 - raised again in the readers' threads
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
        """Advances all slots by one token.

        An error fails all current groups. Only a broken device ends the loop.
        """
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
        # Only now does no traceback refer to the failed step's tensors.
        if isinstance(failure, EngineLost):
            raise failure
        self._in_flight.clear()
        for group in self._groups():
            self._end(group, failure, wipe=True)
        free_memory()

    def _has_work(self) -> bool:
        """Waits until there is a group, and prepares meanwhile. False once the loop is closed."""
        while not self._is_wanted() and self._runner.prepare():
            pass
        with self._changed:
            if not (self._scheduler.has_work or self._in_flight):
                self._changed.wait_for(self._is_wanted)
                self._step_at = time.monotonic()
            self._news = False
            self._take_arrived()
            return not self._closed

    def _is_wanted(self) -> bool:
        return bool(
            self._closed
            or self._news
            or self._arrived
            or self._in_flight
            or self._scheduler.has_work
        )

    def _take_arrived(self) -> None:
        while self._arrived:
            group = self._arrived.popleft()
            group.lease = self._runner.lease()
            self._scheduler.add(group)

    def _groups(self) -> list[SequenceGroup]:
        """A copy of the list of groups, because its users drop groups while they iterate."""
        return list(self._scheduler.groups)

    def _schedule(self) -> None:
        """Drops cancelled groups, and admits sequences to free slots.

        A sequence that waits for text makes room where its slot is needed.
        """
        for group in self._groups():
            if group.cancelled.is_set():
                self._end(group, Cancelled())
        tokens = 0
        while tokens < _PROMPT_TOKENS:
            if starving := self._scheduler.in_the_way():
                self._runner.suspend(starving)
                self._scheduler.suspend(starving)
            if (sequence := self._scheduler.next()) is None:
                break
            self._admit(sequence)
            tokens += sequence.part.tokens

    def _admit(self, sequence: Sequence) -> None:
        failure = None
        try:
            self._runner.admit(sequence, sequence.group.lease)
        except Exception as error:  # noqa: BLE001 - raised again in the reader's thread
            failure = failure_of(error)
        if isinstance(failure, EngineLost):
            raise failure
        if failure is not None:
            self._end(sequence.group, failure, wipe=True)
            free_memory()

    def _launch(self) -> int:
        """Launches one step for each number of solver steps in use, and gives their count."""
        launched = []
        for shape, moved in self._scheduler.steps():
            launched.append(self._runner.launch(shape, moved))
            for sequence in moved.values():
                sequence.advance()
        if launched:
            self._in_flight.append(launched)
        return len(launched)

    def _read(self, left: int) -> Iterator[list[StepOutput]]:
        """The outputs of the steps in flight, oldest first, except the newest `left`."""
        while len(self._in_flight) > left:
            steps = self._in_flight.popleft()
            yield [output for step in steps for output in self._runner.read(step)]

    def _postprocess(self, outputs: list[StepOutput]) -> None:
        self._share_time(outputs)
        for output in outputs:
            # The sequence may have been cancelled or have failed while the step ran.
            if self._scheduler.running.get(output.sequence.slot) is output.sequence:
                self._deliver(output)

    def _share_time(self, outputs: list[StepOutput]) -> None:
        """Divides the time since the last step, with prefill, among the sequences of this step.

        So the sum of all shares is the time in which the loop was busy.
        """
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
        sequence.early |= output.early
        if output.eos or sequence.is_over:
            sequence.capped |= not output.eos
            if len(sequence.parts) == 1:
                frames.put(sequence.end)
            self._runner.release(sequence)
            if self._scheduler.finish(sequence):
                self._close(sequence.group)

    def _end(self, group: SequenceGroup, error: BaseException, *, wipe: bool = False) -> None:
        """Ends a group with an error. `wipe` zeroes its slots, which may hold NaN."""
        try:
            for sequence in self._scheduler.drop(group):
                self._runner.release(sequence, wipe=wipe)
        finally:
            self._close(group, error)

    def _close(self, group: SequenceGroup, error: BaseException | None = None) -> None:
        if group.lease is not None:
            group.lease.release()
        group.frames.finish(error)
