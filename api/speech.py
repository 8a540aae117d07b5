"""`POST /v1/audio/speech`: a chunked answer whose bytes are sent while they are made.

Errors: the status is sent with the first audio. An error before it has a status and an envelope. An
error after it resets the connection, so that the answer never looks complete. A stream of events
carries it as an event instead.

FLAC is made whole before its first byte is sent, with its length and an exact header.

Cancellation: a caller who disconnects, or reads nothing for 60 s, stops the engine.
"""

import asyncio
import re
from collections.abc import Iterable
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from api import sse
from api.contract import JSON_TYPE, SpeechParams, check_size, loads, parse
from api.errors import as_api_error, event_of, invalid
from api.speaking import AppState, Speaking
from audio.codecs import FORMATS
from synthesis.result import AudioPart, Result, StreamStart

_STALLED_SEC = 60.0
_MOST_HEADER = 1000


async def params_of(request: Request, state: AppState) -> SpeechParams:
    """Reads and checks the request's body.

    Raises `ApiError` 400, 404, 413 or 415, or `RequestError`.
    """
    kind = request.headers.get("content-type")
    if kind is not None and not JSON_TYPE.match(kind):
        problem = "The Content-Type must be application/json."
        raise invalid(None, "unsupported_content_type", problem, 415)
    defaults = state.defaults
    body = await request.body()
    asked = loads(body)
    check_size(asked, len(body), defaults.max_text_length)
    return parse(asked, defaults)


async def planned(state: AppState, params: SpeechParams) -> Response:
    """The answer to a dry run: a `DryRunAnswer` as JSON.

    Raises `ApiError` 503 if too many plans are made at once.
    """
    with state.plans.seat() as seat:
        await seat.take()
        answer = await state.inference.dry_run(params.speech)
    ignored = [f"{name}: unknown field, ignored" for name in params.ignored]
    return JSONResponse({**answer.model_dump(), "warnings": [*ignored, *answer.warnings]})


class SpeechResponse(Response):
    """A response whose body is spoken while it is sent."""

    def __init__(self, state: AppState, params: SpeechParams) -> None:
        self.status_code = 200
        self.background = None
        self._state, self._params = state, params
        self._speaking = Speaking(state, "http")
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving = asyncio.create_task(self._serve(send))
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
        if not self._started:
            raise error
        as_api_error(error)  # logs an unforeseen one
        scope["state"]["reset"]()

    async def _serve(self, send: Send) -> None:
        request = self._params.speech
        # libsndfile opens no FLAC of unknown length.
        is_whole = request.output_format == "flac"
        speak = self._speaking.file if is_whole else self._speaking.whole
        async with (
            asyncio.timeout(self._state.settings.max_request_sec),
            aclosing(speak(request)) as spoken,
            aclosing(self._speaking.noted(spoken)) as items,
        ):
            deltas = sse.Deltas() if self._params.sse else None
            try:
                async for item in items:
                    if isinstance(item, StreamStart):
                        start = item
                    elif isinstance(item, AudioPart):
                        if not self._started:
                            await self._start(send, start)
                        await _send(send, deltas.feed(item.data) if deltas else item.data)
                    elif isinstance(item, Result):
                        end = self._end(deltas, item)
                # The seat is free before the end is sent: the caller may ask again at once.
                await _send(send, end, more=False)
            except Exception as error:
                if not (deltas and self._started):
                    raise
                await _send(send, sse.event(event_of(error)), more=False)

    async def _start(self, send: Send, start: StreamStart) -> None:
        kind = FORMATS[self._params.speech.output_format].content_type
        headers = {
            "content-type": sse.CONTENT_TYPE if self._params.sse else kind,
            "x-speech-engine": start.engine,
            "x-speech-voice": _printable(start.voices[:1]),
            "x-speech-seed": str(start.seed),
            "x-speech-queue-ms": str(round(self._speaking.waited_sec * 1000)),
        }
        if start.warnings:
            headers["x-speech-warnings"] = _printable(start.warnings)
        if self._params.ignored:
            headers["x-speech-ignored"] = _printable(self._params.ignored)
        if self._params.sse:
            headers["cache-control"] = "no-store"
        elif start.size is not None:
            headers["content-length"] = str(start.size)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        self._started = True

    def _end(self, deltas: sse.Deltas | None, result: Result) -> bytes:
        if deltas is None:
            return b""
        return deltas.end() + sse.done(self._params.speech.text, result.duration_sec, result.cost)


async def _send(send: Send, data: bytes, more: bool = True) -> None:
    """Sends a part of the body. Raises `TimeoutError` if it cannot be sent for 60 s."""
    if data or not more:
        async with asyncio.timeout(_STALLED_SEC):
            await send({"type": "http.response.body", "body": data, "more_body": more})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _printable(words: Iterable[str]) -> str:
    """A header's value in ASCII, up to 1000 characters: a warning may quote the caller's words."""
    return re.sub(r"[^ -~]", "?", "; ".join(words))[:_MOST_HEADER]
