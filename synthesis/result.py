"""What a stream gives: its start, its parts, its result. All are complete when they are built."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from audio.chunk_audio import ChunkAudio, Join
from audio.codecs import FORMATS
from synthesis.plan import PlannedRequest, Services
from synthesis.quality import AnyAudio, Flaw, Recorded
from synthesis.verify import SpokenWord, spoken_words
from text.subtitles import ShownWord, subtitles


@dataclass(frozen=True, slots=True)
class StreamStart:
    """What is known before the first sound. `gain_db` is the stream's constant gain, or None.
    `size` is the whole file in bytes, where it is finished already."""

    engine: str
    voices: tuple[str, ...]
    seed: int
    gain_db: float | None
    sample_rate: int
    warnings: tuple[str, ...]
    size: int | None = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    """The next bytes of the file. The last part may be empty. `count` samples of the answer have
    been encoded up to its end; the encoder may hold the last of them. `head` comes with the last
    part: a file that can be rewound gets it in place of its first bytes."""

    data: bytes
    sample_rate: int
    is_last: bool = False
    count: int = 0
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class HeardChunk:
    """What was heard of a chunk of a stream: its facts, and the caller's words with their times.
    Both are empty where hearing failed, which `warning` says then. Of a text in sections, `section`
    counts them from 0; places and times are the section's."""

    index: int
    facts: Mapping[str, Any]
    words: tuple[SpokenWord, ...]
    warning: str = ""
    section: int = 0


@dataclass(frozen=True, slots=True)
class SpokenChunk:
    """A chunk's place in the caller's text (code points) and in the audio (seconds), and how it
    came out: `truncated` means that it hit its length limit, or that the model ended it before its
    text, in the best of its `attempts`. `heard` has what was heard of it: see `heard_facts`."""

    index: int
    text_start: int
    text_end: int
    start_sec: float
    end_sec: float
    attempts: int
    truncated: bool
    heard: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """For an answer, as one object."""
        names = ("index", "text_start", "text_end", "start_sec", "end_sec", "attempts", "truncated")
        return {name: getattr(self, name) for name in names} | dict(self.heard)


@dataclass(frozen=True, slots=True)
class Result:
    """What there is to say about a finished answer. `timings` are seconds by phase; `cost_usd` is
    what its share of the GPU costs, where there is one and its price is known. `words` and
    `subtitles` are there if they were asked for."""

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
    words: tuple[SpokenWord, ...] | None = None
    subtitles: str | None = None

    @property
    def heard_chunks(self) -> Iterator[HeardChunk]:
        """What was heard of each chunk, as a stream tells it."""
        for chunk in self.chunks:
            span = range(chunk.text_start, chunk.text_end)
            words = tuple(word for word in self.words or () if word.text_start in span)
            yield HeardChunk(chunk.index, chunk.heard, words)

    @property
    def cost(self) -> dict[str, float]:
        """`gpu_sec` and `cost_usd`, as far as there are any."""
        found = {"gpu_sec": self.timings.get("gpu_sec"), "cost_usd": self.cost_usd}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Spoken(Generic[AnyAudio]):
    """What a plan was spoken into: the takes that are kept, and one constant gain for them.
    `phases` are seconds until `ended_at`, in monotonic seconds; `level_sec` more went into
    measuring the level."""

    planned: PlannedRequest
    takes: tuple[Recorded[AnyAudio], ...]
    gain_db: float | None
    warnings: tuple[str, ...]
    phases: Mapping[str, float]
    ended_at: float
    level_sec: float = 0.0


def result_of(
    services: Services,
    spoken: Spoken[ChunkAudio],
    join: Join,
    format_name: str,
    encode_sec: float,
    total_sec: float,
    notes: Sequence[str] = (),
) -> Result:
    """The facts for an answer in that format, of which `join` has the places; `notes` are further
    warnings."""
    planned, duration_sec = spoken.planned, join.count / spoken.planned.rate
    engine = planned.model.engine.capabilities
    ends = {"encode_sec": encode_sec, "total_sec": total_sec}
    timings = {**spoken.phases, **ends, "real_time_factor": total_sec / duration_sec}
    timings = {name: round(seconds, 4) for name, seconds in timings.items()}
    gpu_sec, price = timings.get("gpu_sec"), services.settings.gpu_usd_per_second
    request, words = planned.request, list(_words(spoken, join))
    return Result(
        format=format_name,
        content_type=FORMATS[format_name].content_type,
        sample_rate=planned.rate,
        duration_sec=round(duration_sec, 6),
        engine=engine.name,
        model=engine.details,
        voices=planned.voices,
        speakers=planned.text.speakers,
        seed=planned.seed,
        gain_db=None if spoken.gain_db is None else round(spoken.gain_db, 2),
        chunks=tuple(
            SpokenChunk(
                index=index,
                text_start=chunk.text_start,
                text_end=chunk.text_end,
                start_sec=round(start / planned.rate, 6),
                end_sec=round((start + each.take.count) / planned.rate, 6),
                attempts=each.attempts,
                truncated=each.flaw in (Flaw.CUT, Flaw.EARLY),
                heard=heard_facts(planned, each),
            )
            for index, (chunk, start, each) in enumerate(
                zip(planned.text.chunks, join.starts, spoken.takes, strict=True)
            )
        ),
        timings=timings,
        warnings=(*planned.warnings, *spoken.warnings, *notes),
        cost_usd=None if gpu_sec is None or price is None else round(gpu_sec * price, 6),
        words=tuple(word for word, _ in words) if request.timestamps == "word" else None,
        subtitles=(
            subtitles((shown for _, shown in words), request.subtitles)
            if request.subtitles
            else None
        ),
    )


def heard_facts(planned: PlannedRequest, take: Recorded[ChunkAudio]) -> dict[str, Any]:
    """`heard`, `wer`, `missing` and `added` of a take, if they were asked for and it was heard."""
    heard = take.heard
    if heard is None or planned.request.verify == "off":
        return {}
    lost = {"missing": list(heard.missing), "added": list(heard.added)}
    return {"heard": heard.text, "wer": heard.wer, **lost}


def heard_chunk(
    planned: PlannedRequest, index: int, take: Recorded[ChunkAudio], join: Join, warning: str
) -> HeardChunk:
    """The same for a chunk of a stream, with its words if they were asked for."""
    wanted = planned.request.timestamps == "word"
    words = tuple(word for word, _ in _words_of(planned, index, take, join)) if wanted else ()
    return HeardChunk(index, heard_facts(planned, take), words, warning)


def _words(spoken: Spoken[ChunkAudio], join: Join) -> Iterator[tuple[SpokenWord, ShownWord]]:
    for index, take in enumerate(spoken.takes):
        yield from _words_of(spoken.planned, index, take, join)


def _words_of(
    planned: PlannedRequest, index: int, take: Recorded[ChunkAudio], join: Join
) -> Iterator[tuple[SpokenWord, ShownWord]]:
    if take.heard is not None:
        start_sec = join.starts[index] / planned.rate
        chunk, source = planned.text.chunks[index], planned.section.text
        yield from spoken_words(source, chunk, take.heard, take.take, start_sec)
