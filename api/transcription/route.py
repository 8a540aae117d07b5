"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`, by OpenAI's contract.

The body is a form with a file. The answer is complete, or with `stream` events that are sent while
the recording is heard.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from api import sse
from api.errors import as_api_error, event_of, invalid
from api.speaking import AppState, LiveResponse, printable
from api.transcription.answers import HearParams, Streamed, complete
from api.transcription.form import WORDS, params_of, read_form
from request.errors import SpeechError
from transcription.base import Segment, Transcript
from transcription.transcriber import named

_READ = 1 << 20


async def transcribed(state: AppState, request: Request, *, translate: bool = False) -> Response:
    """The response to a form. Raises `ApiError` 400, 404, 413 or 415."""
    form = await read_form(request)
    try:
        params = params_of(form, translate=translate)
        state.transcriber.check(params.request)
        upload = form["file"]
        assert isinstance(upload, UploadFile)  # noqa: S101 - `params_of` has checked it
        most = state.settings.max_upload_mb
        if (upload.size or 0) > most * 2**20:
            raise invalid("file", "request_too_large", f"file: has more than {most} MiB.", 413)
        workspace = state.transcriber.workspace()
        file = Path(workspace.name) / "upload"
        with file.open("wb") as copy:
            while data := await upload.read(_READ):
                copy.write(data)
    except SpeechError as error:
        raise as_api_error(error, WORDS) from error
    finally:
        await form.close()
    return TranscriptionResponse(state, params, workspace, named(file))


class TranscriptionResponse(LiveResponse):
    """A response that is made of a file in `workspace`, which ends with it."""

    def __init__(
        self,
        state: AppState,
        params: HearParams,
        workspace: "TemporaryDirectory[str]",
        file: Path,
    ) -> None:
        super().__init__()
        self._state, self._params = state, params
        self._workspace, self._file = workspace, file

    async def serve(self, send: Send) -> None:
        state, params = self._state, self._params
        try:
            with self._workspace, state.hearing.seat() as seat:
                async with asyncio.timeout(state.settings.max_request_sec):
                    await seat.take()
                    options = await state.transcriber.options(
                        params.request, self._file.parent, partials=params.stream
                    )
                    audio = await state.transcriber.decode(self._file, "audio")
                    hearing = state.transcriber.hear(audio, params.options(options))
                    async with hearing as (transcript, segments):
                        if params.stream:
                            await self._stream(send, transcript, segments)
                            return
                        heard = [segment async for segment in segments if segment.final]
            state.metrics.heard.inc(transcript.duration_sec)
            await self._whole(send, transcript, heard)
        except SpeechError as error:
            raise as_api_error(error, WORDS) from error

    async def _whole(self, send: Send, transcript: Transcript, heard: list[Segment]) -> None:
        kind, body = complete(heard, transcript, self._params)
        headers = {"content-type": kind, "content-length": str(len(body)), **self._ignored()}
        await self.send_start(send, headers)
        await self.send_body(send, body, more=False)

    async def _stream(
        self, send: Send, transcript: Transcript, segments: AsyncIterator[Segment]
    ) -> None:
        streamed = Streamed(self._params)
        try:
            async for segment in segments:
                await self._event(send, streamed.events(segment))
            self._state.metrics.heard.inc(transcript.duration_sec)
            await self._event(send, streamed.done(transcript))
            await self.send_body(send, sse.DONE, more=False)
        except Exception as error:
            if not self.started:
                raise
            await self.send_body(send, sse.event(event_of(error)), more=False)

    async def _event(self, send: Send, data: bytes) -> None:
        if not self.started:
            headers = {"content-type": sse.CONTENT_TYPE, "cache-control": "no-store"}
            await self.send_start(send, headers | self._ignored())
        await self.send_body(send, data)

    def _ignored(self) -> dict[str, str]:
        ignored = self._params.ignored
        return {"x-speech-ignored": printable(ignored)} if ignored else {}
