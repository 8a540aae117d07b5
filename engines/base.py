"""The engine wall: what goes into an engine (`Plan`) and what comes out (`Speech`).

A `Plan` holds all chunks of one request and can be pickled, so an engine may run the chunks of many
jobs side by side or live in another process. A `Speech` is iterated once, by one thread. It yields
each chunk's `Frame`s in order, then that chunk's `End`; different chunks may interleave. Ordering,
repeating and joining them is the inference layer's work.

An engine knows nothing of requests, markup, loudness, formats or delivery.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from audio.pcm import SAMPLE_RATE, Samples
from text.chunks import Turn
from voices.catalogue import Voice

__all__ = [
    "SAMPLE_RATE",
    "Capabilities",
    "End",
    "Engine",
    "EngineSettings",
    "Frame",
    "Options",
    "Plan",
    "PlannedChunk",
    "Samples",
    "Speech",
    "Turn",
    "Voice",
]

EngineSettings = Mapping[str, Any]
"""The worker's settings of its engines, by the names of their fields; an engine reads those that it
knows. Secrets are `pydantic.SecretStr`, so that none is ever printed."""


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """Turns that are generated together, and the seed that they are generated with.

    Seed and attempt decide the samples. A second `attempt` differs from the first in how the words
    come out, never in the voice that says them.
    """

    turns: tuple[Turn, ...]
    seed: int
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Options:
    """How to generate. An engine without a knob ignores its value.

    A chunk may take max(`min_frames`, `frames_per_token` * its text's tokens) frames of 3200
    samples; what is longer ends as `cap`. Where `repeatable`, the same plan gives the same bits
    whatever else runs, which may cost speed; else it may differ in rounding. With `cfg_is_default`
    nobody asked for `cfg_scale`: an engine may know a better one for a chunk.
    """

    cfg_scale: float = 1.3
    steps: int = 10
    disable_prefill: bool = False
    frames_per_token: float = 4.0
    min_frames: int = 64
    repeatable: bool = True
    cfg_is_default: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All chunks of a request with the voices that their turns point to. A plan without chunks is
    silence; it is never given to an engine."""

    chunks: tuple[PlannedChunk, ...]
    voices: tuple[Voice, ...]
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        speakers = {turn.speaker for chunk in self.chunks for turn in chunk.turns}
        if not all(chunk.turns for chunk in self.chunks):
            raise ValueError("every chunk has turns")
        if not speakers <= set(range(len(self.voices))):
            raise ValueError(f"speakers {sorted(speakers)} need as many voices")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The next samples of a chunk, at `SAMPLE_RATE`."""

    chunk: int
    samples: Samples


@dataclass(frozen=True, slots=True)
class End:
    """The last event of a chunk: it ended by itself (`eos`), hit its length limit (`cap`) or has
    no audio at all (`empty`). `device_sec` is its share of the model's time in seconds: what moves
    several chunks on is divided among them. It is 0 where no model is at work."""

    chunk: int
    reason: Literal["eos", "cap", "empty"]
    seed: int
    device_sec: float = field(default=0.0, compare=False)


class Speech(Protocol):
    """The audio of a plan while it is made.

    Iteration raises `request.errors.EngineError` when the engine fails and
    `request.errors.Cancelled` after `cancel()`, which any thread may call, any number of times.
    Buffers are bounded, then spill to disk: a slow reader never stalls another job.
    """

    def __iter__(self) -> Iterator[Frame | End]: ...

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. `voices` are those that it brings itself, the default first; with
    `varies` another attempt at a chunk comes out differently, so a bad one is worth repeating;
    `jobs` is how many it is best given at a time; `languages` are BCP 47 tags that it speaks well;
    `details` say what an answer was made with (which model, on what), as far as it is loaded;
    `figures` what was counted and measured since then, by name; with `gpu` a loaded model is on
    one, so that `device_sec` costs money; with `in_caller` the work is done in the thread that
    iterates a `Speech`, on the CPU."""

    name: str
    cloning: bool
    voices: tuple[str, ...] = ()
    varies: bool = False
    jobs: int = 1
    gpu: bool = False
    in_caller: bool = False
    languages: tuple[str, ...] = ("en", "zh")
    details: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """A voice model behind the wall.

    `check` raises `EngineError` for what would keep `load` from working, without the work of it.
    `load` is idempotent and may be called from any thread.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def inspect(self) -> Capabilities:
        """`capabilities` as they are at this moment: may ask another process."""

    @property
    def ready(self) -> bool: ...

    @property
    def lost(self) -> bool:
        """Whether it will not work again soon: the worker is better replaced."""

    def check(self) -> None: ...

    def load(self) -> None: ...

    def start(self, plan: Plan) -> Speech: ...

    def close(self) -> None: ...
