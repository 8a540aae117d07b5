"""`POST /v1/audio/speech`: a chunked answer whose bytes are sent while they are made.

See `api/speaking.py` for errors and cancellation.
"""

import asyncio
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from api import sse
from api.contract import JSON_TYPE, SpeechParams, check_size, loads, parse
from api.errors import event_of, invalid
from api.speaking import AppState, LiveResponse, Speaking, printable
from audio.codecs import FORMATS
from synthesis.result import AudioPart, HeardChunk, Result, StreamStart


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


class SpeechResponse(LiveResponse):
    """A response whose body is spoken while it is sent."""

    def __init__(self, state: AppState, params: SpeechParams) -> None:
        super().__init__()
        self._state, self._params = state, params
        self._speaking = Speaking(state, "http")

    async def serve(self, send: Send) -> None:
        request = self._params.speech
        # libsndfile opens no FLAC of unknown length.
        is_whole = request.output_format == "flac"
        speak = self._speaking.file if is_whole else self._speaking.whole
        most = self._state.most_bytes
        if most is not None and self._params.sse:
            most = most * 3 // 4  # for base64
        async with (
            asyncio.timeout(self._state.settings.max_request_sec),
            aclosing(speak(request, most)) as spoken,
            aclosing(self._speaking.noted(spoken)) as items,
        ):
            deltas = sse.Deltas() if self._params.sse else None
            try:
                async for item in items:
                    if isinstance(item, StreamStart):
                        start = item
                    elif isinstance(item, AudioPart):
                        if not self.started:
                            await self._start(send, start)
                        await self.send_body(send, deltas.feed(item.data) if deltas else item.data)
                    elif isinstance(item, HeardChunk):
                        await self.send_body(send, sse.heard(item))
                    elif isinstance(item, Result):
                        end = self._end(deltas, item)
                # The seat is free before the end is sent: the caller may ask again at once.
                await self.send_body(send, end, more=False)
            except Exception as error:
                if not (deltas and self.started):
                    raise
                await self.send_body(send, sse.event(event_of(error)), more=False)

    async def _start(self, send: Send, start: StreamStart) -> None:
        kind = FORMATS[self._params.speech.output_format].content_type
        headers = {
            "content-type": sse.CONTENT_TYPE if self._params.sse else kind,
            "x-speech-engine": start.engine,
            "x-speech-voice": printable(start.voices[:1]),
            "x-speech-seed": str(start.seed),
            "x-speech-queue-ms": str(round(self._speaking.waited_sec * 1000)),
        }
        if start.warnings:
            headers["x-speech-warnings"] = printable(start.warnings)
        if self._params.ignored:
            headers["x-speech-ignored"] = printable(self._params.ignored)
        if self._params.sse:
            headers["cache-control"] = "no-store"
        elif start.size is not None:
            headers["content-length"] = str(start.size)
        await self.send_start(send, headers)

    def _end(self, deltas: sse.Deltas | None, result: Result) -> bytes:
        if deltas is None:
            return b""
        file = sse.subtitles(result.subtitles) if result.subtitles is not None else b""
        done = sse.done(self._params.speech.text, result.duration_sec, result.cost)
        return deltas.end() + file + done
