"""What every engine behind the wall must do, whatever its voice.

Subclass `EngineContract` in a test module, name the subclass `Test...` and say how to make the
engine and a plan for it.
"""

import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from engines.base import End, Engine, Frame, Plan, PlannedChunk, Samples, Speech, Turn, Voice
from request.errors import Cancelled, SpeechError

Events = list[Frame | End]


def by_chunk(events: Events) -> dict[int, Samples]:
    """The samples of every chunk, joined."""
    frames: dict[int, list[Samples]] = {event.chunk: [] for event in events}
    for event in events:
        if isinstance(event, Frame):
            frames[event.chunk].append(event.samples)
    return {
        chunk: np.concatenate([np.zeros(0, np.float32), *parts]) for chunk, parts in frames.items()
    }


def assert_same(one: Events, other: Events) -> None:
    ones, others = by_chunk(one), by_chunk(other)
    assert ones.keys() == others.keys()
    assert all(np.array_equal(ones[chunk], others[chunk]) for chunk in ones)
    assert {event for event in one if isinstance(event, End)} == {
        event for event in other if isinstance(event, End)
    }


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs `work(0)` to `work(count - 1)` side by side; what one raises is raised here."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:  # noqa: BLE001 (raised below, in the test's thread)
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    for failure in failures:
        raise failure


@contextmanager
def closed_in_the_end(engine: Engine) -> Iterator[Engine]:
    """No thread of it may stay behind."""
    before = set(threading.enumerate())
    yield engine
    engine.close()
    gc.collect()
    deadline = time.monotonic() + 60
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, f"threads stay behind: {left}"
        time.sleep(0.01)


