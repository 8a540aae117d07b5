"""The scheduler: which sequence gets which slot, and the graph shape of the next step.

Fair across groups: a free slot goes to the group with the fewest slots. Among equals it goes to the
group whose last slot, or arrival, is longest ago. So no group starves. A sequence that may not run
beside the others blocks all later ones until it may. The scheduler reads no tensors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from engines.vibevoice.fast.graph_shape import TEXT_STEP, GraphShape, power_of_two
from engines.vibevoice.fast.sequence import Sequence, SequenceGroup

SMALLEST_CONTEXT = 512


@dataclass(slots=True)
class Scheduler:
    """Assigns slots. Not for two threads at once. `running` has the sequences by slot.

    The context of a step is a multiple of `context_step` tokens. Where that is None it is a power
    of two, because every graph shape may need a CUDA graph.
    """

    slots: int
    context_step: int | None = None
    groups: list[SequenceGroup] = field(default_factory=list)
    running: dict[int, Sequence] = field(default_factory=dict)
    _turns: int = 0

    def add(self, group: SequenceGroup) -> None:
        group.served = (self._turns, False)
        self.groups.append(group)

    def next(self) -> Sequence | None:
        """Puts the next sequence into the lowest free slot, and gives it.

        None where there is no slot or no sequence, or where the next sequence may not run yet.
        """
        group = self._next_group()
        if group is None or len(self.running) == self.slots:
            return None
        sequence = group.waiting.popleft()
        slot = next(slot for slot in range(self.slots) if slot not in self.running)
        sequence.slot, self.running[slot] = slot, sequence
        group.slots.add(slot)
        self._turns += 1
        group.served = (self._turns, True)
        return sequence

    def _next_group(self) -> SequenceGroup | None:
        hungry = [group for group in self.groups if group.waiting and not group.waiting[0].starves]
        if not hungry or (len(self.running) == self.slots and self._starving() is None):
            return None
        group = min(hungry, key=lambda group: (len(group.slots), group.served))
        return group if self._fits(group.waiting[0]) else None

    def _starving(self) -> Sequence | None:
        return next((each for each in self.running.values() if each.starves), None)

    def in_the_way(self) -> Sequence | None:
        """A sequence that waits for text in a slot which another needs; None where none does."""
        is_full = len(self.running) == self.slots
        return self._starving() if is_full and self._next_group() else None

    def suspend(self, sequence: Sequence) -> None:
        """Takes a sequence out of its slot. It gets one again once it has text."""
        self._vacate(sequence)
        sequence.group.waiting.appendleft(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether one graph shape suits it and all running ones; a repeatable one needs its own."""
        beside = [sequence, *self.running.values()]
        fixed = [each.part.context for each in beside if each.repeatable]
        return not fixed or min(fixed) == max(fixed) >= max(each.part.context for each in beside)

    def finish(self, sequence: Sequence) -> bool:
        """Ends a sequence's part. The next part of the same chunk is scheduled first.

        True if that was the last sequence of its group.
        """
        self._vacate(sequence)
        group = sequence.group
        if sequence.finish_part():
            group.waiting.appendleft(sequence)
        if group.waiting or group.slots:
            return False
        self.groups.remove(group)
        return True

    def drop(self, group: SequenceGroup) -> list[Sequence]:
        """Removes a group, and gives those of its sequences that were in slots."""
        if group not in self.groups:
            return []
        dropped = [self.running[slot] for slot in sorted(group.slots)]
        for sequence in dropped:
            self._vacate(sequence)
        group.waiting.clear()
        self.groups.remove(group)
        return dropped

    def _vacate(self, sequence: Sequence) -> None:
        del self.running[sequence.slot]
        sequence.group.slots.discard(sequence.slot)

    @property
    def has_work(self) -> bool:
        """Whether a sequence can get a slot, or make a step: not all of them wait for text."""
        can_step = any(each.next_steps is not None for each in self.running.values())
        return can_step or self._next_group() is not None

    def steps(self) -> Iterator[tuple[GraphShape, Mapping[int, Sequence]]]:
        """One step for each number of solver steps in use, and its sequences by slot.

        Together they advance all slots by one token. Text is read first, and the frame behind it
        is made at once. Each step has to be launched before the next is asked for.
        """
        if any(each.next_steps == TEXT_STEP for each in self.running.values()):
            yield from self._steps_of({TEXT_STEP})
        yield from self._steps_of(
            {each.next_steps for each in self.running.values()} - {None, TEXT_STEP}
        )

    def _steps_of(
        self, numbers: "set[int | None]"
    ) -> Iterator[tuple[GraphShape, Mapping[int, Sequence]]]:
        shape = self._shape(numbers)
        for steps in sorted(each for each in numbers if each is not None):
            moved = {slot: each for slot, each in self.running.items() if each.next_steps == steps}
            yield GraphShape(*shape, steps), moved

    def _shape(self, numbers: "set[int | None]") -> tuple[int, int]:
        """The slots and the context that serve all sequences whose next steps are among these."""
        moved = {slot: each for slot, each in self.running.items() if each.next_steps in numbers}
        fixed = [each.part.context for each in moved.values() if each.repeatable]
        if fixed:
            return self.slots, fixed[0]
        slots = min(self.slots, power_of_two(max(moved, default=0) + 1))
        return slots, self._context(max((each.reach for each in moved.values()), default=0))

    def _context(self, reach: int) -> int:
        if self.context_step is None:
            return power_of_two(reach, least=SMALLEST_CONTEXT)
        return -(-reach // self.context_step) * self.context_step
