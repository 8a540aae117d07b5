"""Who gets a slot, and in which shape frames run."""

from collections import Counter, deque
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

pytest.importorskip("torch")

from engines.base import PlannedChunk, Turn
from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT, GraphShape, context_for, power_of_two
from engines.vibevoice.fast.scheduler import SMALLEST_CONTEXT, Scheduler
from engines.vibevoice.fast.sequence import Part, Sequence, SequenceGroup
from engines.vibevoice.frames import Frames
from engines.vibevoice.prompt import Prompt


def work(
    index: int = 0,
    *,
    tokens: int = 100,
    limit: int = 100,
    steps: int = 10,
    repeatable: bool = False,
    rest: Iterable[Part] = (),
) -> Sequence:
    chunk = PlannedChunk((Turn(0, "words"),), seed=7)
    parts = deque([part(tokens, limit), *rest])
    return Sequence(index, chunk, parts, steps, repeatable, 1.3, {})


def part(tokens: int = 100, limit: int = 100) -> Part:
    return Part(Prompt((0,) * tokens, (False,) * tokens, 0, tokens), limit)


def group(*sequences: Sequence) -> SequenceGroup:
    return SequenceGroup(Frames(), sequences)


def shapes(scheduler: Scheduler) -> list[GraphShape]:
    return [shape for shape, _ in scheduler.steps()]


def job(count: int) -> SequenceGroup:
    return group(*(work(index) for index in range(count)))


def fill(scheduler: Scheduler) -> list[tuple[SequenceGroup, int]]:
    given = []
    while sequence := scheduler.next():
        given.append((sequence.group, sequence.index))
    return given


def scheduler_of(slots: int, *jobs: SequenceGroup) -> Scheduler:
    made = Scheduler(slots)
    for each in jobs:
        made.add(each)
    return made


def test_a_job_alone_gets_all_slots_in_the_order_of_its_chunks() -> None:
    one = job(6)
    scheduler = scheduler_of(4, one)
    assert fill(scheduler) == [(one, 0), (one, 1), (one, 2), (one, 3)]
    assert sorted(scheduler.running) == [0, 1, 2, 3]
    scheduler.finish(scheduler.running[2])
    assert fill(scheduler) == [(one, 4)]
    assert scheduler.running[2].index == 4


def test_jobs_share_the_slots() -> None:
    long, short, other = job(9), job(1), job(9)
    scheduler = scheduler_of(6, long, short, other)
    given = fill(scheduler)
    assert given[:3] == [(long, 0), (short, 0), (other, 0)]
    assert Counter(id(who) for who, _ in given) == {id(long): 3, id(short): 1, id(other): 2}


def test_a_new_jobs_first_chunk_comes_before_the_rest_of_a_long_one() -> None:
    long = job(100)
    scheduler = scheduler_of(4, long)
    fill(scheduler)
    late = job(3)
    scheduler.add(late)
    assert not fill(scheduler)
    scheduler.finish(scheduler.running[1])
    assert fill(scheduler) == [(late, 0)]
    scheduler.finish(scheduler.running[0])
    assert fill(scheduler) == [(late, 1)], "it has one slot, the long one has two"
    scheduler.finish(scheduler.running[3])
    assert fill(scheduler) == [(long, 4)]


def test_jobs_that_keep_coming_do_not_keep_an_older_one_waiting() -> None:
    older = job(3)
    scheduler = scheduler_of(1, older)
    given = fill(scheduler)
    newcomers = [job(1), job(1), job(1)]
    for newcomer in newcomers:
        scheduler.add(newcomer)
        scheduler.finish(scheduler.running[0])
        given += fill(scheduler)
    assert given == [(older, 0), (newcomers[0], 0), (older, 1), (newcomers[1], 0)]


def test_jobs_that_keep_coming_do_not_keep_a_chunk_of_another_size_waiting() -> None:
    older = group(work(repeatable=True), work(1, tokens=3000, repeatable=True))
    scheduler = scheduler_of(2, older)
    newcomers = [group(work(repeatable=True)) for _ in range(3)]
    given = fill(scheduler)
    for newcomer in newcomers:
        scheduler.add(newcomer)
        given += fill(scheduler)
        scheduler.finish(scheduler.running[min(scheduler.running)])
    assert given == [(older, 0), (newcomers[0], 0), (older, 1)]