class EngineContract:
    deterministic = True
    """The same plan gives the same samples."""
    has_model = False
    """A model's time is what a chunk costs."""

    def make_engine(self) -> Engine:
        raise NotImplementedError

    def make_plan(self) -> Plan:
        """Two chunks or more, each of three frames or more, with different seeds."""
        text = "The first train leaves at six. " * 3
        return Plan(
            chunks=(
                PlannedChunk((Turn(0, text), Turn(1, "And the second?")), seed=11),
                PlannedChunk((Turn(1, text),), seed=12),
            ),
            voices=(Voice("Alice"), Voice("Frank")),
        )

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        """One for all tests that leave it as it was."""
        with closed_in_the_end(cls().make_engine()) as engine:
            yield engine

    @pytest.fixture
    def new_engine(self) -> Iterator[Engine]:
        """One that is not loaded yet."""
        with closed_in_the_end(self.make_engine()) as engine:
            yield engine

    @pytest.fixture(scope="class")
    @classmethod
    def plan(cls) -> Plan:
        return cls().make_plan()

    @pytest.fixture(scope="class")
    @classmethod
    def events(cls, engine: Engine, plan: Plan) -> Events:
        """The plan's: spoken once for the tests that only look at them."""
        return list(engine.start(plan))

    # Loading

    def test_it_names_itself_and_its_voices(self, engine: Engine) -> None:
        capabilities = engine.capabilities
        assert capabilities.name
        assert capabilities.voices or capabilities.cloning
        assert len(set(capabilities.voices)) == len(capabilities.voices)

    def test_it_is_ready_once_loaded(self, new_engine: Engine) -> None:
        assert not new_engine.ready
        new_engine.load()
        assert new_engine.ready

    def test_load_may_be_called_again_and_from_many_threads(
        self, new_engine: Engine, plan: Plan
    ) -> None:
        in_threads(4, lambda _: new_engine.load())
        new_engine.load()
        assert new_engine.ready
        assert list(new_engine.start(plan))

    def test_start_loads_by_itself(self, new_engine: Engine, plan: Plan) -> None:
        assert list(new_engine.start(plan))
        assert new_engine.ready

    def test_close_may_be_called_again_and_before_load(self, plan: Plan) -> None:
        engine = self.make_engine()
        engine.close()
        engine.close()
        other = self.make_engine()
        assert list(other.start(plan))
        other.close()
        other.close()

    # What comes out

    def test_every_chunk_has_frames_and_then_exactly_one_end(
        self, events: Events, plan: Plan
    ) -> None:
        for chunk in range(len(plan.chunks)):
            kinds = [type(event) for event in events if event.chunk == chunk]
            assert kinds == [Frame] * (len(kinds) - 1) + [End]
            assert len(kinds) > 3
        assert {event.chunk for event in events} == set(range(len(plan.chunks)))

    def test_frames_are_mono_float32_within_full_scale(self, events: Events) -> None:
        for event in events:
            if isinstance(event, Frame):
                assert event.samples.dtype == np.float32
                assert event.samples.ndim == 1
                assert len(event.samples) > 0
                assert np.isfinite(event.samples).all()
                assert np.abs(event.samples).max() <= 1

    def test_an_end_reports_the_seed_and_that_there_was_audio(
        self, events: Events, plan: Plan
    ) -> None:
        ends = {event.chunk: event for event in events if isinstance(event, End)}
        assert [ends[chunk].seed for chunk in sorted(ends)] == [c.seed for c in plan.chunks]
        assert {end.reason for end in ends.values()} <= {"eos", "cap"}
        assert [end.device_sec > 0 for end in ends.values()] == [self.has_model] * len(ends)

    def test_the_same_plan_gives_the_same_samples(
        self, engine: Engine, plan: Plan, events: Events
    ) -> None:
        if not self.deterministic:
            pytest.skip("this engine promises no repeatable samples")
        assert_same(list(engine.start(plan)), events)

    def test_a_plan_that_was_pickled_gives_the_same_samples(
        self, engine: Engine, plan: Plan, events: Events
    ) -> None:
        copy: Plan = pickle.loads(pickle.dumps(plan))  # noqa: S301 (made on this line)
        spoken = list(engine.start(copy))
        if self.deterministic:
            assert_same(spoken, events)

    def test_a_voice_nobody_knows_is_spoken_or_refused_in_words(
        self, engine: Engine, plan: Plan
    ) -> None:
        strange = replace(
            plan, voices=tuple(Voice(f"nobody \ud800\0/{v.name}") for v in plan.voices)
        )
        try:
            events = list(engine.start(strange))
        except SpeechError as refusal:
            assert str(refusal)
        else:
            assert sum(isinstance(event, End) for event in events) == len(plan.chunks)

    # Side by side

    def test_speeches_in_two_threads_sound_as_they_do_alone(
        self, engine: Engine, plan: Plan, events: Events
    ) -> None:
        turned = replace(plan, chunks=plan.chunks[::-1])
        alone = [events, list(engine.start(turned))]
        together: dict[int, Events] = {}

        def speak(number: int) -> None:
            together[number] = list(engine.start((plan, turned)[number]))

        began = time.monotonic()
        in_threads(2, speak)
        ends = [event for both in together.values() for event in both if isinstance(event, End)]
        assert sum(end.device_sec for end in ends) <= time.monotonic() - began
        for number in (0, 1):
            assert sum(isinstance(event, End) for event in together[number]) == len(plan.chunks)
            if self.deterministic:
                assert_same(together[number], alone[number])

    def test_speeches_read_in_turns_by_one_thread_do_not_mix(
        self, engine: Engine, plan: Plan
    ) -> None:
        readers = [iter(engine.start(plan)), iter(engine.start(plan))]
        read: list[Events] = [[], []]
        open_readers = [0, 1]
        while open_readers:
            for number in list(open_readers):
                event = next(readers[number], None)
                if event is None:
                    open_readers.remove(number)
                else:
                    read[number].append(event)
        if self.deterministic:
            assert_same(read[0], read[1])

    def test_a_reader_that_stops_reading_does_not_hold_up_another(
        self, engine: Engine, plan: Plan
    ) -> None:
        slow = iter(engine.start(plan))
        next(slow)
        in_threads(1, lambda _: assert_ends(engine.start(plan), plan))
        assert sum(isinstance(event, End) for event in slow) == len(plan.chunks)

    def test_an_abandoned_speech_does_not_hold_up_the_next(
        self, engine: Engine, plan: Plan
    ) -> None:
        engine.start(plan)  # never iterated
        begun = iter(engine.start(plan))
        next(begun)
        del begun
        assert_ends(engine.start(plan), plan)

    # Cancelling

    def test_a_speech_cancelled_before_it_is_read_raises_at_once(
        self, engine: Engine, plan: Plan
    ) -> None:
        speech = engine.start(plan)
        speech.cancel()
        with pytest.raises(Cancelled):
            next(iter(speech))

    def test_a_speech_cancelled_halfway_raises_at_the_next_event(
        self, engine: Engine, plan: Plan
    ) -> None:
        speech = engine.start(plan)
        reader = iter(speech)
        next(reader)
        speech.cancel()
        speech.cancel()
        with pytest.raises(Cancelled):
            next(reader)

    def test_a_speech_may_be_cancelled_after_its_end(self, engine: Engine, plan: Plan) -> None:
        speech = engine.start(plan)
        reader = iter(speech)
        assert sum(isinstance(event, End) for event in reader) == len(plan.chunks)
        speech.cancel()
        assert next(reader, None) is None

    def test_another_thread_may_cancel_and_the_reader_learns_of_it(
        self, engine: Engine, plan: Plan
    ) -> None:
        speech = engine.start(replace(plan, chunks=plan.chunks * 500))
        reading, cancelled = threading.Event(), threading.Event()
        counts: list[int] = []

        def read(number: int) -> None:
            if number:
                assert reading.wait(60)
                speech.cancel()
                cancelled.set()
                return
            with pytest.raises(Cancelled):
                for count, _ in enumerate(speech):
                    reading.set()
                    counts.append(count)
                    # A quick engine would be at its end before the other thread's turn.
                    assert count < 1000 or cancelled.wait(60)

        in_threads(2, read)
        assert counts

    def test_cancelling_one_speech_leaves_the_others_alone(
        self, engine: Engine, plan: Plan
    ) -> None:
        kept, dropped = engine.start(plan), engine.start(plan)
        reader = iter(kept)
        next(reader)
        dropped.cancel()
        assert sum(isinstance(event, End) for event in reader) == len(plan.chunks)


def assert_ends(speech: Speech, plan: Plan) -> None:
    assert sum(isinstance(event, End) for event in speech) == len(plan.chunks)
