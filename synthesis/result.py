"""What a stream gives: its start, its parts, its result. All are complete when they are built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from audio.chunk_audio import ChunkAudio, Join
from audio.codecs import FORMATS
from synthesis.plan import PlannedRequest, Services
from synthesis.quality import Flaw, Recorded


@dataclass(frozen=True, slots=True)
class StreamStart:
    """What is known before the first sound. `gain_db` is the stream's constant gain, or None."""

    voices: tuple[str, ...]
    seed: int
    gain_db: float | None
    sample_rate: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AudioPart:
    """The next bytes of the file. The last part may be empty. `count` samples of the answer have
    been encoded up to its end; the encoder may hold the last of them."""

    data: bytes
    sample_rate: int
    is_last: bool = False
    count: int = 0


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
    """What there is to say about a finished answer. `timings` are seconds by phase; `cost_usd` is
    what its share of the GPU costs, where there is one and its price is known."""

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
    timings: Mapping[str, float]
    warnings: tuple[str, ...]
    cost_usd: float | None = None

    @property
    def cost(self) -> dict[str, float]:
        """`gpu_sec` and `cost_usd`, as far as there are any."""
        found = {"gpu_sec": self.timings.get("gpu_sec"), "cost_usd": self.cost_usd}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a plan was spoken into: the takes that are kept, and when it came to what, in monotonic
    seconds. `device_sec` is the model's time for all attempts."""

    takes: Sequence[Recorded[ChunkAudio]]
    warnings: tuple[str, ...]
    started_at: float
    loaded_at: float
    first_audio_at: float
    spoken_at: float
    device_sec: float


def result_of(
    services: Services,
    planned: PlannedRequest,
    spoken: Spoken,
    join: Join,
    *,
    format_name: str,
    gain_db: float | None,
    encode_sec: float,
    total_sec: float,
    warnings: Sequence[str] = (),
) -> Result:
    """The facts for an answer in that format, of which `join` has the places."""
    capabilities, rate = services.engine.capabilities, planned.rate
    timings = {
        "plan_sec": planned.planned_at - planned.asked_at,
        "queue_sec": spoken.started_at - planned.planned_at,
        "load_sec": spoken.loaded_at - spoken.started_at,
        "first_audio_sec": spoken.first_audio_at - planned.asked_at,
        "synthesis_sec": spoken.spoken_at - spoken.loaded_at,
        "encode_sec": encode_sec,
        "total_sec": total_sec,
        "real_time_factor": total_sec / (join.count / rate),
    }
    if capabilities.gpu:
        timings["gpu_sec"] = spoken.device_sec
    price = services.settings.gpu_usd_per_second if capabilities.gpu else None
    return Result(
        format=format_name,
        content_type=FORMATS[format_name].content_type,
        sample_rate=rate,
        duration_sec=round(join.count / rate, 6),
        engine=capabilities.name,
        model=capabilities.details,
        voices=tuple(voice.name for voice in planned.plan.voices),
        speakers=planned.text.speakers,
        seed=planned.seed,
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
                zip(planned.text.chunks, join.starts, spoken.takes, strict=True)
            )
        ),
        timings={name: round(seconds, 4) for name, seconds in timings.items()},
        warnings=(*planned.warnings, *spoken.warnings, *warnings),
        cost_usd=None if price is None else round(round(spoken.device_sec, 4) * price, 6),
    )