def test_finish_says_when_a_job_has_nothing_left() -> None:
    scheduler = scheduler_of(2, job(2))
    fill(scheduler)
    assert not scheduler.finish(scheduler.running[0])
    assert scheduler.finish(scheduler.running[1])
    assert not scheduler.groups


def test_a_dropped_job_gives_its_slots_back() -> None:
    one, two = job(5), job(5)
    scheduler = scheduler_of(4, one, two)
    fill(scheduler)
    assert [each.slot for each in scheduler.drop(one)] == [0, 2]
    assert scheduler.drop(one) == []
    assert [who for who, _ in fill(scheduler)] == [two, two]


def test_a_repeatable_chunk_runs_in_the_shape_of_its_size() -> None:
    scheduler = scheduler_of(4, group(work(repeatable=True)))
    fill(scheduler)
    assert shapes(scheduler) == [GraphShape(4, FIXED_CONTEXT, 10)]
    longer = scheduler_of(4, group(work(tokens=FIXED_CONTEXT, repeatable=True)))
    fill(longer)
    assert shapes(longer) == [GraphShape(4, 2 * FIXED_CONTEXT, 10)]


def test_where_shapes_cost_nothing_a_frame_reaches_hardly_farther_than_its_chunks() -> None:
    scheduler = Scheduler(4, context_step=128)
    scheduler.add(group(work(tokens=500, limit=1000)))
    fill(scheduler)
    assert shapes(scheduler) == [GraphShape(1, 512, 10)]
    scheduler.running[0].launched = 12
    assert shapes(scheduler) == [GraphShape(1, 512, 10)]
    scheduler.running[0].launched = 13
    assert shapes(scheduler) == [GraphShape(1, 640, 10)]


def test_other_chunks_run_in_the_smallest_shape() -> None:
    scheduler = scheduler_of(8, job(3))
    fill(scheduler)
    assert shapes(scheduler) == [GraphShape(4, SMALLEST_CONTEXT, 10)]
    scheduler.running[1].launched = 60
    assert shapes(scheduler) == [GraphShape(4, SMALLEST_CONTEXT, 10)]
    other = scheduler_of(8, group(work(tokens=500, limit=1000)))
    fill(other)
    other.running[0].launched = 12
    assert other.running[0].reach == 512
    assert shapes(other) == [GraphShape(1, 512, 10)]
    other.running[0].launched = 13
    assert shapes(other) == [GraphShape(1, 1024, 10)]


def test_a_chunk_never_reaches_beyond_its_context() -> None:
    sequence = work(tokens=FIXED_CONTEXT - 100)
    sequence.launched = 5000
    assert sequence.reach < sequence.part.context == FIXED_CONTEXT


def test_each_number_of_steps_has_a_frame_of_its_own() -> None:
    scheduler = scheduler_of(4, group(work(steps=20), work(steps=5), work(steps=20)))
    fill(scheduler)
    assert [shape.steps for shape in shapes(scheduler)] == [5, 20]


def test_a_chunk_that_needs_another_shape_waits_and_holds_up_those_behind_it() -> None:
    big = group(work(tokens=3000, repeatable=True))
    small = group(*(work(repeatable=True) for _ in range(9)))
    scheduler = scheduler_of(4, small)
    fill(scheduler)
    scheduler.add(big)
    scheduler.finish(scheduler.running[0])
    assert not fill(scheduler), "or the big one would wait for as long as small ones come"
    for slot in (1, 2, 3):
        scheduler.finish(scheduler.running[slot])
    assert fill(scheduler) == [(big, 0)]
    assert shapes(scheduler) == [GraphShape(4, 4096, 10)]


def test_what_is_not_repeatable_runs_beside_a_larger_fixed_shape() -> None:
    scheduler = scheduler_of(
        4, group(work(tokens=3000, repeatable=True)), group(work()), group(work(tokens=9000))
    )
    assert len(fill(scheduler)) == 2
    assert shapes(scheduler) == [GraphShape(4, 4096, 10)]


@pytest.mark.parametrize(("value", "power"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (2048, 2048)])
def test_powers_of_two(value: int, power: int) -> None:
    assert power_of_two(value) == power


