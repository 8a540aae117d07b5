"""One answer for one caller of the server: a place in the queue, and the figures."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from api.admission import AdmissionControl
from api.contract import limited
from api.errors import ApiError, as_api_error
from api.health import Health
from api.metrics import Metrics
from config import Settings
from request.errors import SpeechError
from request.model import Defaults, SpeechRequest
from synthesis.inference import VibeVoiceInference
from synthesis.parts import StreamOptions
from synthesis.result import Result
from synthesis.stream import StreamItem


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


_WHOLE = StreamOptions(longest_part_sec=0)


class Speaking:
    """One answer: its seat, and its figures. `waited_sec` is how long the seat was waited for last.
    `label` and `why` are labels in the figures: by which door, and what it means when the answer is
    closed before its end."""

    def __init__(self, state: AppState, label: str, why: str = "left") -> None:
        self.seat = state.admission.seat()
        self.waited_sec = 0.0
        self._waits: deque[float] = deque()  # of those whose result was not read yet
        self._state, self._label, self._why = state, label, why

    async def take_seat(self) -> None:
        """Raises a 503 where there is none."""
        self.waited_sec = await self.seat.take()
        self._waits.append(self.waited_sec)

    async def whole(self, request: SpeechRequest) -> AsyncGenerator[StreamItem, None]:
        """The answer to a text that is whole. The engine's work has ended, and the seat is free, by
        the end of it."""
        with self.seat:
            await self.take_seat()
            async with aclosing(self._state.inference.stream(request, _WHOLE)) as stream:
                async for item in stream:
                    yield item

    async def noted(self, items: AsyncIterator[StreamItem]) -> AsyncGenerator[StreamItem, None]:
        """The same items, and in the figures how they ended."""
        metrics = self._state.metrics
        try:
            async for item in items:
                if isinstance(item, Result):
                    metrics.spoken(self._label, item, self._waits.popleft())
                yield item
        except (asyncio.CancelledError, GeneratorExit):
            metrics.cancels.labels(self._label, self._why).inc()
            raise
        except (SpeechError, ApiError) as error:
            metrics.errors.labels(self._label, as_api_error(error).code or "engine").inc()
            raise
