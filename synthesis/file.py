"""A request as a file: the stream of its parts, collected.

Every chunk is made before anything is levelled and joined, and repeated where it came out badly.
The takes are kept, so the same speech can be encoded again.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio.chunk_audio import Join, KeptChunkAudio, joined_count
from audio.codecs import FORMATS, Encoder
from audio.loudness import Level, LoudnessMeter, gain_to
from audio.pcm import Samples, silence
from audio.spool import Spool
from synthesis.cancel import CancelToken
from synthesis.parts import PartEncoder, Parts, StreamOptions, load, remember, spoken_of
from synthesis.plan import PlannedRequest, Services
from synthesis.quality import Progress, QualityRetry
from synthesis.result import Result, Spoken, result_of

_LOUDNESS_MISS_DB = 1.0
"""A larger miss is said: high peaks keep quiet speech from being raised any further."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Every chunk's best take, to be encoded any number of times. `level_sec` is how long it took
    to measure the level."""

    planned: PlannedRequest
    spoken: Spoken
    takes: tuple[KeptChunkAudio, ...]
    gain_db: float | None
    level_sec: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SpeechFile:
    """A finished file, and what it can be made of once more."""

    path: Path
    result: Result
    recording: Recording

    @property
    def may_shrink(self) -> bool:
        """Whether its caller takes a smaller format."""
        return self.recording.planned.smallest_format != self.result.format


def speak_file(
    services: Services,
    planned: PlannedRequest,
    token: CancelToken,
    progress: Progress,
    folder: Path,
) -> SpeechFile:
    """Speaks a plan into a file in `folder`, every chunk as well as it comes out."""
    recording = record(services, planned, token, progress, folder)
    name = planned.request.output_format
    parts = kept_parts(services, recording, name, token, recording.level_sec)
    return _collected(parts, recording, name, folder)


def shrunk(services: Services, file: SpeechFile, token: CancelToken) -> SpeechFile:
    """The same takes in the smallest format that the request allows, beside the other file."""
    recording, result = file.recording, file.result
    large = file.path.stat().st_size / 1e6
    name = recording.planned.smallest_format
    note = f"output_format: {result.format} would have had {large:.1f} MB, so it is {name}"
    spent_sec = result.timings["encode_sec"]
    parts = kept_parts(services, recording, name, token, spent_sec, (note,))
    return _collected(parts, recording, name, file.path.parent)


def _collected(parts: Parts, recording: Recording, name: str, folder: Path) -> SpeechFile:
    path = folder / f"speech.{FORMATS[name].extension}"
    with path.open("wb") as file:
        while True:
            try:
                file.write(next(parts).data)
            except StopIteration as end:
                return SpeechFile(path, end.value, recording)


def record(
    services: Services,
    planned: PlannedRequest,
    token: CancelToken,
    progress: Progress,
    folder: Path,
) -> Recording:
    """Speaks the whole plan, again where it came out badly. Raises `EngineError` where nothing is
    to be heard."""
    rate, spool = planned.rate, Spool(folder)
    started_at, loaded_at = load(services, planned, token)
    retries = services.settings.max_retries
    quality = QualityRetry(services.engine, services.pace, retries, token, progress)
    recorded = quality.record(
        planned.plan, lambda: KeptChunkAudio(spool, rate, planned.request.speed)
    )
    spoken = spoken_of(quality, recorded, started_at, loaded_at)
    takes = tuple(each.take for each in recorded)
    gain_db, warnings = None, list[str]()
    if planned.request.loudness is not None:
        measured = _measured(takes, rate, token)
        remember(services, planned, measured)
        if measured is None and takes:
            warnings.append("loudness: could not be measured, so the level is left as is")
        else:
            gain_db = gain_to(planned.request.loudness, measured)
    level_sec = time.monotonic() - spoken.spoken_at
    return Recording(planned, spoken, takes, gain_db, level_sec, tuple(warnings))


def kept_parts(
    services: Services,
    recording: Recording,
    format_name: str,
    token: CancelToken,
    spent_sec: float,
    notes: tuple[str, ...] = (),
) -> Parts:
    """Yields the file; returns what there is to say, `notes` included. `spent_sec` went into
    levelling and encoding before."""
    planned, rate, gain_db = recording.planned, recording.planned.rate, recording.gain_db
    began, pauses, heard = time.monotonic(), planned.pauses(), LoudnessMeter(rate)
    count = joined_count([take.count for take in recording.takes], pauses)
    encoder = Encoder(format_name, rate, count)
    out = PartEncoder(Level(rate, gain_db), encoder, rate, StreamOptions().longest_part_sec, heard)
    join = Join(pauses)
    for block in _joined(recording.takes, join):
        token.check()
        yield from out.add(block)
    yield out.close()
    encode_sec = spent_sec + time.monotonic() - began
    return result_of(
        services,
        planned,
        recording.spoken,
        join,
        format_name=format_name,
        gain_db=gain_db,
        encode_sec=encode_sec,
        total_sec=recording.spoken.spoken_at - planned.asked_at + encode_sec,
        warnings=(*recording.warnings, *notes, *_missed(planned, gain_db, heard.integrated())),
    )


def _joined(takes: Iterable[KeptChunkAudio], join: Join) -> Iterator[Samples]:
    for take in takes:
        for block in take.read():
            yield from join.feed(block)
        join.end_chunk()
    yield from join.finish()


def _missed(planned: PlannedRequest, gain_db: float | None, reached: float | None) -> list[str]:
    wanted = planned.request.loudness
    if gain_db is None or wanted is None or reached is None:
        return []
    is_close = abs(reached - wanted) <= _LOUDNESS_MISS_DB
    return [] if is_close else [f"loudness: {reached:.1f} LUFS were reached"]


def _measured(takes: Iterable[KeptChunkAudio], rate: int, token: CancelToken) -> float | None:
    meter = LoudnessMeter(rate)
    for take in takes:
        token.check()
        meter.add(np.concatenate([silence(0), *take.read()]))
    return meter.integrated()
