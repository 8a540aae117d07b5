"""A request's plan: its text in chunks, a voice for each speaker, a seed, the silences.

`plan_request` plans a text that is whole. A `GrowingPlan` plans one that comes section by section,
with one seed and one cast for all of it.
"""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from audio.codecs import FORMATS, bytes_a_second, codec_rate, formats_within
from audio.loudness import gain_to
from config import Settings
from delivery.answer import QUICKEST, allowed_instead
from engines.base import (
    Capabilities,
    GrowingSpeech,
    Options,
    Plan,
    PlannedChunk,
    Speech,
)
from engines.priority_lock import PriorityLock
from request.errors import EngineError, RequestError
from request.model import SpeechRequest
from synthesis.cancel import CancelToken
from synthesis.models import Model, Models
from synthesis.verify import Verifier
from text.chunks import Limits, TextPlan, plan_text
from text.reading import most_spoken
from voices.casting import Recording, cast, names_of, unmatched
from voices.catalogue import Voice

T = TypeVar("T")
Aside = Callable[[], AbstractAsyncContextManager[None]]
"""Where an answer waits for its model: a door may give its place to another meanwhile."""


class Services(Protocol):
    """What requests share: see `inference.VibeVoiceInference`."""

    settings: Settings
    models: Models
    limits: Limits
    cpu: PriorityLock
    verifier: Verifier | None

    def request_voice(self, request: SpeechRequest) -> tuple[Voice, list[str]]: ...

    def workspace(self) -> AbstractContextManager[str]: ...

    async def work(self, work: Callable[[], T], token: CancelToken) -> T: ...


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a text that is spoken by itself. `silence_ms` come before it, unless its text asks
    for another silence there. `plain`: words that need no cleaning. `joins`: it is spoken with the
    section before, as one text; `continues`: it begins within a sentence. Without text it ends what
    was joined."""

    text: str
    silence_ms: int = 0
    plain: bool = False
    continues: bool = False
    joins: bool = False


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A text as it will be spoken, by a model that its answer holds, and the section that it is.
    `plan` is what the engine gets; `lead_ms` of silence come before all chunks; `asked_at` and
    `planned_at` are monotonic seconds."""

    request: SpeechRequest
    model: Model = field(repr=False)
    section: Section
    text: TextPlan
    plan: Plan
    seed: int
    rate: int
    lead_ms: int
    warnings: tuple[str, ...]
    asked_at: float
    planned_at: float

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(voice.name for voice in self.plan.voices)

    @property
    def cast(self) -> str:
        """Who speaks, as the memory of levels knows them."""
        return "/".join(self.voices)

    @property
    def smallest_format(self) -> str:
        """The format that the answer may have where the asked one is too large."""
        may_shrink = self.request.allow_recompress and self.rate in FORMATS["opus"].rates
        return "opus" if may_shrink else self.request.output_format

    async def loaded(self, aside: Aside) -> float:
        """Waits, within `aside`, until the model is loaded. Gives the seconds. Raises
        `EngineError`, and what `aside` raises."""
        began = time.monotonic()
        if not self.plan.chunks or self.model.ready:  # silence needs no engine
            return 0.0
        async with aside():
            await self.model.loaded()
        return time.monotonic() - began

    def pauses(self) -> list[int]:
        """The silences asked for, in samples: before all chunks, then after each."""
        pauses = [self.lead_ms, *(chunk.pause_ms for chunk in self.text.chunks)]
        return [round(pause * self.rate / 1000 / self.request.speed) for pause in pauses]

    @property
    def joinable(self) -> str | None:
        """Its words, where it is one turn without a silence of its own; else None."""
        chunks, section = self.text.chunks, self.section
        if len(chunks) != 1 or len(chunks[0].turns) != 1 or chunks[0].pause_ms or self.text.lead_ms:
            return None
        return " ".join(section.text.split()) if section.plain else chunks[0].turns[0].text

    @property
    def growing_plan(self) -> Plan:
        """The plan of its one turn, as one that grows."""
        (chunk,) = self.plan.chunks
        turn = replace(chunk.turns[0], text=self.joinable or "")
        return replace(self.plan, chunks=(replace(chunk, turns=(turn,)),), grows=True)

    def chunk_sec(self, index: int) -> float:
        """How long one chunk should be, without the pause after it."""
        return self.model.pace.expected(*said(self.plan, index)) / self.request.speed

    def expected_sec(self) -> float:
        """How long the answer should be, with its pauses."""
        spoken = sum(self.chunk_sec(index) for index in range(len(self.text.chunks)))
        return spoken + sum(self.pauses()) / self.rate

    def expected_bytes(self) -> int:
        """How large its file should be, in the smallest format that it may take."""
        return round(self.expected_sec() * bytes_a_second(self.smallest_format, self.rate))

    def check_size(self, most: int) -> None:
        """Raises `RequestError` where its file should have more than `most` bytes."""
        name = self.request.output_format
        size = round(self.expected_sec() * bytes_a_second(name, self.rate))
        if size * QUICKEST > most:
            problem = (
                f"the audio will have about {size / 1e6:.1f} MB, and an answer carries at most"
                f" {most / 1e6:.1f} MB"
            )
            allowed = allowed_instead(formats_within(most, size, name, self.rate))
            raise RequestError(problem, "output_format", code="audio_too_large", allowed=allowed)

    def remembered_gain(self) -> float | None:
        """The gain for a stream, in dB: by what these voices measured before."""
        if self.request.loudness is None:
            return None
        return gain_to(self.request.loudness, self.model.loudness.recall(self.cast))


