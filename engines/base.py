"""The engine protocol: a `Plan` goes into an engine, and a `Speech` comes out.

A `Plan` holds all chunks of one request and can be pickled. So an engine may run the chunks of many
requests side by side, or live in another process. A `Speech` is iterated once, by one thread. It
yields each chunk's `Frame`s in order, then that chunk's `End`. Different chunks may interleave.
`synthesis/` orders, repeats and joins them.

An engine knows nothing of requests, markup, loudness, formats or delivery.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

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
    "GrowingSpeech",
    "Options",
    "Plan",
    "PlannedChunk",
    "Reason",
    "Samples",
    "Speech",
    "Turn",
    "Voice",
]

EngineSettings = Mapping[str, Any]
"""The settings of all engines, by field name; an engine reads its own. Secrets are
`pydantic.SecretStr`, so that none is ever printed."""


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
    """Options of generation. An engine ignores those that it does not have.

    A chunk has at most max(`min_frames`, `frames_per_token` * its text's tokens) frames of 3,200
    samples; a longer one is cut and ends as `cap`. With `repeatable` the same plan gives the same
    bits whatever else runs, which may cost speed. Otherwise results may differ in rounding.
    `cfg_scale` is the scale of classifier-free guidance. With `cfg_is_default` the caller gave
    none, and an engine may choose a better one for a chunk; so it may with `steps_is_default`.
    `language` is the language of the text, one of the engine's `Capabilities.languages`; with None
    the text and the voice tell it.
    """

    cfg_scale: float = 1.3
    steps: int = 10
    disable_prefill: bool = False
    frames_per_token: float = 4.0
    min_frames: int = 64
    repeatable: bool = True
    cfg_is_default: bool = False
    steps_is_default: bool = False
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All chunks of a request, with the voices that their turns refer to.

    A plan without chunks is silence and never reaches an engine. With `grows` it has one chunk of
    one turn, whose text goes on by `GrowingSpeech.feed`: only for an engine with `streaming_text`.
    """

    chunks: tuple[PlannedChunk, ...]
    voices: tuple[Voice, ...]
    options: Options = field(default_factory=Options)
    grows: bool = False

    def __post_init__(self) -> None:
        if self.grows and [len(chunk.turns) for chunk in self.chunks] != [1]:
            raise ValueError("a plan that grows has one turn")
        speakers = {turn.speaker for chunk in self.chunks for turn in chunk.turns}
        if not all(chunk.turns for chunk in self.chunks):
            raise ValueError("every chunk has turns")
        if not speakers <= set(range(len(self.voices))):
            raise ValueError(f"speakers {sorted(speakers)} need as many voices")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The next (n,) samples of a chunk, at `SAMPLE_RATE`. `chunk` is its index in the plan."""

    chunk: int
    samples: Samples


Reason = Literal["eos", "cap", "early", "empty"]


@dataclass(frozen=True, slots=True)
class End:
    """The last event of a chunk.

    `reason` is `eos` (the model ended it), `cap` (it reached its length limit), `early` (the model
    ended it before it had read all of the text) or `empty` (it has no audio). `device_sec` is the
    chunk's share of the model's time in seconds: the time of a step is divided among its chunks. It
    is 0 for an engine without a model.
    """

    chunk: int
    reason: Reason
    seed: int
    device_sec: float = field(default=0.0, compare=False)


class Speech(Protocol):
    """The audio of a plan while it is being generated: an iterator of `Frame` and `End`.

    Iteration raises `request.errors.EngineError` when the engine fails and
    `request.errors.Cancelled` after `cancel()`, which any thread may call, any number of times.
    Buffers in memory are bounded and spill to disk, so a slow reader never stalls another speech.
    """

    def __iter__(self) -> Iterator[Frame | End]: ...

    def cancel(self) -> None: ...


@runtime_checkable
class GrowingSpeech(Speech, Protocol):
    """The speech of a plan that grows. Any thread may call these methods, one at a time.

    However the text is split, the samples are those of the whole text. The iteration waits where
    the text is too short to go on.
    """

    def feed(self, text: str) -> None:
        """Appends text. After the end of the speech it is ignored."""

    def finish(self) -> None:
        """Ends the text."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, and what it has loaded.

    `voices` are its built-in voices, the default first. `varies`: another attempt at a chunk sounds
    different, so a bad take is worth repeating. `jobs` is the best number of plans at a time.
    `languages` are BCP 47 tags of the languages that it speaks well; none where that is not known.
    `details` name the loaded model and its device; they are empty before. `figures` are counters
    and measurements by name. `gpu`: the loaded model is on a GPU, so `device_sec` costs money.
    `in_caller`: the work is done on the CPU, in the thread that iterates a `Speech`.
    `streaming_text`: it speaks plans that grow. `refuses_recordings`: it speaks by its own voices
    alone, and raises `VoiceError` for a voice with samples.
    """

    name: str
    cloning: bool
    voices: tuple[str, ...] = ()
    varies: bool = False
    jobs: int = 1
    gpu: bool = False
    in_caller: bool = False
    streaming_text: bool = False
    refuses_recordings: bool = False
    languages: tuple[str, ...] = ("en", "zh")
    details: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def language_of(self, tag: str) -> str | None:
        """The one of `languages` that a tag asks for; None if there is none.

        RFC 4647 lookup: `de-AT-1901` means `de-AT`, else `de`; else the first of that language,
        such as `en-US` for `en-AU`. Where the languages are not known, the tag itself.
        """
        if not self.languages:
            return tag
        parts = tag.lower().split("-")
        for count in range(len(parts), 0, -1):
            for language in self.languages:
                if language.lower() == "-".join(parts[:count]):
                    return language
        same = (each for each in self.languages if each.lower().split("-")[0] == parts[0])
        return next(same, None)


class Engine(Protocol):
    """A speech engine.

    `check` raises `EngineError` where `load` would fail, and loads nothing.
    `load` is idempotent and may be called from any thread.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def inspect(self) -> Capabilities:
        """The current `capabilities`. It may block, because it may ask another process."""

    @property
    def ready(self) -> bool: ...

    @property
    def lost(self) -> bool:
        """Whether the engine will not work again soon, so that the worker should be replaced."""

    def check(self) -> None: ...

    def load(self) -> None: ...

    def start(self, plan: Plan) -> Speech: ...

    def close(self) -> None: ...
