"""One answer for one caller of the server: its seat, its metrics, and its response.

Errors: the status is sent with the first byte. An error before it has a status and an envelope. An
error after it resets the connection, so that the answer never looks complete. A stream of events
carries it as an event instead.

Cancellation: the task of a caller who disconnects, or reads nothing for 60 s, is cancelled.
"""

import asyncio
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.admission import AdmissionControl
from api.contract import limited
from api.errors import ApiError, as_api_error
from api.health import Health
from api.metrics import Metrics
from config import Settings, on_runpod
from request.errors import SpeechError
from request.model import Defaults, SpeechRequest
from synthesis.inference import VibeVoiceInference
from synthesis.parts import StreamOptions
from synthesis.result import AudioPart, Result, StreamStart
from synthesis.stream import StreamItem
from transcription.transcriber import Transcriber


@dataclass(frozen=True, slots=True)
class AppState:
    """The objects that all answers of a server share."""

    settings: Settings
    inference: VibeVoiceInference
    admission: AdmissionControl
    loads: AdmissionControl
    plans: AdmissionControl
    transcriber: Transcriber
    hearing: AdmissionControl
    metrics: Metrics
    health: Health

    @classmethod
    def of(
        cls, inference: VibeVoiceInference, health: Health, transcriber: Transcriber
    ) -> "AppState":
        """The state of a server over this inference and recogniser, by its settings."""
        settings = inference.settings
        admission = AdmissionControl(settings.max_streams, settings.max_queue)
        loads = AdmissionControl(settings.max_queue or 1, most_waiting=0)
        # A plan is an interpreter's work: more at once than cores would only slow each other.
        plans = AdmissionControl(os.cpu_count() or 1, settings.max_queue)
        hearing = AdmissionControl(settings.max_transcriptions, settings.max_queue)
        metrics = Metrics(admission, lambda: inference.cold_start_sec)
        metrics.watch(lambda: inference.engine.inspect().figures)
        metrics.watch_models(inference.models.figures)
        return cls(
            settings, inference, admission, loads, plans, transcriber, hearing, metrics, health
        )

    @property
    def defaults(self) -> Defaults:
        """The defaults of a request, with `OPENAI_INPUT_LIMIT` as its text limit."""
        return limited(self.inference.defaults, self.settings.openai_input_limit)

    @property
    def most_bytes(self) -> int | None:
        """The largest answer over HTTP: RunPod's load balancer cuts off what is larger."""
        return _LOAD_BALANCER_BYTES if on_runpod() else None


_STALLED_SEC = 60.0
_MOST_HEADER = 1000
_LOAD_BALANCER_BYTES = 30_000_000
_BLOCK = 1 << 18


class Speaking:
    """One answer: its seat and its metrics.

    `waited_sec` is the last wait for the seat. `label` is the metrics' label `door`. `why` is the
    label of an answer that is closed before its end.
    """

    def __init__(self, state: AppState, label: str, why: str = "left") -> None:
        self.seat = state.admission.seat()
        self.waited_sec = 0.0
        self._waits: deque[float] = deque()  # seconds, one per result to come
        self._state, self._label, self._why = state, label, why

    async def take_seat(self) -> None:
        """Waits for the seat. Raises `ApiError` 503 if none becomes free."""
        self.waited_sec = await self.seat.take()
        self._waits.append(self.waited_sec)

    async def whole(
        self, request: SpeechRequest, most_bytes: int | None
    ) -> AsyncGenerator[StreamItem, None]:
        """The stream of a complete text: start, audio parts, result.

        Raises `RequestError` where its file should have more than `most_bytes`.

        When it ends, the engine has stopped and the seat is free.
        """
        with self.seat:
            await self.take_seat()
            made = self._state.inference.stream(
                request, StreamOptions(longest_part_sec=0, most_bytes=most_bytes), aside=self.aside
            )
            async with aclosing(made) as stream:
                async for item in stream:
                    yield item

    async def file(
        self, request: SpeechRequest, most_bytes: int | None
    ) -> AsyncGenerator[StreamItem, None]:
        """The same of a text whose file is finished before its first part.

        A caller who reads slowly needs no seat any more.
        """
        inference = self._state.inference
        with self.seat, inference.workspace() as folder:
            await self.take_seat()
            async with inference.plan(request) as planned:
                if most_bytes:
                    await asyncio.to_thread(planned.check_size, most_bytes)
                file = await inference.generate(planned, Path(folder), aside=self.aside)
            self.seat.leave()
            result, size = file.result, file.path.stat().st_size
            yield StreamStart(
                result.engine,
                result.voices,
                result.seed,
                result.gain_db,
                result.sample_rate,
                result.warnings,
                size,
            )
            with file.path.open("rb") as data:
                while block := await asyncio.to_thread(data.read, _BLOCK):
                    yield AudioPart(block, result.sample_rate)
            for heard in result.heard_chunks:
                yield heard
            yield result

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Without the seat while a model loads, so that answers of others can be spoken. Raises
        `ApiError` 503 where too many wait for a load."""
        with self._state.loads.seat() as place:
            await place.take()
            self.seat.leave()
            yield
        waited_sec = await self.seat.take()
        self.waited_sec += waited_sec
        self._waits[-1] += waited_sec

    async def noted(self, items: AsyncIterator[StreamItem]) -> AsyncGenerator[StreamItem, None]:
        """Passes the items on, and counts their result, their error or their cancellation."""
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


class LiveResponse(Response):
    """A response that `serve` sends. `started` says whether the status was sent."""

    def __init__(self) -> None:
        self.status_code = 200
        self.background = None
        self.started = False

    async def serve(self, send: Send) -> None:
        """Sends the whole response."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving = asyncio.create_task(self.serve(send))
        leaving = asyncio.create_task(_left(receive))
        both = {serving, leaving}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
        error = None if serving.cancelled() else serving.exception()
        if error is None:
            return
        if not self.started:
            raise error
        as_api_error(error)  # logs an unforeseen one
        scope["state"]["reset"]()

    async def send_start(self, send: Send, headers: Mapping[str, str]) -> None:
        """Sends the status 200 and the headers."""
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        self.started = True

    async def send_body(self, send: Send, data: bytes, more: bool = True) -> None:
        """Sends a part of the body. Raises `TimeoutError` if it cannot be sent for 60 s."""
        if data or not more:
            async with asyncio.timeout(_STALLED_SEC):
                await send({"type": "http.response.body", "body": data, "more_body": more})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def printable(words: Iterable[str]) -> str:
    """A header's value in ASCII, up to 1000 characters: a warning may quote the caller's words."""
    return re.sub(r"[^ -~]", "?", "; ".join(words))[:_MOST_HEADER]
