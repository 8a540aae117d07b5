from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says without a break. `speaker` is an index into the plan's voices."""

    speaker: int
    text: str
