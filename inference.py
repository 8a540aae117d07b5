"""The inference layer: text to chunks to engine to shaped audio to a file. Both doors use it.

`VibeVoiceInference.generate` runs a whole request off the event loop. Chunks are shaped as their
frames come and spooled to disk, so memory does not grow with the audio; a chunk that came out badly
is repeated; then all are measured, joined, levelled and encoded. Cancelling the awaiting task stops
the engine.
"""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import Settings, on_runpod
from engines.base import Engine, Options, Plan, PlannedChunk
from engines.registry import choose_engine, create_engine
from recorder import Flaw, Recorder
from speech.chunks import Limits, TextPlan, plan_text
from speech.codecs import FORMATS, Encoder, codec_rate
from speech.level import Level, LoudnessMeter, gain_to
from speech.pace import Pace
from speech.pcm import silence
from speech.request import Defaults, SpeechRequest
from speech.takes import Join, Take
from speech.voices import Voice, VoiceMapper

__all__ = ["Result", "SpokenChunk", "VibeVoiceInference", "VoiceMapper"]


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
    """A finished answer: the file and what there is to say about it."""

    path: Path
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


class VibeVoiceInference:
    """Speech from requests. Safe to use from many tasks at once; the engine decides what runs
    side by side. `close` ends the engine and removes the temporary folder."""

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.engine = engine or _engine(settings)
        self.limits = Limits(
            settings.max_chunk_chars,
            settings.min_last_chunk_chars,
            settings.chunk_silence_ms,
            settings.paragraph_silence_ms,
        )
        self.defaults = Defaults(
            settings.max_text_length, settings.default_cfg_scale, settings.target_lufs
        )
        self.voices = VoiceMapper(
            settings.audio_prompts_dir,
            default=settings.default_speaker,
            builtin=self.engine.capabilities.voices,
            strict=settings.strict_voices,
        )
        self.pace = Pace(settings.pace_tolerance)
        self._folder = tempfile.TemporaryDirectory(prefix="vibevoice-")

    def load_model(self) -> None:
        """Loads the engine if that has not happened yet."""
        self.engine.load()

    def workspace(self) -> "tempfile.TemporaryDirectory[str]":
        """A folder for one job; it goes with the job, at the latest with `close`."""
        return tempfile.TemporaryDirectory(dir=self._folder.name)

    def close(self) -> None:
        self.engine.close()
        self._folder.cleanup()

    async def generate(self, request: SpeechRequest, folder: Path) -> Result:
        """Speaks a request into a file in `folder`.

        Raises `SpeechError`s. A cancelled task ends the engine's work before it is re-raised.
        """
        job = _Job(self, request, folder)
        work = asyncio.create_task(asyncio.to_thread(job.run))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            job.cancel()
            await asyncio.wait([work])
            work.exception()  # asked for, so that asyncio does not report it as forgotten
            raise


def _engine(settings: Settings) -> Engine:
    return create_engine(
        choose_engine(settings.engine, on_runpod()),
        model=settings.model_path,
        code=settings.vibevoice_code,
        volume=settings.vibevoice_volume,
        hub_cache=settings.hf_hub_cache,
        token=settings.hf_token.get_secret_value() if settings.hf_token else None,
    )


