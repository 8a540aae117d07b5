"""One text spoken for one caller of the server: a place in the queue, a folder, the figures."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from api.admission import AdmissionControl
from api.contract import limited
from api.errors import ApiError, as_api_error
from api.health import Health
from api.metrics import Metrics
from config import Settings
from request.errors import SpeechError
from request.model import Defaults, SpeechRequest
from synthesis.inference import AudioPart, Result, StreamStart, VibeVoiceInference
from synthesis.stream import LONGEST_BLOCK_SEC


@dataclass(frozen=True, slots=True)
class AppState:
    """What all answers of a server share."""

    settings: Settings
    inference: VibeVoiceInference
    admission: AdmissionControl
    metrics: Metrics
    health: Health

    @classmethod
    def of(cls, inference: VibeVoiceInference, health: Health) -> "AppState":
        settings = inference.settings
        seats = AdmissionControl(settings.max_streams, settings.max_queue)
        metrics = Metrics(seats, lambda: inference.cold_start_sec)
        metrics.watch(lambda: inference.engine.inspect().figures)
        return cls(settings, inference, seats, metrics, health)

    @property
    def defaults(self) -> Defaults:
        return limited(self.inference.defaults, self.settings.openai_input_limit)


class Speaking:
    """One answer: a text, or the sentences of an utterance one after the other. `waited_sec` is how
    long the last of them waited for the seat. `label` and `why` are labels in the figures: by which
    state, and what it means when it is closed before its end."""

    waited_sec = 0.0

    def __init__(self, state: AppState, label: str, why: str = "left") -> None:
        self.seat = state.admission.seat()
        self._state, self._label, self._why = state, label, why

    async def items(
        self, request: SpeechRequest
    ) -> AsyncGenerator[StreamStart | AudioPart | Result, None]:
        """The only text of an answer: the seat is free by the end of it."""
        with self.seat:
            part = self.part(request, longest_block_sec=LONGEST_BLOCK_SEC)
            async with aclosing(part) as items:
                async for item in items:
                    yield item

    async def part(
        self,
        request: SpeechRequest,
        sample_rate: int | None = None,
        after: tuple[StreamStart, int] | None = None,
        longest_block_sec: float = 0.0,
    ) -> AsyncGenerator[StreamStart | AudioPart | Result, None]:
        """Every block as it is made. Takes the seat where it is not held, and keeps it. Closing it
        stops the engine within one frame. `after` is an earlier part of the same answer and the
        silence between the two, in milliseconds."""
        metrics = self._state.metrics
        try:
            self.waited_sec = await self.seat.take()
            with self._state.inference.workspace() as folder:
                stream = self._state.inference.stream(
                    request,
                    Path(folder),
                    sample_rate=sample_rate,
                    longest_piece_sec=0,
                    longest_block_sec=longest_block_sec,
                    after=after,
                )
                async with aclosing(stream) as items:
                    async for item in items:
                        if isinstance(item, Result):
                            metrics.spoken(self._label, item, self.waited_sec)
                        yield item
        except (asyncio.CancelledError, GeneratorExit):
            metrics.cancels.labels(self._label, self._why).inc()
            raise
        except (SpeechError, ApiError) as error:
            metrics.errors.labels(self._label, as_api_error(error).code or "engine").inc()
            raise