def test_nearly_all_chunks_have_one_context() -> None:
    assert {context_for(tokens) for tokens in (1, 500, 2048)} == {FIXED_CONTEXT}
    assert context_for(2049) == 4096


def test_the_next_part_of_a_chunk_comes_before_other_chunks() -> None:
    first, second = work(0, rest=[part(300, 20)]), work(1)
    scheduler = scheduler_of(1, group(first, second))
    assert scheduler.next() is first
    first.launched, first.seen = 3, 2
    assert not scheduler.finish(first)
    assert scheduler.next() is first
    assert (first.part.tokens, first.reach, first.seen) == (300, 300, 0)
    assert not scheduler.finish(first)
    assert scheduler.next() is second
    assert scheduler.finish(second)


class Schedules(RuleBasedStateMachine):
    """Jobs come, end and are dropped at random; what holds is checked after every step."""

    @initialize(slots=st.integers(1, 9))
    def begin(self, slots: int) -> None:
        self.scheduler = Scheduler(slots)
        self.unborn: dict[SequenceGroup, list[Sequence]] = {}
        self.seen: dict[SequenceGroup, list[int]] = {}

    @rule(
        works=st.lists(
            st.builds(
                work,
                tokens=st.sampled_from([10, 1900, 3000, 9000]),
                limit=st.sampled_from([1, 64, 900]),
                steps=st.sampled_from([5, 10]),
                repeatable=st.booleans(),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def a_job_comes(self, works: list[Sequence]) -> None:
        new = group(*works)
        self.unborn[new] = works
        self.seen[new] = []
        self.scheduler.add(new)

    @rule()
    def slots_are_filled(self) -> None:
        while sequence := self.scheduler.next():
            place = self.unborn[sequence.group].index(sequence)
            self.seen[sequence.group].append(place)

    @rule()
    def a_frame_runs(self) -> None:
        for sequence in self.scheduler.running.values():
            sequence.launched += 1

    @precondition(lambda self: self.scheduler.running)
    @rule(pick=st.randoms(use_true_random=False))
    def a_chunk_ends(self, pick: object) -> None:
        slot = pick.choice(sorted(self.scheduler.running))  # type: ignore[attr-defined]
        sequence = self.scheduler.running[slot]
        ended = self.scheduler.finish(sequence)
        assert ended == (sequence.group not in self.scheduler.groups)

    @precondition(lambda self: self.scheduler.groups)
    @rule(pick=st.randoms(use_true_random=False))
    def a_job_is_dropped(self, pick: object) -> None:
        dropped = pick.choice(self.scheduler.groups)  # type: ignore[attr-defined]
        slots = set(dropped.slots)
        assert {each.slot for each in self.scheduler.drop(dropped)} == slots
        assert not dropped.slots
        assert not slots & set(self.scheduler.running)

    @invariant()
    def no_slot_leaks(self) -> None:
        held = [slot for each in self.scheduler.groups for slot in each.slots]
        assert sorted(held) == sorted(self.scheduler.running)
        assert all(0 <= slot < self.scheduler.slots for slot in held)
        assert all(each.group in self.scheduler.groups for each in self.scheduler.running.values())

    @invariant()
    def every_job_has_something_left(self) -> None:
        assert all(each.waiting or each.slots for each in self.scheduler.groups)

    @invariant()
    def chunks_begin_in_order(self) -> None:
        assert all(places == list(range(len(places))) for places in self.seen.values())

    @invariant()
    def every_slot_is_in_exactly_one_frame_that_reaches_it(self) -> None:
        by_steps = {shape.steps: shape for shape in shapes(self.scheduler)}
        for slot, sequence in self.scheduler.running.items():
            shape = by_steps[sequence.steps]
            assert slot < shape.slots <= self.scheduler.slots
            assert sequence.reach <= shape.context
            if sequence.repeatable:
                assert (shape.slots, shape.context) == (
                    self.scheduler.slots,
                    sequence.part.context,
                )

    @invariant()
    def somebody_always_runs(self) -> None:
        if self.scheduler.groups and not self.scheduler.running:
            self.slots_are_filled()
            assert self.scheduler.running


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=150, stateful_step_count=50)
