"""From a plan to the best take of each of its chunks.

A chunk that came out badly is generated again, where the engine varies; of several takes the one
with the smallest flaw is kept, and what is still wrong with it is said. Belongs to one thread;
`cancel` may come from any.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from engines.base import Engine, Frame, Plan, Speech
from speech.errors import Cancelled, EngineError
from speech.pace import Pace
from speech.takes import Take


class Flaw(IntEnum):
    """What can be wrong with a take, from harmless to useless."""

    NONE = 0
    ODD_LENGTH = 1
    CUT = 2
    SILENT = 3


_SAID = {
    Flaw.ODD_LENGTH: "is much longer or shorter than its text, so words may be missing or repeated",
    Flaw.CUT: "hit its length limit, so its end may be cut off",
    Flaw.SILENT: "came out without a sound",
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """The take that was kept of a chunk, and how many there were."""

    take: Take
    flaw: Flaw
    attempts: int


class Recorder:
    """Runs plans on an engine. `first_audio` is when the first frame came (monotonic seconds)."""

    def __init__(self, engine: Engine, pace: Pace, max_retries: int) -> None:
        self.warnings: list[str] = []
        self.first_audio: float | None = None
        self._engine = engine
        self._pace = pace
        self._attempts = 1 + (max_retries if engine.capabilities.varies else 0)
        self._cancelled = threading.Event()
        self._speech: Speech | None = None

    def cancel(self) -> None:
        self._cancelled.set()
        if self._speech is not None:
            self._speech.cancel()

    def check(self) -> None:
        """Raises `Cancelled` once that has been asked for."""
        if self._cancelled.is_set():
            raise Cancelled

    def record(self, plan: Plan, new_take: Callable[[], Take]) -> list[Recorded]:
        """The best take of every chunk. Raises `EngineError` when nothing is to be heard."""
        best: dict[int, Recorded] = {}
        pending = list(range(len(plan.chunks)))
        for attempt in range(1, self._attempts + 1):
            chunks = tuple(replace(plan.chunks[index], attempt=attempt) for index in pending)
            made = self._speak(replace(plan, chunks=chunks), new_take)
            for index, (take, reason) in zip(pending, made, strict=True):
                flaw = self._judge(plan, index, take, reason)
                kept = best.get(index)
                if kept is None or flaw < kept.flaw:
                    kept = Recorded(take, flaw, attempt)
                best[index] = replace(kept, attempts=attempt)
            pending = [index for index in pending if best[index].flaw]
            if not pending:
                break
        self._warn({index: best[index] for index in pending})
        if not any(recorded.take.count for recorded in best.values()):
            raise EngineError("the engine made no sound from this text")
        return [best[index] for index in range(len(plan.chunks))]

    def _speak(self, plan: Plan, new_take: Callable[[], Take]) -> list[tuple[Take, str]]:
        """A take of each chunk, and the reason for which it ended."""
        takes = [new_take() for _ in plan.chunks]
        reasons: dict[int, str] = {}
        speech = self._speech = self._engine.start(plan)
        try:
            self.check()
            for event in speech:
                if isinstance(event, Frame):
                    self.first_audio = self.first_audio or time.monotonic()
                    takes[event.chunk].feed(event.samples)
                else:
                    takes[event.chunk].finish()
                    reasons[event.chunk] = event.reason
        finally:
            speech.cancel()
        if len(reasons) < len(takes):
            raise EngineError("the engine stopped before the end of the text")
        return [(take, reasons[index]) for index, take in enumerate(takes)]

    def _judge(self, plan: Plan, index: int, take: Take, reason: str) -> Flaw:
        if not take.count:
            return Flaw.SILENT
        if reason == "cap":
            return Flaw.CUT
        turns = plan.chunks[index].turns
        voice = "/".join(sorted({plan.voices[turn.speaker].name for turn in turns}))
        said = " ".join(turn.text for turn in turns)
        if self._engine.capabilities.varies and self._pace.is_odd(voice, said, take.seconds):
            return Flaw.ODD_LENGTH
        self._pace.learn(voice, said, take.seconds)
        return Flaw.NONE

    def _warn(self, flawed: dict[int, Recorded]) -> None:
        for index, recorded in flawed.items():
            tries = f" ({recorded.attempts} attempts)" if recorded.attempts > 1 else ""
            self.warnings.append(f"chunks[{index}]: {_SAID[recorded.flaw]}{tries}")
