"""One request on its way from text to a finished file or to a stream of bytes.

`Job` holds what both ways share: the plan, the voices, the facts for the answer. `file_job.FileJob`
makes every chunk before it levels, joins and encodes; `stream.StreamJob` lets each frame go as it
comes. A job runs in one thread; `cancel` may come from any.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from audio.chunk_audio import ChunkAudio
from audio.codecs import FORMATS, codec_rate
from audio.loudness import LoudnessMemory, gain_to
from config import Settings
from engines.base import Engine, Options, Plan, PlannedChunk
from engines.priority_lock import PriorityLock
from request.model import SpeechRequest
from synthesis.quality import Flaw, Progress, QualityRetry, Recorded
from text.chunks import Limits, TextPlan, plan_text
from text.pace import Pace
from voices.catalogue import Voice, VoiceMapper
from voices.request_voices import RequestVoices


@dataclass(frozen=True, slots=True)
class SpokenChunk:
    """A chunk's place in the caller's text (code points) and in the audio (seconds), and how it
    came out: `truncated` means that it hit its length limit, in the best of its `attempts`."""

    index: int
    text_start: int
    text_end: int
    start_sec: float
    end_sec: float
    attempts: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What there is to say about a finished answer. `cost_usd` is what its share of the GPU costs,
    where there is one and its price is known."""

    format: str
    content_type: str
    sample_rate: int
    duration_sec: float
    engine: str
    model: Mapping[str, str]
    voices: tuple[str, ...]
    speakers: tuple[int, ...]
    seed: int
    gain_db: float | None
    chunks: tuple[SpokenChunk, ...]
    timings: dict[str, float]
    warnings: tuple[str, ...]
    cost_usd: float | None = None

    @property
    def cost(self) -> dict[str, float]:
        """`gpu_sec` and `cost_usd`, as far as there are any."""
        found = {"gpu_sec": self.timings.get("gpu_sec"), "cost_usd": self.cost_usd}
        return {name: value for name, value in found.items() if value is not None}


class Services(Protocol):
    """What jobs share: see `inference.VibeVoiceInference`."""

    settings: Settings
    engine: Engine
    limits: Limits
    voices: VoiceMapper
    pace: Pace
    loudness: LoudnessMemory
    guests: RequestVoices
    cpu: PriorityLock

    def load_model(self) -> None: ...

    def fetch_voice(self, url: str) -> bytes: ...