class GrowingText:
    """The text of a plan that grows, on its way to the engine. Any thread may call its methods."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lock = threading.Lock()
        self._unsent: list[str] = []
        self._finished = False
        self._speech: GrowingSpeech | None = None

    def feed(self, text: str) -> None:
        with self._lock:
            self.text += text
            if self._speech is None:
                self._unsent.append(text)
            else:
                self._speech.feed(text)

    def finish(self) -> None:
        with self._lock:
            self._finished = True
            if self._speech is not None:
                self._speech.finish()

    def attach(self, speech: Speech) -> None:
        """The engine's speech is there. Raises `EngineError` where it cannot grow."""
        if not isinstance(speech, GrowingSpeech):
            raise EngineError("the engine takes no text that grows")
        with self._lock:
            self._speech = speech
            for text in self._unsent:
                speech.feed(text)
            if self._finished:
                speech.finish()

    def whole(self, plan: Plan) -> Plan:
        """The plan with all of the text."""
        (chunk,) = plan.chunks
        turn = replace(chunk.turns[0], text=self.text)
        return replace(plan, chunks=(replace(chunk, turns=(turn,)),), grows=False)


def grows(engine: Capabilities, request: SpeechRequest) -> bool:
    """Whether a text that comes in pieces can be spoken as one. What is heard of a text is held
    against the plan, so that has to be whole; and only a whole word can be pronounced as asked."""
    return engine.streaming_text and not request.pronunciations and request.heard_for is None


def said(plan: Plan, index: int) -> tuple[str, str]:
    """Who says a chunk, as the pace knows them, and what."""
    turns = plan.chunks[index].turns
    voice = "/".join(sorted({plan.voices[turn.speaker].name for turn in turns}))
    return voice, " ".join(turn.text for turn in turns)


def language_of(request: SpeechRequest, engine: Capabilities) -> str | None:
    """The engine's tag of the language that a request asks for. Raises `RequestError` where the
    engine does not speak it."""
    if request.language is None:
        return None
    found = engine.language_of(request.language)
    if found is None:
        problem = f"{request.language!r} is no language of the model {engine.name}"
        raise RequestError(problem, "language", allowed=", ".join(engine.languages))
    return found


_UNLABELLED = -1
"""The number of who speaks before any label: none that a label can have."""


class GrowingPlan:
    """The plan of a request whose text comes section by section. Speakers keep their voices; a
    section without `Speaker N:` lines goes on with the speaker before. `recording` gives the voice
    that came with the request; with `grows` False the first section is all there is. `check` is
    called between the steps of planning, and may raise to end it."""

    def __init__(
        self,
        services: Services,
        model: Model,
        request: SpeechRequest,
        sample_rate: int | None = None,
        recording: Recording | None = None,
        grows: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.grows = grows
        self._check = check
        self._room = most_spoken(0)
        self._seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        self._services, self._model, self._request = services, model, request
        wanted = sample_rate or services.settings.default_sample_rate
        self._rate = codec_rate(request.output_format, wanted)
        self._recording = recording or (lambda: services.request_voice(request))
        self._voices: dict[int, Voice] = {}
        self._speakers: list[int] = []
        self._last = _UNLABELLED

    def add(self, section: Section, asked_at: float) -> PlannedRequest:
        """Plans the next section. Raises `RequestError`s."""
        request = self._request
        if request.heard_for and self._services.verifier is None:
            problem = "needs a recogniser, which this worker has not"
            raise RequestError(problem, request.heard_for, allowed="a request without it")
        # Of all sections together: else many short ones would each have the room of a text.
        room = self._room + most_spoken(len(section.text)) - most_spoken(0)
        limits, respelled = self._services.limits, request.pronunciations
        text = plan_text(section.text, limits, respelled, room, self._check)
        self._room = room - text.characters
        numbers = text.speakers or (self._last,)
        self._speakers += [number for number in text.speakers if number not in self._speakers]
        everyone = list(dict.fromkeys([*self._voices, *numbers]))
        names = names_of(request, self._speakers) if self._speakers else {}
        self._voices, warnings = cast(
            request, everyone, names, self._model.voices, self._recording, self._voices
        )
        if not self.grows:
            warnings += unmatched(request, text.speakers)
        if text.chunks:
            self._last = numbers[text.chunks[-1].turns[-1].speaker]
        return PlannedRequest(
            request=request,
            model=self._model,
            section=section,
            text=text,
            plan=Plan(
                chunks=tuple(PlannedChunk(chunk.turns, self._seed) for chunk in text.chunks),
                voices=tuple(self._voices[number] for number in numbers),
                options=Options(
                    request.cfg_scale,
                    request.steps,
                    request.disable_prefill,
                    repeatable=request.seed is not None,
                    cfg_is_default="cfg_scale" not in request.model_fields_set,
                    steps_is_default="steps" not in request.model_fields_set,
                    language=language_of(request, self._model.capabilities),
                ),
            ),
            seed=self._seed,
            rate=self._rate,
            lead_ms=text.lead_ms or section.silence_ms,
            warnings=(*text.warnings, *warnings),
            asked_at=asked_at,
            planned_at=time.monotonic(),
        )


def plan_request(
    services: Services,
    model: Model,
    request: SpeechRequest,
    asked_at: float,
    recording: Recording | None = None,
    check: Callable[[], None] = lambda: None,
) -> PlannedRequest:
    """Plans a text that is whole. Raises `RequestError`s, before any other work. `check` as in
    `GrowingPlan`."""
    plan = GrowingPlan(services, model, request, recording=recording, grows=False, check=check)
    return plan.add(Section(request.text), asked_at)