class _Job:
    """One request on its way; `run` belongs to one thread, `cancel` may come from any."""

    def __init__(self, inference: VibeVoiceInference, request: SpeechRequest, folder: Path) -> None:
        self.inference, self.request, self.folder = inference, request, folder
        self._recorder = Recorder(inference.engine, inference.pace, inference.settings.max_retries)
        self._warnings: list[str] = []
        self._marks: dict[str, float] = {}

    def cancel(self) -> None:
        self._recorder.cancel()

    def run(self) -> Result:
        request, inference = self.request, self.inference
        self._mark("start")
        text = plan_text(request.text, inference.limits, request.pronunciations)
        self._warnings += text.warnings
        voices = self._voices(text)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        plan = Plan(
            chunks=tuple(PlannedChunk(chunk.turns, seed) for chunk in text.chunks),
            voices=voices,
            options=Options(request.cfg_scale, request.steps, request.disable_prefill),
        )
        self._mark("planned")
        self._recorder.check()
        inference.load_model()
        self._mark("loaded")

        rate = codec_rate(request.output_format, inference.settings.default_sample_rate)
        with tempfile.TemporaryFile(dir=self.folder) as spool:
            recorded = self._recorder.record(plan, lambda: Take(spool, rate, request.speed))
            self._warnings += self._recorder.warnings
            self._mark("spoken")
            takes = [each.take for each in recorded]
            pauses = [text.lead_ms, *(chunk.pause_ms for chunk in text.chunks)]
            silences = [round(pause * rate / 1000 / request.speed) for pause in pauses]
            join = Join.of(takes, silences)
            gain_db = self._gain(takes, rate)
            path = self._encode(join, rate, gain_db)
        self._mark("encoded")

        duration = join.count / rate
        return Result(
            path=path,
            format=request.output_format,
            content_type=FORMATS[request.output_format].content_type,
            sample_rate=rate,
            duration_sec=round(duration, 6),
            engine=inference.engine.capabilities.name,
            model=inference.engine.capabilities.details,
            voices=tuple(voice.name for voice in voices),
            speakers=text.speakers,
            seed=seed,
            gain_db=None if gain_db is None else round(gain_db, 2),
            chunks=tuple(
                SpokenChunk(
                    index=index,
                    text_start=chunk.text_start,
                    text_end=chunk.text_end,
                    start_sec=round(start / rate, 6),
                    end_sec=round((start + each.take.count) / rate, 6),
                    attempts=each.attempts,
                    truncated=each.flaw == Flaw.CUT,
                )
                for index, (chunk, start, each) in enumerate(
                    zip(text.chunks, join.starts, recorded, strict=True)
                )
            ),
            timings=self._timings(duration),
            warnings=tuple(self._warnings),
        )

    def _voices(self, text: TextPlan) -> tuple[Voice, ...]:
        """A voice for each speaker: as named, the first by `speaker_name`, others still free."""
        request, mapper = self.request, self.inference.voices
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
        voices: list[Voice] = []
        for number in numbers:
            if number in named:
                voice, notes = mapper.resolve(named[number], f"speakers.{number}")
            elif voices:
                voice, notes = mapper.resolve(self._unused(voices))
            else:
                voice, notes = mapper.resolve(request.speaker_name)
            voices.append(voice)
            warnings += notes
        self._warnings += dict.fromkeys(warnings)
        return tuple(voices)

    def _unused(self, voices: list[Voice]) -> str | None:
        names = self.inference.voices.names()
        taken = {voice.name for voice in voices}
        return next((name for name in names if name not in taken), None)

    def _gain(self, takes: Sequence[Take], rate: int) -> float | None:
        if self.request.loudness is None:
            return None
        meter = LoudnessMeter(rate)
        for take in takes:
            meter.add(np.concatenate([silence(0), *take.read()]))
        measured = meter.integrated()
        if measured is None:
            self._warnings.append("loudness: could not be measured, so the level is left as is")
            return None
        gain_db = gain_to(self.request.loudness, measured)
        if abs(measured + gain_db - self.request.loudness) > 0.01:
            self._warnings.append(f"loudness: reached {measured + gain_db:.1f} LUFS, no further")
        return gain_db

    def _encode(self, join: Join, rate: int, gain_db: float | None) -> Path:
        entry = FORMATS[self.request.output_format]
        level = Level(rate, gain_db)
        encoder = Encoder(entry.name, rate, join.count)
        path = self.folder / f"speech.{entry.extension}"
        with path.open("wb") as file:
            for block in join.read():
                self._recorder.check()
                file.write(encoder.encode(level.feed(block)))
            file.write(encoder.encode(level.flush()))
            file.write(encoder.close())
        return path

    def _mark(self, name: str) -> None:
        self._marks[name] = time.monotonic()

    def _timings(self, duration: float) -> dict[str, float]:
        """Seconds, by phase."""
        marks = self._marks
        total = marks["encoded"] - marks["start"]
        phases = {
            "plan_sec": marks["planned"] - marks["start"],
            "load_sec": marks["loaded"] - marks["planned"],
            "first_audio_sec": (self._recorder.first_audio or marks["spoken"]) - marks["start"],
            "synthesis_sec": marks["spoken"] - marks["loaded"],
            "encode_sec": marks["encoded"] - marks["spoken"],
            "total_sec": total,
            "real_time_factor": total / duration,
        }
        return {name: round(value, 4) for name, value in phases.items()}
