"""An engine whose samples are known, for tests of everything above the engine wall."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engines.base import Capabilities, End, Frame, Plan, Samples
from request.errors import Cancelled, EngineError

CAPABILITIES = Capabilities("fake", cloning=True, voices=("Alice", "Frank"))
Reason = Literal["eos", "cap", "empty"]


def ramp(chunk: int) -> Samples:
    """8000 samples that rise from 0 to 0.9, 0.45, 0.3 ... in chunk 0, 1, 2 ..."""
    return np.linspace(0, 0.9 / (chunk + 1), 8000, dtype=np.float32)


@dataclass
class FakeEngine:
    """Speaks `audio` instead of the plan's text. Everything may be changed between speeches.

    `audio` maps a chunk's index in its plan to samples, or lists them. With `interleave` the chunks
    take turns, a frame each. `delay` seconds pass before every frame; `cancel` cuts them short.
    The frame of a speech that is number `fail_at`, counted from 0, raises `EngineError` instead.
    `reasons` overrides "eos" (or "empty", without samples) for a chunk. Each takes `device_sec`.
    """

    audio: Callable[[int], Samples] | Sequence[Samples] = ramp
    frame: int = 3200
    interleave: bool = False
    delay: float = 0.0
    fail_at: int | None = None
    reasons: Mapping[int, Reason] = field(default_factory=dict)
    device_sec: float = 0.0
    capabilities: Capabilities = CAPABILITIES
    ready: bool = False
    lost: bool = False
    speeches: "list[FakeSpeech]" = field(default_factory=list)

    @property
    def plans(self) -> list[Plan]:
        return [speech.plan for speech in self.speeches]

    def check(self) -> None:
        """Nothing keeps it from working."""

    def inspect(self) -> Capabilities:
        return self.capabilities

    def load(self) -> None:
        self.ready = True

    def start(self, plan: Plan) -> "FakeSpeech":
        self.load()
        self.speeches.append(FakeSpeech(self, plan))
        return self.speeches[-1]

    def close(self) -> None:
        self.ready = False

    def samples(self, chunk: int) -> Samples:
        return self.audio(chunk) if callable(self.audio) else self.audio[chunk]


class HeldEngine(FakeEngine):
    """Speaks no faster than it is told, 22 minutes if nothing else: each frame and each end needs a
    permit, `cancel` needs none. `frames` counts what was let through."""

    def __init__(
        self, audio: Callable[[int], Samples] = lambda _: np.full(3200 * 10_000, 0.25, np.float32)
    ) -> None:
        super().__init__(audio)
        self.permits = threading.Semaphore(0)
        self.frames = 0

    def start(self, plan: Plan) -> "HeldSpeech":
        self.load()
        speech = HeldSpeech(self, plan)
        self.speeches.append(speech)
        return speech


class FakeSpeech:
    def __init__(self, engine: FakeEngine, plan: Plan) -> None:
        self.plan = plan
        self._engine = engine
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def __iter__(self) -> Iterator[Frame | End]:
        frames = 0
        for event in self._events():
            if isinstance(event, Frame):
                self._cancelled.wait(self._engine.delay)
                if frames == self._engine.fail_at:
                    raise EngineError("the fake engine failed as it was told to")
                frames += 1
            if self.cancelled:
                raise Cancelled
            yield event

    def _events(self) -> Iterator[Frame | End]:
        waiting = [self._chunk(index) for index in range(len(self.plan.chunks))]
        while waiting:
            chunk = waiting.pop(0)
            for event in chunk:
                yield event
                if self._engine.interleave and isinstance(event, Frame):
                    waiting.append(chunk)
                    break

    def _chunk(self, index: int) -> Iterator[Frame | End]:
        samples, size = self._engine.samples(index), self._engine.frame
        for at in range(0, len(samples), size):
            yield Frame(index, samples[at : at + size])
        reason = self._engine.reasons.get(index, "eos" if len(samples) else "empty")
        yield End(index, reason, self.plan.chunks[index].seed, self._engine.device_sec)


class HeldSpeech(FakeSpeech):
    def __iter__(self) -> Iterator[Frame | End]:
        engine = self._engine
        assert isinstance(engine, HeldEngine)
        for event in super().__iter__():
            while not engine.permits.acquire(timeout=0.01):
                if self.cancelled:
                    break
            engine.frames += 1
            yield event
