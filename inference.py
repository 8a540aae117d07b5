"""The inference layer: text to chunks to engine to shaped audio to a file. Both doors use it.

`VibeVoiceInference.generate` runs a whole request off the event loop. Audio is spooled to disk, so
memory does not grow with its length: chunk by chunk it is trimmed, joined and measured, then read
once more to be levelled and encoded. Cancelling the awaiting task stops the engine.
"""

import asyncio
import secrets
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from config import Settings, on_runpod
from engines.base import End, Engine, Frame, Options, Plan, PlannedChunk, Speech
from engines.registry import choose_engine, create_engine
from speech.audio import Shaper
from speech.chunks import Limits, TextPlan, plan_text
from speech.codecs import FORMATS, Encoder, codec_rate
from speech.errors import Cancelled, EngineError
from speech.level import Level, LoudnessMeter, gain_to
from speech.pcm import SAMPLE_RATE, Resampler, Samples, silence
from speech.request import Defaults, SpeechRequest
from speech.voices import Voice, VoiceMapper

__all__ = ["Result", "SpokenChunk", "VibeVoiceInference", "VoiceMapper"]

_BLOCK = 1 << 16
"""Samples that are levelled and encoded at a time."""


@dataclass(frozen=True, slots=True)
class SpokenChunk:
    """A chunk's place in the caller's text (code points) and in the audio (seconds)."""

    index: int
    text_start: int
    text_end: int
    start_sec: float
    end_sec: float
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer: the file and what there is to say about it."""

    path: Path
    format: str
    content_type: str
    sample_rate: int
    duration_sec: float
    engine: str
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
        self.engine = engine or create_engine(choose_engine(settings.engine, on_runpod()))
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


@dataclass(slots=True)
class _Job:
    """One request on its way; `run` belongs to one thread, `cancel` may come from any."""

    inference: VibeVoiceInference
    request: SpeechRequest
    folder: Path
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _speech: Speech | None = None
    _marks: dict[str, float] = field(default_factory=dict)

    def cancel(self) -> None:
        self._cancelled.set()
        if self._speech is not None:
            self._speech.cancel()

    def run(self) -> Result:
        request, inference = self.request, self.inference
        self._mark("start")
        text = plan_text(request.text, inference.limits, request.pronunciations)
        voices, warnings = self._voices(text)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        plan = Plan(
            chunks=tuple(PlannedChunk(chunk.turns, seed) for chunk in text.chunks),
            voices=voices,
            options=Options(request.cfg_scale, request.steps, request.disable_prefill),
        )
        self._mark("planned")
        self._check()
        inference.load_model()
        self._mark("loaded")

        rate = codec_rate(request.output_format, inference.settings.default_sample_rate)
        with tempfile.TemporaryFile(dir=self.folder) as spool:
            joiner = _Joiner(text, rate, request.speed, spool)
            self._speak(plan, joiner)
            self._mark("spoken")
            gain_db = self._gain(joiner.meter, warnings)
            path = self._encode(spool, joiner.count, rate, gain_db)
        self._mark("encoded")

        duration = joiner.count / rate
        return Result(
            path=path,
            format=request.output_format,
            content_type=FORMATS[request.output_format].content_type,
            sample_rate=rate,
            duration_sec=round(duration, 6),
            engine=inference.engine.capabilities.name,
            voices=tuple(voice.name for voice in voices),
            speakers=text.speakers,
            seed=seed,
            gain_db=None if gain_db is None else round(gain_db, 2),
            chunks=tuple(joiner.spoken),
            timings=self._timings(duration),
            warnings=(*text.warnings, *warnings, *joiner.warnings),
        )

    def _voices(self, text: TextPlan) -> tuple[tuple[Voice, ...], list[str]]:
        """A voice for each speaker: as named, the first by `speaker_name`, others by turns."""
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
        return tuple(voices), list(dict.fromkeys(warnings))

    def _unused(self, voices: list[Voice]) -> str | None:
        names = self.inference.voices.names()
        taken = {voice.name for voice in voices}
        return next((name for name in names if name not in taken), None)

    def _speak(self, plan: Plan, joiner: "_Joiner") -> None:
        speech = self._speech = self.inference.engine.start(plan)
        try:
            self._check()
            for event in in_order(speech, self.folder):
                self._marks.setdefault("first_audio", time.monotonic())
                joiner.take(event)
            joiner.finish()
        finally:
            speech.cancel()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _gain(self, meter: LoudnessMeter, warnings: list[str]) -> float | None:
        if self.request.loudness is None:
            return None
        measured = meter.integrated()
        if measured is None:
            warnings.append("loudness: could not be measured, so the level is left as is")
            return None
        gain_db = gain_to(self.request.loudness, measured)
        if abs(measured + gain_db - self.request.loudness) > 0.01:
            warnings.append(f"loudness: reached {measured + gain_db:.1f} LUFS, no further")
        return gain_db

    def _encode(self, spool: IO[bytes], count: int, rate: int, gain_db: float | None) -> Path:
        entry = FORMATS[self.request.output_format]
        level = Level(rate, gain_db)
        encoder = Encoder(self.request.output_format, rate, count)
        path = self.folder / f"speech.{entry.extension}"
        spool.seek(0)
        with path.open("wb") as file:
            while block := spool.read(_BLOCK * 4):
                self._check()
                file.write(encoder.encode(level.feed(np.frombuffer(block, np.float32))))
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
            "first_audio_sec": marks["first_audio"] - marks["start"],
            "synthesis_sec": marks["spoken"] - marks["loaded"],
            "encode_sec": marks["encoded"] - marks["spoken"],
            "total_sec": total,
            "real_time_factor": total / duration,
        }
        return {name: round(value, 4) for name, value in phases.items()}


class _Joiner:
    """Shapes each chunk, sets the silences between, spools the whole and measures its loudness."""

    def __init__(self, text: TextPlan, rate: int, speed: float, spool: IO[bytes]) -> None:
        self.meter = LoudnessMeter(rate)
        self.count = 0
        self.warnings: list[str] = []
        self.spoken: list[SpokenChunk] = []
        self._text, self._rate, self._speed, self._spool = text, rate, speed, spool
        self._chunk: list[Samples] = []
        self._pause_ms = text.lead_ms
        self._begin()

    def _begin(self) -> None:
        self._resampler = Resampler(SAMPLE_RATE, self._rate)
        self._shaper = Shaper(self._rate, self._speed)
        self._chunk = []

    def take(self, event: Frame | End) -> None:
        """The next event, in chunk order."""
        if isinstance(event, Frame):
            self._add(self._shaper.feed(self._resampler.feed(event.samples)))
        else:
            self._add(self._shaper.feed(self._resampler.flush()))
            self._add(self._shaper.flush())
            self._end(event)

    def _add(self, samples: Samples) -> None:
        if len(samples):
            if not self._chunk:
                self._write(self._silence(self._pause_ms))
            self._chunk.append(samples)
            self._write(samples)

    def _end(self, end: End) -> None:
        chunk = self._text.chunks[end.chunk]
        length = sum(map(len, self._chunk))
        if length:
            self.meter.add(np.concatenate(self._chunk))
            self._pause_ms = chunk.pause_ms
        else:
            self.warnings.append(f"chunks[{end.chunk}]: came out without a sound")
        self.spoken.append(
            SpokenChunk(
                index=end.chunk,
                text_start=chunk.text_start,
                text_end=chunk.text_end,
                start_sec=round((self.count - length) / self._rate, 6),
                end_sec=round(self.count / self._rate, 6),
            )
        )
        self._begin()

    def finish(self) -> None:
        """Sets the last silence. Raises `EngineError` if the speech is not whole or not heard."""
        if len(self.spoken) != len(self._text.chunks):
            raise EngineError("the engine stopped before the end of the text")
        if not self.count:
            raise EngineError("the engine made no sound from this text")
        self._write(self._silence(self._pause_ms))

    def _silence(self, milliseconds: int) -> Samples:
        return silence(round(milliseconds * self._rate / 1000 / self._speed))

    def _write(self, samples: Samples) -> None:
        self._spool.write(samples.tobytes())
        self.count += len(samples)


def in_order(events: Iterable[Frame | End], folder: Path) -> Iterator[Frame | End]:
    """Puts interleaved chunks in order. The chunk whose turn it is passes at once; the others
    wait in temporary files."""
    turn = 0
    waiting: dict[int, _Waiting] = {}
    for event in events:
        if event.chunk != turn:
            waiting.setdefault(event.chunk, _Waiting(folder)).add(event)
            continue
        yield event
        while isinstance(event, End) and event.chunk == turn:
            turn += 1
            if turn in waiting:
                for event in waiting.pop(turn).events(turn):
                    yield event


class _Waiting:
    """Audio of a chunk whose turn has not come."""

    def __init__(self, folder: Path) -> None:
        self._audio = tempfile.SpooledTemporaryFile(max_size=1 << 20, dir=str(folder))  # noqa: SIM115
        self._end: End | None = None

    def add(self, event: Frame | End) -> None:
        if isinstance(event, End):
            self._end = event
        else:
            self._audio.write(event.samples.tobytes())

    def events(self, chunk: int) -> Iterator[Frame | End]:
        with self._audio:
            self._audio.seek(0)
            while block := self._audio.read(_BLOCK * 4):
                yield Frame(chunk, np.frombuffer(block, np.float32))
        if self._end is not None:
            yield self._end
