"""A request as a file: the stream of its parts, collected.

Every chunk is made before anything is levelled and joined, and repeated where it came out badly.
The takes are kept, so the same speech can be encoded again.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from audio.chunk_audio import KeptChunkAudio
from audio.codecs import FORMATS
from audio.loudness import LoudnessMeter, gain_to
from audio.pcm import silence
from audio.spool import Spool
from synthesis.parts import Context, PartEncoder, Parts, StreamOptions, hearing_of, load, spoken_of
from synthesis.plan import PlannedRequest
from synthesis.quality import Progress, QualityRetry
from synthesis.result import Result, Spoken, result_of

_BLOCK = 1 << 16
_LOUDNESS_MISS_DB = 1.0
"""A larger miss is said: high peaks keep quiet speech from being raised any further."""


@dataclass(frozen=True, slots=True, eq=False)
class SpeechFile:
    """A finished file, and the takes that it was made of: they can be encoded once more."""

    path: Path
    result: Result
    spoken: Spoken[KeptChunkAudio]

    @property
    def may_shrink(self) -> bool:
        """Whether its caller takes a smaller format."""
        return self.spoken.planned.smallest_format != self.result.format


def speak_file(context: Context, planned: PlannedRequest, progress: Progress) -> SpeechFile:
    """Speaks a plan into a file in the context's folder, every chunk as well as it comes out.
    Raises `EngineError` where nothing is to be heard."""
    spool = Spool(context.folder)
    try:
        spoken = _levelled(context, _record(context, planned, progress, spool))
        return _encoded(context, spoken, planned.request.output_format, spoken.level_sec)
    except BaseException:
        spool.close()  # its disk would be free only once the error's traceback is collected
        raise


def shrunk(context: Context, file: SpeechFile) -> SpeechFile:
    """The same takes in the smallest format that the request allows, in the context's folder."""
    large, name = file.path.stat().st_size / 1e6, file.spoken.planned.smallest_format
    note = f"output_format: {file.result.format} would have had {large:.1f} MB, so it is {name}"
    return _encoded(context, file.spoken, name, file.result.timings["encode_sec"], (note,))


def _encoded(
    context: Context,
    spoken: Spoken[KeptChunkAudio],
    name: str,
    spent_sec: float,
    notes: tuple[str, ...] = (),
) -> SpeechFile:
    """`spent_sec` went into levelling and encoding before."""
    path = context.folder / f"speech.{FORMATS[name].extension}"
    parts = _kept_parts(context, spoken, name, spent_sec, notes)
    with path.open("wb") as file:
        while True:
            try:
                part = next(parts)
                file.write(part.data)
                if part.is_last:
                    file.seek(0)
                    file.write(part.head)
            except StopIteration as end:
                return SpeechFile(path, end.value, spoken)


def _record(
    context: Context, planned: PlannedRequest, progress: Progress, spool: Spool
) -> Spoken[KeptChunkAudio]:
    """Speaks the whole plan, again where it came out badly."""
    model, retries = planned.model, context.services.settings.max_retries
    repeat = planned.request.verify == "repeat"
    with hearing_of(context, planned) as hearing:
        quality = QualityRetry(
            model.engine, model.pace, retries, context.token, progress, hearing, repeat
        )
        loading = load(context, planned, hearing)
        takes = quality.record(
            planned.plan, lambda: KeptChunkAudio(spool, planned.rate, planned.request.speed)
        )
        return spoken_of(context, planned, quality, takes, loading)


def _levelled(context: Context, spoken: Spoken[KeptChunkAudio]) -> Spoken[KeptChunkAudio]:
    """The same with its gain, by what is measured of all takes."""
    wanted, meter = spoken.planned.request.loudness, LoudnessMeter(spoken.planned.rate)
    if wanted is None:
        return spoken
    for each in spoken.takes:
        context.token.check()
        meter.add(np.concatenate([silence(0), *each.take.read()]))
    measured = meter.integrated()
    spoken.planned.model.loudness.remember(spoken.planned.cast, measured)
    level_sec = time.monotonic() - spoken.ended_at
    if measured is None and spoken.takes:
        note = "loudness: could not be measured, so the level is left as is"
        return replace(spoken, warnings=(*spoken.warnings, note), level_sec=level_sec)
    return replace(spoken, gain_db=gain_to(wanted, measured), level_sec=level_sec)


def _kept_parts(
    context: Context,
    spoken: Spoken[KeptChunkAudio],
    name: str,
    spent_sec: float,
    notes: tuple[str, ...],
) -> Parts:
    """The stream of takes that are all there."""
    began, planned = time.monotonic(), spoken.planned
    heard = None if spoken.gain_db is None else LoudnessMeter(planned.rate)
    longest_sec = StreamOptions().longest_part_sec
    out = PartEncoder(planned, name, spoken.gain_db, longest_sec, _BLOCK, heard)
    for each in spoken.takes:
        for block in each.take.read():
            context.token.check()
            yield from out.add(block)
        out.join.end_chunk()
    yield from out.close()
    encode_sec = spent_sec + time.monotonic() - began
    total_sec = spoken.ended_at - planned.asked_at + encode_sec
    notes = (*notes, *_missed(planned.request.loudness, heard))
    return result_of(context.services, spoken, out.join, name, encode_sec, total_sec, notes)


def _missed(wanted: float | None, heard: LoudnessMeter | None) -> list[str]:
    reached = heard.integrated() if heard else None
    if wanted is None or reached is None or abs(reached - wanted) <= _LOUDNESS_MISS_DB:
        return []
    return [f"loudness: {reached:.1f} LUFS were reached"]
