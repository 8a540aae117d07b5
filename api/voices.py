"""`/v1/audio/voices`: what can be asked for, and voices that callers bring or take away."""

import asyncio
from pathlib import Path
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message

from api.errors import ApiError, failed, invalid
from api.speaking import AppState
from request.errors import VoiceError
from request.values import MOST_RECORDING_BYTES
from synthesis.inference import openai_voices
from voices.files import folded
from voices.uploads import Note, VoiceStore, check_name

_MOST_BODY = MOST_RECORDING_BYTES + 64 * 1024
_MOST_FIELD = 16 * 1024
_UPLOAD_SEC = 120.0


class Voices:
    """The voices of a server."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._store = VoiceStore(state.settings.audio_prompts_dir)
        self._decoding = asyncio.Lock()  # a recording takes up to 200 MB while it is decoded

    def listed(self) -> dict[str, Any]:
        """OpenAI's names and the worker's own, in every shape that clients are known to read."""
        notes, own = self._store.notes(), self._state.inference.voices.names()
        aliases = {name: voice for name, voice in openai_voices().items() if name not in own}
        voices = [{**_shown(name, None), "alias_of": voice} for name, voice in aliases.items()]
        voices += [_shown(name, notes.get(folded(name))) for name in own]
        return {"object": "list", "data": voices, "voices": voices}

    async def add(self, request: Request) -> dict[str, Any]:
        """Stores the voice of a multipart form."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            problem = "The Content-Type must be multipart/form-data."
            raise invalid(None, "unsupported_content_type", problem, 415)
        try:
            async with asyncio.timeout(_UPLOAD_SEC):
                form = await _bounded(request).form(
                    max_files=1, max_fields=8, max_part_size=_MOST_FIELD
                )
        except TimeoutError:
            raise failed(408, "timeout", "The upload did not arrive in time.", retry=True) from None
        try:
            name, consent = _text(form, "name"), _text(form, "consent")
            check_name(name)
            sample = form.get("audio_sample")
            if not isinstance(sample, UploadFile):
                raise _missing("audio_sample")
            data = await sample.read(MOST_RECORDING_BYTES + 1)
        finally:
            await form.close()
        if len(data) > MOST_RECORDING_BYTES:
            raise _too_large()
        async with self._decoding:
            return await asyncio.to_thread(self._add, name, consent, data)

    def _add(self, name: str, consent: str, data: bytes) -> dict[str, Any]:
        inference = self._state.inference
        with inference.workspace() as folder:
            voice, warnings = inference.request_voices.resolve(data, Path(folder), "audio_sample")
        if voice.samples is None:
            raise VoiceError("has no samples", "audio_sample")
        rival = inference.voices.rival(name, weak=self._store.notes())
        if rival and folded(rival) != folded(name):
            raise VoiceError(f"{rival!r} answers to a part of {name!r} already", "name")
        note = self._store.add(name, consent, voice.samples, set(inference.voices.names()))
        return {**_shown(note.name, note), "warnings": warnings}

    def remove(self, name: str) -> dict[str, Any]:
        if not self._store.remove(name):
            known = {*openai_voices(), *self._state.inference.voices.names()}
            if name in known:
                problem = "Only uploaded voices can be deleted."
                raise ApiError(403, problem, kind="permission_error", param="voice", code="fixed")
            raise invalid("voice", "voice_not_found", f"There is no voice '{name[:100]}'.", 404)
        return {"id": name, "object": "audio.voice.deleted", "deleted": True}


def _shown(name: str, note: Note | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": name, "name": name, "object": "audio.voice"}
    if note is not None:
        shown |= {"created_at": note.created_at, "type": "audio_sample"}
    return shown


def _bounded(request: Request) -> Request:
    """The same request, which raises a 413 once its body becomes too large."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > _MOST_BODY:
        raise _too_large()
    count = 0

    async def receive() -> Message:
        nonlocal count
        message = await request.receive()
        count += len(message.get("body", b""))
        if count > _MOST_BODY:
            raise _too_large()
        return message

    return Request(request.scope, receive)


def _too_large() -> ApiError:
    problem = f"audio_sample: has more than {MOST_RECORDING_BYTES // 2**20} MiB."
    return invalid("audio_sample", "request_too_large", problem, 413)


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    if not isinstance(value, str):
        raise _missing(name)
    return value


def _missing(name: str) -> ApiError:
    problem = f"Missing required parameter: '{name}'."
    return invalid(name, "missing_required_parameter", problem)
