"""The shapes of steps. They are few, because each is captured once as a CUDA graph."""

from dataclasses import dataclass

CPU_SLOTS = 4
MOST_SLOTS = 32
"""The default number of slots on a CPU; on a GPU the most by default, where memory allows."""

FIXED_CONTEXT = 2048
"""Tokens. A chunk of 1,000 characters with a voice of 30 s and its limit needs about 1,800."""


TEXT_STEP = 0
"""The solver steps of a step that reads text and makes no frame."""


@dataclass(frozen=True, slots=True)
class GraphShape:
    """The shape of a step: the first `slots` slots, `context` tokens, `steps` solver steps.

    Each slot attends to at most `context` tokens. A slot whose sequence has another number of
    solver steps is masked.
    """

    slots: int
    context: int
    steps: int

    def serves(self, other: "GraphShape") -> bool:
        """Whether a step of this shape gives the results of `other`, except for rounding."""
        return (
            self.steps == other.steps
            and self.slots >= other.slots
            and self.context >= other.context
        )

    def __str__(self) -> str:
        return f"{self.slots}x{self.context}"


def power_of_two(value: int, least: int = 1) -> int:
    """The smallest power of two that is at least `value`; not below `least`."""
    return max(least, 1 << (value - 1).bit_length())


def context_for(tokens: int) -> int:
    """The context in tokens for a chunk of at most `tokens`.

    Nearly all chunks have the same, so that repeatable chunks can run side by side.
    """
    return power_of_two(tokens, least=FIXED_CONTEXT)
