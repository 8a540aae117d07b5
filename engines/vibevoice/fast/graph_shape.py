"""The few shapes that steps come in: each is captured once as a CUDA graph."""

from dataclasses import dataclass

CPU_SLOTS = 4
MOST_SLOTS = 32
"""Slots where no number is asked for: on a CPU, and at most on a GPU, as memory allows."""

FIXED_CONTEXT = 2048
"""Tokens: a chunk of 1,000 characters with a voice of 30 s and its limit need some 1,800."""


@dataclass(frozen=True, slots=True)
class GraphShape:
    """A step of the first `slots`, each attending to at most `context` tokens, with so many solver
    `steps`. Slots with another number of steps keep still."""

    slots: int
    context: int
    steps: int

    def serves(self, other: "GraphShape") -> bool:
        """Whether a step of this shape makes what one of the other would, but for rounding."""
        return (
            self.steps == other.steps
            and self.slots >= other.slots
            and self.context >= other.context
        )

    def __str__(self) -> str:
        return f"{self.slots}x{self.context}"


def power_of_two(value: int, least: int = 1) -> int:
    """The smallest that is `value` at least."""
    return max(least, 1 << (value - 1).bit_length())


def context_for(tokens: int) -> int:
    """The context that a chunk of at most so many tokens is given. One size for nearly all, so that
    repeatable chunks can run side by side."""
    return power_of_two(tokens, least=FIXED_CONTEXT)
