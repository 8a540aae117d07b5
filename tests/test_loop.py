"""The loop with a runner of known samples in the model's place."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from engines.base import End, Frame, PlannedChunk, Turn
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.loop import Loop
from engines.vibevoice.fast.meter import Meter
from engines.vibevoice.fast.sequence import Part, Sequence, SequenceGroup, StepOutput
from engines.vibevoice.frames import Frames
from engines.vibevoice.prompt import Prompt
from request.errors import Cancelled, EngineError, EngineLost


@dataclass(frozen=True, slots=True)
class Words(Part):
    """A part of `length` frames, then it ends."""

    length: int = 3


@dataclass(slots=True, eq=False)
class Line(Sequence):
    """A chunk that says its job's number, its own and the frame's. `said` are its parts, which
    `parts` has no more when they are spoken."""

    job: int = 0
    said: tuple[Words, ...] = ()

    def sample(self, frame: int) -> float:
        return (self.job * 100 + self.index) / 100_000 + frame / 10_000_000


_PROMPT = Prompt((0,) * 100, (False,) * 100, 0, 100)
_CHUNK = PlannedChunk((Turn(0, "words"),), seed=7)


def line(
    job: int,
    index: int,
    length: int,
    limit: int = 50,
    *,
    steps: int = 10,
    rest: Iterable[tuple[int, int]] = (),
    kind: type[Line] = Line,
) -> Line:
    """`rest` are further parts: how long each is, and its limit."""
    said = tuple(Words(_PROMPT, most, long) for long, most in ((length, limit), *rest))
    return kind(index, _CHUNK, deque(said), steps, True, 1.3, {}, job, said)


class Leases:
    def __init__(self) -> None:
        self.open = 0

    def release(self) -> None:
        self.open -= 1


class ToyRunner:
    """Keeps the state of slots as the device does: who ended stays silent, whatever the host
    believes. With a `lag`, frames are read one late."""

    def __init__(self, slots: int = 3, lag: int = 0) -> None:
        self.slots, self.lag, self.context_step = slots, lag, None
        self.leases = Leases()
        self.device: dict[int, list[Any]] = {}
        self.wiped: list[int] = []
        self.left = self.prepared = 0
        self.launches = 0
        self.gate: threading.Semaphore | None = None
        self.fail: dict[str, Exception] = {}

    def prepare(self) -> bool:
        self.prepared += self.left > 0
        self.left -= 1
        return self.left >= 0

    def lease(self) -> Leases:
        self.leases.open += 1
        return self.leases

    def admit(self, sequence: Sequence, lease: Any) -> None:
        assert lease is self.leases
        assert sequence.slot not in self.device, "a slot was given twice"
        if error := self.fail.pop(f"admit {sequence.index}", None):
            raise error
        self.device[sequence.slot] = [sequence, sequence.part, 0, True]

    def release(self, sequence: Sequence, *, wipe: bool = False) -> None:
        if error := self.fail.pop("release", None):
            raise error
        self.device.pop(sequence.slot, None)
        if wipe:
            self.wiped.append(sequence.slot)

    def suspend(self, sequence: Sequence) -> None:
        raise AssertionError(f"{sequence} has all of its text")

    def launch(self, shape: GraphShape, sequences: Mapping[int, Sequence]) -> Any:
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        self.launches += 1
        if error := self.fail.pop(f"launch {self.launches}", None):
            raise error
        made = {}
        for slot, state in self.device.items():
            line, part, frame, active = state
            if slot >= shape.slots or line.steps != shape.steps or not active:
                continue
            eos = frame == part.length
            state[2] += 1
            state[3] = not eos and state[2] < part.limit
            made[slot] = (eos, None if eos else np.full(2, line.sample(frame), np.float32))
        return made, sequences

    def read(self, in_flight: Any) -> Iterable[StepOutput]:
        made, sequences = in_flight
        return [StepOutput(each, *made[slot]) for slot, each in sequences.items() if slot in made]


class Run:
    """A loop and a way to speak through it."""

    def __init__(self, runner: ToyRunner) -> None:
        self.runner = runner
        self.lost: list[EngineLost] = []
        self.loop = Loop(runner, self.lost.append)

    def submit(self, *lines: Line) -> SequenceGroup:
        job = SequenceGroup(Frames(in_memory=3), lines)
        self.loop.submit(job)
        return job


@pytest.fixture(params=[0, 1], ids=["at once", "a frame late"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    before = set(threading.enumerate())
    made = Run(ToyRunner(lag=request.param))
    yield made
    made.loop.close()
    assert made.runner.leases.open == 0
    assert set(threading.enumerate()) <= before


def check(job: SequenceGroup, *lines: Line) -> None:
    """All frames of all chunks, each in order, and how each ended."""
    heard: dict[int, list[float]] = {each.index: [] for each in lines}
    ends = {}
    for event in job.frames:
        assert event.chunk not in ends
        if isinstance(event, Frame):
            heard[event.chunk].append(float(event.samples[0]))
        else:
            ends[event.chunk] = event
    for each in lines:
        spoken = [min(part.length, part.limit) for part in each.said]
        wanted = [each.sample(frame) for count in spoken for frame in range(count)]
        assert np.array_equal(np.array(heard[each.index]), np.array(wanted, np.float32))
        reason: Literal["eos", "cap"] = (
            "cap" if any(part.length >= part.limit for part in each.said) else "eos"
        )
        assert ends[each.index] == End(each.index, reason if any(spoken) else "empty", 7)


def test_chunks_of_a_job_run_side_by_side(run: Run) -> None:
    lines = [line(0, index, 4 + index) for index in range(8)]
    job = run.submit(*lines)
    check(job, *lines)
    assert run.runner.launches < sum(each.said[0].length for each in lines)


class Timed(ToyRunner):
    """Every frame takes a second, every prompt five."""

    now = 100.0

    def admit(self, sequence: Sequence, lease: Any) -> None:
        super().admit(sequence, lease)
        self.now += 5

    def launch(self, shape: GraphShape, sequences: Mapping[int, Sequence]) -> Any:
        self.now += 1
        return super().launch(shape, sequences)


@pytest.mark.parametrize("lag", [0, 1])
def test_the_loops_time_is_divided_among_those_at_work(
    monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    runner = Timed(slots=2, lag=lag)
    monkeypatch.setattr(
        "engines.vibevoice.fast.loop.time", SimpleNamespace(monotonic=lambda: runner.now)
    )
    loop = Loop(runner, lambda _: None)
    shares = []
    for lengths in ([3, 3], [1, 4], [2]):
        job = SequenceGroup(Frames(), (line(0, index, each) for index, each in enumerate(lengths)))
        runner.now += 1000  # in which nobody has anything to say
        loop.submit(job)
        ends = [event for event in job.frames if isinstance(event, End)]
        shares.append({end.chunk: end.device_sec for end in ends})
    loop.close()
    late = lag  # a frame that was begun before it was known that nobody needs it
    assert shares == [
        # Two prompts and four frames, the last of which says that both have ended.
        {0: 7 + late / 2, 1: 7 + late / 2},
        # Side by side for two prompts and two frames; then three frames for one alone.
        {0: 6 + late / 2, 1: 6 + 3 + late / 2},
        {0: 5 + 3 + late},
    ]


def test_a_chunk_without_a_frame_is_empty(run: Run) -> None:
    lines = [line(0, 0, 0), line(0, 1, 2), line(0, 2, 0, limit=1)]
    check(run.submit(*lines), *lines)


def test_the_limit_is_exact(run: Run) -> None:
    lines = [line(0, index, 99, limit=index + 1) for index in range(5)]
    check(run.submit(*lines), *lines)


def test_jobs_with_other_steps_run_beside(run: Run) -> None:
    fives, tens = [line(0, 0, 7, steps=5)], [line(1, 0, 5), line(1, 1, 5)]
    one, two = run.submit(*fives), run.submit(*tens)
    check(one, *fives)
    check(two, *tens)


def test_the_parts_of_a_chunk_come_one_after_the_other_and_end_once(run: Run) -> None:
    lines = [line(0, 0, 9), line(0, 1, 3, rest=[(0, 50), (99, 4)]), line(0, 2, 9)]
    job = run.submit(*lines)
    events = list(job.frames)
    heard = [event.samples[0] for event in events if isinstance(event, Frame) and event.chunk == 1]
    wanted = [lines[1].sample(frame) for frame in (*range(3), *range(4))]
    assert np.array_equal(np.array(heard), np.array(wanted, np.float32))
    ends = {event.chunk: event.reason for event in events if isinstance(event, End)}
    assert ends == {0: "eos", 1: "cap", 2: "eos"}
    assert len(events) == 9 + 7 + 9 + 3


@pytest.mark.parametrize(
    ("lengths", "reason"), [((0, 0), "empty"), ((0, 2), "eos"), ((2, 0), "eos"), ((60, 2), "cap")]
)
def test_a_chunk_ends_as_all_of_its_parts_did(
    run: Run, lengths: tuple[int, int], reason: str
) -> None:
    first, second = lengths
    job = run.submit(line(0, 0, first, rest=[(second, 50)]))
    ends = [event for event in job.frames if isinstance(event, End)]
    assert [end.reason for end in ends] == [reason]


def test_what_is_prepared_is_prepared_while_nobody_waits(run: Run) -> None:
    run.runner.left = 3
    run.runner.gate = threading.Semaphore(2)
    job = run.submit(line(0, 0, 5))
    next(iter(job.frames))
    assert run.runner.prepared == 0, "somebody listens"
    run.runner.gate.release(100)
    list(job.frames)
    for _ in range(3000):
        if run.runner.left < 0:
            break
        threading.Event().wait(0.01)
    assert run.runner.prepared == 3


def test_a_loop_that_is_started_prepares_before_there_is_a_job(run: Run) -> None:
    run.runner.left = 3
    run.loop.start()
    run.loop.start()
    for _ in range(3000):
        if run.runner.left < 0:
            break
        threading.Event().wait(0.01)
    assert run.runner.prepared == 3
    lines = [line(0, 0, 2)]
    check(run.submit(*lines), *lines)


def test_once_a_minute_the_log_says_how_long_frames_take(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    meter = Meter(lambda: "all is well", clock=lambda: now)
    with caplog.at_level(logging.INFO, "vibevoice"):
        for _ in range(130):
            now += 1
            meter.add(2, 0.5)
            meter.add(0, 9.0)  # nothing was made
    assert caplog.messages == ["120 frames in 30.0 s: 250.0 ms a frame; all is well"] * 2
    assert meter.frame_seconds == pytest.approx(0.25)


def test_a_moving_mean_follows_what_frames_take() -> None:
    meter = Meter(str)
    assert meter.frame_seconds == 0
    meter.add(1, 0.1)
    assert meter.frame_seconds == pytest.approx(0.1)
    for _ in range(200):
        meter.add(1, 0.02)
    assert meter.frame_seconds == pytest.approx(0.02, rel=0.01)


def test_a_cancelled_job_is_out_a_frame_later(run: Run) -> None:
    run.runner.gate = threading.Semaphore(3)
    job = run.submit(*(line(0, index, 40) for index in range(9)))
    next(iter(job.frames))
    run.loop.cancel(job)
    for _ in range(200):
        run.runner.gate.release()
    other = [line(1, 0, 2)]
    check(run.submit(*other), *other)
    assert run.runner.launches < 15
    with pytest.raises(Cancelled):
        next(iter(job.frames))


def test_a_failed_admission_fails_its_job_alone(run: Run) -> None:
    run.runner.fail["admit 5"] = EngineError("no room")
    lines = [line(0, index, 6) for index in range(3)]
    good, bad = run.submit(*lines), run.submit(line(1, 4, 9), line(1, 5, 2))
    with pytest.raises(EngineError, match="no room"):
        list(bad.frames)
    check(good, *lines)
    assert not run.lost


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), "ran out of memory"),
        (ValueError("a bug"), "a bug"),
    ],
)
def test_a_failed_frame_fails_who_is_there_and_the_next_job_works(
    run: Run, error: Exception, wanted: str
) -> None:
    run.runner.fail["launch 3"] = error
    run.runner.gate = threading.Semaphore(1)
    jobs = [run.submit(*(line(each, index, 9) for index in range(2))) for each in range(2)]
    run.runner.gate.release(1000)
    failures = []
    for job in jobs:
        with pytest.raises(Exception, match=wanted) as caught:
            list(job.frames)
        failures.append(caught.value)
    assert run.runner.wiped
    assert all(failure.__context__ is None for failure in failures)
    lines = [line(2, 0, 4)]
    check(run.submit(*lines), *lines)
    assert not run.lost


def test_a_broken_device_is_told_and_all_jobs_fail(run: Run) -> None:
    run.runner.fail["launch 2"] = RuntimeError("CUDA error: device-side assert triggered")
    run.runner.gate = threading.Semaphore(1)
    jobs = [run.submit(line(each, 0, 9)) for each in range(5)]
    run.runner.gate.release(1000)
    for job in jobs:
        with pytest.raises(EngineLost):
            list(job.frames)
    assert len(run.lost) == 1
    run.loop.close()
    with pytest.raises(EngineLost):
        run.submit(line(0, 0, 1))


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (RuntimeError("CUDA error: an illegal memory access"), "the GPU failed"),
        (KeyError("a bug"), "the frame loop broke off"),
    ],
)
def test_an_error_on_the_way_out_of_another_asks_for_another_worker(
    run: Run, error: Exception, wanted: str
) -> None:
    run.runner.fail |= {"launch 2": RuntimeError("CUDA out of memory"), "release": error}
    job = run.submit(line(0, 0, 9))
    with pytest.raises(EngineError, match="ran out of memory"):
        list(job.frames)
    run.loop.close()
    assert len(run.lost) == 1
    with pytest.raises(EngineLost, match=wanted):
        run.submit(line(0, 0, 1))


def test_samples_that_are_no_numbers_fail_their_job_and_leave_nothing_behind(run: Run) -> None:
    class Damaged(Line):
        def sample(self, frame: int) -> float:
            return float("nan") if frame == 2 else 0.0

    bad = run.submit(line(0, 0, 9, kind=Damaged))
    lines = [line(1, 0, 9)]
    good = run.submit(*lines)
    with pytest.raises(EngineError, match="weights are damaged"):
        list(bad.frames)
    check(good, *lines)
    assert len(run.runner.wiped) == 1


def test_closing_ends_every_job(run: Run) -> None:
    job = run.submit(line(0, 0, 10**6, limit=10**7))
    reader = iter(job.frames)
    next(reader)
    run.loop.close()
    with pytest.raises(Cancelled):
        for _ in itertools.repeat(None):
            next(reader)
    with pytest.raises(Cancelled):
        run.submit(line(0, 0, 1))


_Chunk = tuple[int, int, int, list[tuple[int, int]]]  # length, limit, steps, further parts


@settings(max_examples=60)
@given(
    slots=st.integers(1, 5),
    lag=st.sampled_from([0, 1]),
    jobs=st.lists(
        st.tuples(
            st.lists(
                st.tuples(
                    st.integers(0, 12),
                    st.integers(1, 14),
                    st.sampled_from([5, 10]),
                    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=2),
                ),
                min_size=1,
                max_size=9,
            ),
            st.none() | st.integers(0, 30),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_no_slot_leaks_and_no_audio_crosses_jobs(
    slots: int,
    lag: int,
    jobs: list[tuple[list[_Chunk], int | None]],
) -> None:
    """Jobs of random chunks, some of them cancelled after some events, from one thread each."""
    run = Run(ToyRunner(slots, lag))
    failures: list[BaseException] = []

    def speak(number: int) -> None:
        chunks, patience = jobs[number]
        lines = [
            line(number, index, length, limit, steps=steps, rest=rest)
            for index, (length, limit, steps, rest) in enumerate(chunks)
        ]
        job = run.submit(*lines)
        try:
            if patience is None:
                check(job, *lines)
            else:
                for event in itertools.islice(job.frames, patience):
                    if isinstance(event, Frame):
                        place = round(float(event.samples[0]) * 100_000 - 0.005, 1)
                        assert int(place) == number * 100 + event.chunk
                run.loop.cancel(job)
        except BaseException as failure:  # noqa: BLE001 (raised below, in the test's thread)
            failures.append(failure)

    threads = [threading.Thread(target=speak, args=(each,)) for each in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = [line(99, 0, 2)]
    check(run.submit(*lines), *lines)
    run.loop.close()
    for failure in failures:
        raise failure
    assert not run.runner.device
    assert not run.loop._scheduler.running
    assert run.runner.leases.open == 0
