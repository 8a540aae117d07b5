"""From a plan to the best take of each of its chunks.

A chunk that came out badly is generated again, where the engine varies; of several takes the one
with the smallest flaw is kept, and what is still wrong with it is said. Belongs to one thread.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Generic, TypeVar

from audio.chunk_audio import ChunkAudio, KeptChunkAudio
from engines.base import SAMPLE_RATE, End, Engine, Frame, Plan
from request.errors import EngineError
from synthesis.cancel import CancelToken
from synthesis.plan import GrowingText, said
from synthesis.verify import Hearing
from text.heard import Heard
from text.pace import Pace


class Flaw(IntEnum):
    """What can be wrong with a take, from harmless to useless."""

    NONE = 0
    ODD_LENGTH = 1
    MISHEARD = 2
    CUT = 3
    EARLY = 4
    SILENT = 5


_SAID = {
    Flaw.ODD_LENGTH: "is much longer or shorter than its text, so words may be missing or repeated",
    Flaw.CUT: "hit its length limit, so its end may be cut off",
    Flaw.EARLY: "was ended by the model before its text, so words are missing",
    Flaw.SILENT: "came out without a sound",
}


_ENDS = {"cap": Flaw.CUT, "early": Flaw.EARLY}


@dataclass(slots=True)
class Progress:
    """How far a request has come, and what its caller should know meanwhile; written by one thread,
    read by any."""

    chunks_total: int = 0
    chunks_done: int = 0
    audio_sec: float = 0.0
    warning: str = ""


AnyAudio = TypeVar("AnyAudio", bound=ChunkAudio, covariant=True)


@dataclass(frozen=True, slots=True)
class Recorded(Generic[AnyAudio]):
    """The take that was kept of a chunk, how many there were, and what was heard of it if that was
    asked for."""

    take: AnyAudio
    flaw: Flaw
    attempts: int
    heard: Heard | None = None

    @property
    def rank(self) -> tuple[bool, bool, float, Flaw]:
        """Of two takes the one with the smaller rank is better: first by what was heard."""
        heard = self.heard
        problem, wer = (bool(heard.problem), heard.wer) if heard else (False, 0.0)
        return self.flaw == Flaw.SILENT, problem, wer, self.flaw


class QualityRetry:
    """Speaks plans of one request. `first_audio_at` is when the first sound came (monotonic
    seconds, 0 before that). With a `hearing` every take is heard, and with `repeat` judged by that
    instead of by its length."""

    def __init__(
        self,
        engine: Engine,
        pace: Pace,
        max_retries: int,
        token: CancelToken,
        progress: Progress | None = None,
        hearing: Hearing | None = None,
        repeat: bool = False,
    ) -> None:
        self._engine, self._pace, self._token = engine, pace, token
        self._attempts = 1 + (max_retries if engine.capabilities.varies else 0)
        self._progress = progress or Progress()
        self._hearing, self._repeat = hearing, repeat
        self.first_audio_at = 0.0
        self._device_sec = 0.0

    @property
    def cost(self) -> dict[str, float]:
        """`gpu_sec`: what all attempts took of the GPU, where there is one. `verify_sec`: what was
        waited for a verifier."""
        cost = {"gpu_sec": self._device_sec} if self._engine.capabilities.gpu else {}
        return cost | ({"verify_sec": self._hearing.waited_sec} if self._hearing else {})

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings on what could not be heard."""
        return self._hearing.notes if self._hearing else ()

    def record(
        self, plan: Plan, new_take: Callable[[], KeptChunkAudio]
    ) -> list[Recorded[KeptChunkAudio]]:
        """The best take of every chunk."""
        best: dict[int, Recorded[KeptChunkAudio]] = {}
        pending = list(range(len(plan.chunks)))
        for attempt in range(1, self._attempts + 1):
            chunks = tuple(replace(plan.chunks[index], attempt=attempt) for index in pending)
            made = self._speak(replace(plan, chunks=chunks), new_take, pending)
            for index, (take, reason) in zip(pending, made, strict=True):
                heard = self._hearing.of(index) if self._hearing else None
                flaw = self._by_ear(self.judge(plan, index, take, reason), heard)
                made_now = Recorded(take, flaw, attempt, heard)
                kept = min(best.get(index, made_now), made_now, key=lambda each: each.rank)
                best[index] = replace(kept, attempts=attempt)
            pending = [index for index in pending if best[index].flaw]
            if not pending:
                break
        return [best[index] for index in range(len(plan.chunks))]

    def _by_ear(self, flaw: Flaw, heard: Heard | None) -> Flaw:
        """The flaw of a take that is repeated by what was heard: its length counts no more."""
        if heard is None or not self._repeat or flaw > Flaw.MISHEARD:
            return flaw
        return Flaw.MISHEARD if heard.problem else Flaw.NONE

    def _speak(
        self, plan: Plan, new_take: Callable[[], KeptChunkAudio], indices: Sequence[int]
    ) -> list[tuple[KeptChunkAudio, str]]:
        """A take of each chunk, and the reason for which it ended. `indices` are the chunks' in the
        whole plan."""
        takes: dict[int, KeptChunkAudio] = {}
        reasons: dict[int, str] = {}
        for event in self.events(plan):
            if event.chunk not in takes:  # a take holds filters: only those that run have one
                takes[event.chunk] = new_take()
            if isinstance(event, Frame):
                takes[event.chunk].feed(event.samples)
                if self._hearing:
                    self._hearing.feed(indices[event.chunk], event.samples)
            else:
                takes[event.chunk].finish()
                reasons[event.chunk] = event.reason
                if self._hearing:
                    self._hearing.end(indices[event.chunk])
        return [(takes[index], reasons[index]) for index in range(len(plan.chunks))]

    def events(self, plan: Plan, growing: GrowingText | None = None) -> Iterator[Frame | End]:
        """What the engine makes of a plan; `growing` is the text of one that grows. Raises
        `EngineError` unless every chunk comes to its end, `Cancelled` once that is asked for; the
        engine's work ends with the iteration."""
        missing, progress = len(plan.chunks), self._progress
        if not missing:
            return
        progress.chunks_total = max(missing, progress.chunks_total)
        speech = self._engine.start(plan)
        with self._token.ends(speech):
            if growing is not None:
                growing.attach(speech)
            for event in speech:
                if isinstance(event, Frame):
                    self.first_audio_at = self.first_audio_at or time.monotonic()
                    progress.audio_sec += len(event.samples) / SAMPLE_RATE
                else:
                    missing -= 1
                    self._device_sec += event.device_sec
                    progress.chunks_done = progress.chunks_total - missing
                yield event
        if missing:
            raise EngineError("the engine stopped before the end of the text")

    def judge(self, plan: Plan, index: int, take: ChunkAudio, reason: str) -> Flaw:
        """What is wrong with a finished take. A good one teaches the voice's pace."""
        if not take.count:
            return Flaw.SILENT
        if reason in _ENDS:
            return _ENDS[reason]
        voice, words = said(plan, index)
        if self._engine.capabilities.varies and self._pace.is_odd(voice, words, take.seconds):
            return Flaw.ODD_LENGTH
        self._pace.learn(voice, words, take.seconds)
        return Flaw.NONE


def flaws(recorded: Sequence[Recorded[ChunkAudio]]) -> tuple[str, ...]:
    """Warnings on the takes that were kept. Raises `EngineError` where nothing is to be heard."""
    if recorded and not any(each.take.count for each in recorded):
        raise EngineError("the engine made no sound from this text")
    return tuple(
        f"chunks[{index}]: {problem}"
        + (f" ({each.attempts} attempts)" if each.attempts > 1 else "")
        for index, each in enumerate(recorded)
        if (problem := _problem(each))
    )


def _problem(recorded: Recorded[ChunkAudio]) -> str:
    """What is wrong with a take. What was heard counts more than how long it is."""
    heard, flaw = recorded.heard, recorded.flaw
    if heard is not None and flaw <= Flaw.MISHEARD:
        return heard.problem
    return _SAID.get(flaw, "")
