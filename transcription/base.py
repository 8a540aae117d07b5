"""The recogniser protocol: `Audio` and `Options` go into a recogniser, a `Transcript` comes out.

A `Transcript` is iterated once, by one thread, and yields the `Segment`s in order of their start.
It yields each as soon as it is final, so an hour of audio is never waited for as a whole.

A recogniser knows nothing of requests, formats of answers or delivery.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from audio.pcm import SAMPLE_RATE, Samples
from audio.spool import Extent

RecognizerSettings = Mapping[str, Any]
"""The settings of all recognisers, by field name; a recogniser reads its own."""

_BLOCK = 1 << 16


class Audio(Protocol):
    """Mono audio at `SAMPLE_RATE`, read in pieces. `audio.spool.Spool` is one, on disk.

    `count` is its length in samples. One thread reads at a time.
    """

    @property
    def count(self) -> int: ...

    def read(self, extent: Extent) -> Iterator[Samples]: ...


class Clip:
    """A short `Audio` in memory: (n,) samples at `SAMPLE_RATE`. Any thread may read it."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    @property
    def count(self) -> int:
        return len(self._samples)

    def read(self, extent: Extent) -> Iterator[Samples]:
        for at in range(*extent, _BLOCK):
            yield self._samples[at : min(at + _BLOCK, extent[1])]


def seconds_of(audio: Audio) -> float:
    """The duration of an `Audio` in seconds."""
    return audio.count / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it was heard. Times count from the audio's start; `probability` is 0 to 1."""

    text: str
    start_sec: float
    end_sec: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said without a longer break, of one speaker if speakers were asked for.

    `text` has no white space at its ends. `words` is empty unless words were asked for. `speaker`
    is the name of a known speaker, else `A`, `B` and so on in order of appearance, else None.
    A segment that is not `final` is a preview: a later final one takes its place.

    The last five are Whisper's measures of its own decoding. `avg_logprob` is the mean log
    probability of the `tokens`, `no_speech_prob` the probability that nobody speaks,
    `compression_ratio` the text's size through its compressed size. A recogniser without them
    leaves them as they are.
    """

    start_sec: float
    end_sec: float
    text: str
    words: tuple[Word, ...] = ()
    speaker: str | None = None
    final: bool = True
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 1.0
    temperature: float = 0.0
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class KnownSpeaker:
    """A speaker whose voice the caller gave: (n,) `samples` at `SAMPLE_RATE`, 2 s or more."""

    name: str
    samples: Samples = field(repr=False, default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Options:
    """Options of recognition. A recogniser ignores those that its `Capabilities` deny.

    `language` is an ISO 639-1 code; None lets the recogniser find out. `hotwords` are words that
    are likely to come, `prompt` is text that came before. `words` asks for the times of words,
    `speakers` for who said what, `translate` for English. Without `vad` silence is decoded too.
    `partials` also yields segments that are not final. `temperature` 0 decodes greedily and gives
    the same text every time; None lets the recogniser raise it where decoding fails.
    """

    language: str | None = None
    hotwords: tuple[str, ...] = ()
    prompt: str = ""
    words: bool = False
    speakers: bool = False
    known_speakers: tuple[KnownSpeaker, ...] = ()
    translate: bool = False
    temperature: float | None = None
    vad: bool = True
    partials: bool = False


class Transcript(Protocol):
    """The text of an `Audio` while it is being recognised: an iterator of `Segment`.

    `language` is an ISO 639-1 code, known from the first segment on; None where nothing was heard.
    `duration_sec` is the audio's. `heard_sec` says how far recognition is; any thread may read it.

    Iteration raises `request.errors.EngineError` when the recogniser fails and
    `request.errors.Cancelled` after `cancel()`, which any thread may call, any number of times.
    """

    @property
    def language(self) -> str | None: ...

    @property
    def duration_sec(self) -> float: ...

    @property
    def heard_sec(self) -> float: ...

    def __iter__(self) -> Iterator[Segment]: ...

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a recogniser can do, and what it has loaded.

    `model` names the model. `languages` are ISO 639-1 codes of what it understands. `longest_sec`
    bounds one clip; None where any length is taken. `details` name the loaded model and its
    device; they are empty before. `gpu`: the loaded model is on a GPU.
    """

    name: str
    model: str
    languages: tuple[str, ...]
    words: bool = False
    speakers: bool = False
    hotwords: bool = False
    translation: bool = False
    longest_sec: float | None = None
    gpu: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


class Recognizer(Protocol):
    """A speech recogniser.

    `load` is idempotent and may be called from any thread; it raises `EngineError`. `transcribe`
    begins no work: the thread that iterates the transcript does, and it loads what is not loaded.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def ready(self) -> bool: ...

    def load(self) -> None: ...

    def transcribe(self, audio: Audio, options: Options) -> Transcript: ...

    def close(self) -> None: ...
