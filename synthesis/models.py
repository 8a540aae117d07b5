"""The models of a worker: each an engine, with its voices and what was learned of them.

An answer leases its model from its plan to its end. The engine comes and goes by the manager's
rules; voices, paces and levels stay.
"""

import asyncio
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

from audio.loudness import LoudnessMemory
from engines.base import (
    SAMPLE_RATE,
    Capabilities,
    Engine,
    Frame,
    Options,
    Plan,
    PlannedChunk,
    Turn,
)
from engines.manager import Lease, ModelManager
from engines.memory import Memory
from request.errors import Cancelled, VoiceError
from request.models import ModelNames
from text.pace import Pace
from voices.catalogue import NO_VOICE, VoiceMapper

_WARM_UP = Turn(0, "Hello.")
_WARM_UP_SAMPLES = round(0.3 * SAMPLE_RATE)
T = TypeVar("T")


@dataclass(eq=False)
class _Known:
    """What is known of a model, also while it is not loaded."""

    pace: Pace
    loudness: LoudnessMemory = field(default_factory=LoudnessMemory)
    voices: VoiceMapper | None = None
    capabilities: Capabilities | None = None
    loading: int = 0
    speaking: int = 0
    spent_sec: float = 0.0
    made_sec: float = 0.0
    first_audio_sec: deque[float] = field(default_factory=lambda: deque(maxlen=100))


class Model:
    """A model that an answer holds until `release`. A context manager."""

    def __init__(self, name: str, lease: Lease[Engine], known: _Known, voices: VoiceMapper) -> None:
        self.name = name
        self._lease, self._known, self._all_voices = lease, known, voices

    @property
    def engine(self) -> Engine:
        return self._lease.model

    @property
    def capabilities(self) -> Capabilities:
        """What the engine could do when it was last asked. The first call may take a while."""
        if self._known.capabilities is None:
            self._known.capabilities = self.engine.capabilities
        return self._known.capabilities

    async def asked(self) -> Capabilities:
        """The same without blocking."""
        if self._known.capabilities is None:
            await asyncio.to_thread(lambda: self.capabilities)
        return self.capabilities

    @property
    def voices(self) -> VoiceMapper:
        """Its voices: the engine's own, and the recordings."""
        if self._known.voices is None:
            engine = self.capabilities
            self._known.voices = self._all_voices.beside(
                engine.voices, clones=not engine.refuses_recordings
            )
        return self._known.voices

    @property
    def pace(self) -> Pace:
        return self._known.pace

    @property
    def loudness(self) -> LoudnessMemory:
        return self._known.loudness

    @property
    def ready(self) -> bool:
        return self._lease.ready

    def load(self) -> None:
        """Loads the engine if it is not loaded yet. Raises `EngineError`."""
        self._lease.load()

    async def loaded(self) -> None:
        """The same without blocking. A load goes on if this is cancelled: others may wait too."""
        if self.ready:
            return
        self._known.loading += 1
        try:
            await self._lease.loaded()
        finally:
            self._known.loading -= 1

    def warm_up(self) -> None:
        """Speaks for 300 ms, which nobody hears: an engine's first speech takes longer."""
        try:
            voice = self.voices.resolve(None)[0]
        except VoiceError:
            voice = NO_VOICE
        options = Options(min_frames=3, frames_per_token=0)
        speech = self.engine.start(Plan((PlannedChunk((_WARM_UP,), 0),), (voice,), options))
        count = 0
        try:
            for event in speech:
                count += len(event.samples) if isinstance(event, Frame) else 0
                if count >= _WARM_UP_SAMPLES:
                    speech.cancel()
        except Cancelled:
            pass

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Counts an answer as spoken, and no longer as waiting, while the block runs."""
        self._known.speaking += 1
        try:
            yield
        finally:
            self._known.speaking -= 1

    def note(self, timings: Mapping[str, float], duration_sec: float) -> None:
        """Learns from a finished answer how fast the model is."""
        known = self._known
        known.first_audio_sec.append(timings["first_audio_sec"] - timings["load_sec"])
        known.spent_sec += timings["synthesis_sec"]
        known.made_sec += duration_sec

    def release(self) -> None:
        self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Models:
    """The models of one worker, by id. Any thread may call anything.

    `create` makes an engine by its model's id; it is not loaded yet. `expected` is the memory that
    a model takes before that was measured.
    """

    def __init__(
        self,
        names: ModelNames,
        manager: ModelManager,
        create: Callable[[str], Engine],
        voices: VoiceMapper,
        pace: Callable[[], Pace],
        preloaded: tuple[str, ...] = (),
        expected: Callable[[str], Memory] = lambda _: Memory(),
    ) -> None:
        self.names, self.manager = names, manager
        self._voices = voices
        self._known = {name: _Known(pace()) for name in names.ids}
        for name in names.ids:
            manager.register(
                name,
                partial(create, name),
                fixed=name == self.default,
                preloaded=name in preloaded,
                expected=expected(name),
            )

    @property
    def default(self) -> str:
        return self.names.ids[0]

    def lease(self, name: str | None = None) -> Model:
        """Holds a model, by default the default. It returns at once; nothing is loaded. Raises
        `RequestError` for a name that means none."""
        name = self.names.resolve(name)
        return Model(name, self.manager.lease(name), self._known[name], self._voices)

    @property
    def waiting(self) -> int:
        """How many answers wait for a load of a model other than the default."""
        return sum(known.loading for name, known in self._known.items() if name != self.default)

    def pace(self, name: str | None) -> Pace:
        """How fast a model's voices speak."""
        return self._known[self.names.resolve(name)].pace

    def capabilities(self, name: str) -> Capabilities:
        """What a model can do. It may block, and start a process to ask it."""
        known = self._known[name]
        with self.lease(name) as model:
            if model.ready or name == self.default:
                known.capabilities = model.engine.inspect()
            return model.capabilities

    def figures(self) -> dict[str, dict[str, float]]:
        """What happened to each model so far, by id; recognisers are among them."""
        return {name: self.manager.usage(name).figures for name in self.manager.names}

    def described(self, name: str) -> dict[str, Any]:
        """A model as a router needs it. It may block."""
        engine, known, usage = self.capabilities(name), self._known[name], self.manager.usage(name)
        with self.lease(name) as model:
            voices = model.voices.names()
        first = known.first_audio_sec
        return {
            "id": name,
            "engine": engine.name,
            "default": name == self.default,
            "languages": list(engine.languages),
            "cloning": engine.cloning,
            "streaming": True,
            "voices": list(voices),
            "sample_rate": SAMPLE_RATE,
            "slots": engine.jobs,
            "resident": usage.resident,
            "memory_mb": round(usage.size.host / 2**20),
            "gpu_memory_mb": round(usage.size.gpu / 2**20),
            "queue_depth": max(0, usage.holds - known.speaking),
            "real_time_factor": round(known.spent_sec / known.made_sec, 4)
            if known.made_sec
            else None,
            "first_audio_ms_p50": round(statistics.median(first) * 1000) if first else None,
        }
