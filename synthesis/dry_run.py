"""A request as it would be read: planned like any other, and not spoken."""

import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from request.model import SpeechRequest
from synthesis.plan import PlannedRequest, Services, plan_request
from text.chunks import spoken
from voices.catalogue import Voice


class DryRunTurn(BaseModel):
    """What reaches the engine. `speaker` is a script's own number, 1 where there is no script."""

    model_config = ConfigDict(frozen=True)

    speaker: int
    voice: str
    text: str


class DryRunChunk(BaseModel):
    """A span of the text (code points); `pause_ms` of silence follow."""

    model_config = ConfigDict(frozen=True)

    index: int
    text_start: int
    text_end: int
    pause_ms: int
    expected_sec: float
    turns: list[DryRunTurn]


class DryRunAnswer(BaseModel):
    """How a text would be read. `speakers` maps a script's numbers to voices."""

    model_config = ConfigDict(frozen=True)

    status: str = "success"
    dry_run: bool = True
    lead_ms: int
    expected_sec: float
    chunks: list[DryRunChunk]
    speakers: dict[str, str]
    warnings: list[str]


def dry_run(services: Services, request: SpeechRequest, check: Callable[[], None]) -> DryRunAnswer:
    """Needs no engine and reaches for no address: a `voice_url` is taken to hold a voice. Raises
    `RequestError`s, and what `check` raises between the steps."""
    named = (lambda: (Voice("voice_url"), list[str]())) if request.voice_url else None
    with services.models.lease(request.model) as model:
        planned = plan_request(services, model, request, time.monotonic(), named, check)
    names = [voice.name for voice in planned.plan.voices]
    count = len(planned.text.chunks)
    return DryRunAnswer(
        lead_ms=planned.lead_ms,
        expected_sec=round(planned.expected_sec(), 2),
        chunks=[_chunk(planned, index, names) for index in range(count)],
        speakers={str(n): name for n, name in zip(planned.text.speakers, names, strict=False)},
        warnings=list(planned.warnings),
    )


def _chunk(planned: PlannedRequest, index: int, names: list[str]) -> DryRunChunk:
    numbers, chunk = planned.text.speakers or (1,), planned.text.chunks[index]
    return DryRunChunk(
        index=index,
        text_start=chunk.text_start,
        text_end=chunk.text_end,
        pause_ms=chunk.pause_ms,
        expected_sec=round(planned.chunk_sec(index), 2),
        turns=[
            DryRunTurn(speaker=numbers[turn.speaker], voice=names[turn.speaker], text=turn.text)
            for turn in spoken(chunk.turns)
        ],
    )