class Job:
    """What every way to serve a request begins and ends with."""

    def __init__(
        self,
        services: Services,
        request: SpeechRequest,
        progress: Progress | None = None,
        sample_rate: int | None = None,
    ) -> None:
        self.services, self.request = services, request
        self.quality = QualityRetry(services.engine, services.pace, services.settings.max_retries)
        self.quality.progress = progress or self.quality.progress
        self.seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        self.guest: tuple[Voice, list[str]] | None = None
        self.lead_ms = 0
        self.warnings: list[str] = []
        self.format: str = request.output_format
        wanted = sample_rate or services.settings.default_sample_rate
        self.rate = codec_rate(request.output_format, wanted)
        self._marks = {"asked": time.monotonic()}

    def cancel(self) -> None:
        self.quality.cancel()
        self.services.cpu.wake()

    def plan(self, folder: Path) -> None:
        """Plans the text and finds the voices. Raises `RequestError`s, before any other work."""
        request = self.request
        text = plan_text(request.text, self.services.limits, request.pronunciations)
        self.warnings += text.warnings
        self._text = text
        self._plan = Plan(
            chunks=tuple(PlannedChunk(chunk.turns, self.seed) for chunk in text.chunks),
            voices=self._voices(text, folder),
            options=Options(
                request.cfg_scale,
                request.steps,
                request.disable_prefill,
                repeatable=request.seed is not None,
                cfg_is_default="cfg_scale" not in request.model_fields_set,
            ),
        )
        self.quality.progress.chunks_total = len(text.chunks)
        self.mark("planned")

    def expected_sec(self) -> float:
        """How long the answer should be, with its pauses. To be asked once it is planned."""
        paused_ms = self._text.lead_ms + sum(chunk.pause_ms for chunk in self._text.chunks)
        spoken = sum(map(self.expected_chunk_sec, range(len(self._text.chunks))))
        return spoken + paused_ms / 1000 / self.request.speed

    def expected_chunk_sec(self, index: int) -> float:
        """How long one chunk should be, without the pause after it."""
        return self.quality.expected_sec(self._plan, index) / self.request.speed

    def prepare(self) -> tuple[TextPlan, Plan]:
        """Loads the engine for what was planned."""
        self.mark("start")
        self.quality.check()
        if self._plan.chunks:  # silence needs no engine
            self.services.load_model()
        self.mark("loaded")
        return self._text, self._plan

    def pauses(self, text: TextPlan) -> list[int]:
        """The silences asked for, in samples: before all chunks, then after each."""
        pauses = [text.lead_ms or self.lead_ms, *(chunk.pause_ms for chunk in text.chunks)]
        return [round(pause * self.rate / 1000 / self.request.speed) for pause in pauses]

    def remembered_gain(self, plan: Plan) -> float | None:
        """The gain for a stream, in dB: by what these voices measured before."""
        if self.request.loudness is None:
            return None
        return gain_to(self.request.loudness, self.services.loudness.recall(_cast(plan)))

    def remember_loudness(self, plan: Plan, measured: float | None) -> None:
        if measured is not None:
            self.services.loudness.remember(_cast(plan), measured)

    def result(
        self,
        text: TextPlan,
        plan: Plan,
        recorded: Sequence[Recorded[ChunkAudio]],
        starts: Sequence[int],
        count: int,
        gain_db: float | None,
    ) -> Result:
        """The facts for the answer. `starts` and `count` are in samples."""
        capabilities = self.services.engine.capabilities
        timings, price = self._timings(count / self.rate), self.services.settings.gpu_usd_per_second
        gpu_sec = timings.get("gpu_sec")
        return Result(
            format=self.format,
            content_type=FORMATS[self.format].content_type,
            sample_rate=self.rate,
            duration_sec=round(count / self.rate, 6),
            engine=capabilities.name,
            model=capabilities.details,
            voices=tuple(voice.name for voice in plan.voices),
            speakers=text.speakers,
            seed=self.seed,
            gain_db=None if gain_db is None else round(gain_db, 2),
            chunks=tuple(
                SpokenChunk(
                    index=index,
                    text_start=chunk.text_start,
                    text_end=chunk.text_end,
                    start_sec=round(start / self.rate, 6),
                    end_sec=round((start + each.take.count) / self.rate, 6),
                    attempts=each.attempts,
                    truncated=each.flaw == Flaw.CUT,
                )
                for index, (chunk, start, each) in enumerate(
                    zip(text.chunks, starts, recorded, strict=True)
                )
            ),
            timings=timings,
            warnings=(*self.warnings, *self.quality.warnings),
            cost_usd=None if gpu_sec is None or price is None else round(gpu_sec * price, 6),
        )

    def _voices(self, text: TextPlan, folder: Path) -> tuple[Voice, ...]:
        """A voice for each speaker: as named, the first by `speaker_name`, others still free."""
        request, mapper = self.request, self.services.voices
        numbers = text.speakers or (0,)
        named: dict[int, str] = {}
        warnings: list[str] = []
        if request.speakers and not text.speakers:
            warnings.append("speakers: ignored, since the text has no `Speaker N:` lines")
        elif isinstance(request.speakers, dict):
            named = request.speakers
            missing = sorted(set(named) - set(numbers))
            warnings += [f"speakers: the text has no lines of Speaker {n}" for n in missing]
        elif request.speakers:
            named = dict(zip(numbers, request.speakers, strict=False))
            if len(request.speakers) > len(numbers):
                warnings.append(f"speakers: the text has lines of {len(numbers)} speakers only")
        voices: dict[int, Voice] = {}
        for number in named.keys() & set(numbers):
            voices[number], notes = mapper.resolve(named[number], f"speakers.{number}")
            warnings += notes
        first = numbers[0]
        if first not in voices and (request.voice_url or request.voice_base64):
            voices[first], notes = self._guest(folder)
            if request.speaker_name:
                notes = [*notes, "speaker_name: ignored, since a recording is given"]
            warnings += notes
        elif first not in voices and (request.speaker_name or len(numbers) == 1):
            voices[first], notes = mapper.resolve(request.speaker_name)
            warnings += notes
        for number in numbers:
            if number not in voices:
                name, note = self._unused(voices, number)
                voices[number], notes = mapper.resolve(name)
                warnings += [*note, *notes]
        self.warnings += dict.fromkeys(warnings)
        return tuple(voices[number] for number in numbers)

    def _unused(self, voices: Mapping[int, Voice], number: int) -> tuple[str | None, list[str]]:
        """A name for a speaker who was given none, and a warning where the voices run out. The
        default voice comes first (None), then the others in their order."""
        taken = {voice.name for voice in voices.values()}
        default, _ = self.services.voices.resolve(None)
        if default.name not in taken:
            return None, []
        free = [name for name in self.services.voices.names() if name not in taken]
        if free:
            return free[0], []
        return None, [f"speakers: there are too few voices, so Speaker {number} shares one"]

    def _guest(self, folder: Path) -> tuple[Voice, list[str]]:
        """The voice that came with the request, and warnings."""
        if self.guest is None:
            data, field = self.request.voice_base64, "voice_base64"
            if not data:
                data, field = self.services.fetch_voice(self.request.voice_url or ""), "voice_url"
            self.guest = self.services.guests.resolve(data, folder, field)
        return self.guest

    def mark(self, name: str) -> None:
        self._marks[name] = time.monotonic()

    def extend(self, name: str, seconds: float) -> None:
        """For work of a phase that came after something else."""
        self._marks[name] += seconds

    def _timings(self, duration: float) -> dict[str, float]:
        """Seconds, by phase."""
        marks = self._marks
        total = marks["encoded"] - marks["asked"]
        phases = {
            "plan_sec": marks["planned"] - marks["asked"],
            "queue_sec": marks["start"] - marks["planned"],
            "load_sec": marks["loaded"] - marks["start"],
            "first_audio_sec": (self.quality.first_audio or marks["spoken"]) - marks["asked"],
            "synthesis_sec": marks["spoken"] - marks["loaded"],
            "encode_sec": marks["encoded"] - marks["spoken"],
            "total_sec": total,
            "real_time_factor": total / duration,
        }
        if self.services.engine.capabilities.gpu:
            phases["gpu_sec"] = self.quality.device_sec
        return {name: round(value, 4) for name, value in phases.items()}


def _cast(plan: Plan) -> str:
    return "/".join(voice.name for voice in plan.voices)
