"""Which chunk gets which slot, and the shape of the next frame. Knows numbers only.

Fair across jobs: a free slot goes to the job with the fewest slots, among equals to the one that
came, or was served, longest ago: whoever comes later comes behind it, so nothing starves. A chunk
that may not run beside the others holds up those behind it until it may.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar, cast

from engines.vibevoice.fast.graph_shape import GraphShape, context_for, power_of_two

SMALLEST_CONTEXT = 512


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A chunk that is ready for a slot: its place in the plan, the `tokens` of its prompt, the most
    tokens that may come, and the solver's steps. One that is `repeatable` always runs in the one
    shape that its size calls for. `rest` comes after it in the same chunk."""

    index: int
    seed: int
    tokens: int
    limit: int
    steps: int
    repeatable: bool
    rest: Self | None = field(default=None, kw_only=True)

    @property
    def context(self) -> int:
        """The context that it is given: what it may need at most, in a few sizes."""
        return context_for(self.tokens + self.limit)


AnyWork = TypeVar("AnyWork", bound=Work)


class Job(Generic[AnyWork]):
    """What is left of a request. `running` are its slots; `served` is the turn when it last got
    one, or came, and which of both: who came in that turn goes first."""

    def __init__(self, works: Iterable[AnyWork]) -> None:
        self.waiting = deque(works)
        self.running: set[int] = set()
        self.served = (0, False)


@dataclass(slots=True, eq=False)
class Occupant(Generic[AnyWork]):
    """Who is in a slot. `launched` frames were started for it, `seen` tokens came back."""

    slot: int
    job: Job[AnyWork]
    work: AnyWork
    launched: int = 0
    seen: int = 0

    @property
    def reach(self) -> int:
        """The tokens that its next frame attends to, at most."""
        return self.work.tokens + min(self.launched, self.work.limit - 1)


@dataclass(slots=True)
class Scheduler(Generic[AnyWork]):
    """Not for two threads at once. Frames attend to a multiple of `context_step` tokens, or, where
    there is none, to a power of two: every shape may cost a CUDA graph."""

    slots: int
    context_step: int | None = None
    jobs: list[Job[AnyWork]] = field(default_factory=list)
    occupants: dict[int, Occupant[AnyWork]] = field(default_factory=dict)
    _turns: int = 0

    def add(self, job: Job[AnyWork]) -> None:
        job.served = (self._turns, False)
        self.jobs.append(job)

    def next(self) -> Occupant[AnyWork] | None:
        """Puts the chunk whose turn it is into the lowest free slot. None where there is no slot,
        no chunk, or that chunk has to wait for others to end."""
        hungry = [job for job in self.jobs if job.waiting]
        if not hungry or len(self.occupants) == self.slots:
            return None
        job = min(hungry, key=lambda job: (len(job.running), job.served))
        if not self._fits(job.waiting[0]):
            return None
        slot = next(slot for slot in range(self.slots) if slot not in self.occupants)
        occupant = Occupant(slot, job, job.waiting.popleft())
        self.occupants[slot] = occupant
        job.running.add(slot)
        self._turns += 1
        job.served = (self._turns, True)
        return occupant

    def _fits(self, work: Work) -> bool:
        """Whether there is a shape for it and all that run: a repeatable chunk needs its own."""
        beside: list[Work] = [work, *(occupant.work for occupant in self.occupants.values())]
        fixed = [each.context for each in beside if each.repeatable]
        return not fixed or min(fixed) == max(fixed) >= max(each.context for each in beside)

    def finish(self, occupant: Occupant[AnyWork]) -> bool:
        """Its work is done; what is left of the same chunk comes next. True where that was its
        job's last."""
        self._vacate(occupant)
        job = occupant.job
        if occupant.work.rest is not None:
            job.waiting.appendleft(cast("AnyWork", occupant.work.rest))
        if job.waiting or job.running:
            return False
        self.jobs.remove(job)
        return True

    def drop(self, job: Job[AnyWork]) -> list[Occupant[AnyWork]]:
        """Takes a job out, and gives those of its chunks that were in slots."""
        if job not in self.jobs:
            return []
        dropped = [self.occupants[slot] for slot in sorted(job.running)]
        for occupant in dropped:
            self._vacate(occupant)
        job.waiting.clear()
        self.jobs.remove(job)
        return dropped

    def _vacate(self, occupant: Occupant[AnyWork]) -> None:
        del self.occupants[occupant.slot]
        occupant.job.running.discard(occupant.slot)

    def shapes(self) -> list[GraphShape]:
        """A frame's shape for every number of solver steps that is in use. Together they move all
        slots on by one token."""
        inside = list(self.occupants.values())
        if not inside:
            return []
        fixed = [each.work.context for each in inside if each.work.repeatable]
        if fixed:
            slots, context = self.slots, fixed[0]
        else:
            highest = max(each.slot for each in inside)
            slots = min(self.slots, power_of_two(highest + 1))
            context = self._context(max(each.reach for each in inside))
        return [
            GraphShape(slots, context, steps)
            for steps in sorted({each.work.steps for each in inside})
        ]

    def _context(self, reach: int) -> int:
        if self.context_step is None:
            return power_of_two(reach, least=SMALLEST_CONTEXT)
        return -(-reach // self.context_step) * self.context_step
