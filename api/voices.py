"""`/v1/audio/voices`: the list of voices, and the voices that callers upload or delete."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import Request, UploadFile

from api.errors import ApiError, failed, invalid
from api.middleware import BodyLimit
from api.speaking import AppState
from request.errors import VoiceError
from request.values import MOST_RECORDING_BYTES
from synthesis.inference import openai_voices
from voices.files import folded
from voices.uploads import Note, VoiceStore, check_name

UPLOAD = BodyLimit(MOST_RECORDING_BYTES + 64 * 1024, seconds=120)


async def is_form(request: Request) -> None:
    """Raises `ApiError` 415 for a body that is not multipart/form-data."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        problem = "The Content-Type must be multipart/form-data."
        raise invalid(None, "unsupported_content_type", problem, 415)


class Voices:
    """The voices of a server: those of its folder, and uploads into it."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._store = VoiceStore(state.settings.audio_prompts_dir)
        self._decoding = asyncio.Lock()  # one at a time: decoding takes up to 200 MB

    def listed(self, uploads: bool, model: str | None = None) -> dict[str, Any]:
        """OpenAI's names and those of a model, the uploaded ones only with `uploads`.

        Clients read the list as `data` or as `voices`. A voice's `version` changes with its
        recording.
        """
        with self._state.inference.models.lease(model) as leased:
            mapper = leased.voices
        notes, own = self._store.notes(), mapper.names(uploads)
        aliases = {name: voice for name, voice in openai_voices().items() if name not in own}
        voices = [{**_shown(name, None), "alias_of": voice} for name, voice in aliases.items()]
        versions = mapper.versions()
        voices += [
            {**_shown(name, notes.get(folded(name))), "version": versions.get(name)} for name in own
        ]
        return {"object": "list", "data": voices, "voices": voices}

    async def add(self, name: str, consent: str, sample: UploadFile) -> dict[str, Any]:
        """Stores a voice and gives its description.

        Raises `ApiError` 413 for more than `MOST_RECORDING_BYTES` and 507 for a full disk, or
        `VoiceError`.
        """
        check_name(name)
        data = await sample.read(MOST_RECORDING_BYTES + 1)
        if len(data) > MOST_RECORDING_BYTES:
            problem = f"audio_sample: has more than {MOST_RECORDING_BYTES // 2**20} MiB."
            raise invalid("audio_sample", "request_too_large", problem, 413)
        async with self._decoding:
            try:
                return await asyncio.to_thread(self._add, name, consent, data)
            except OSError as error:
                problem = f"The voice could not be stored: {error.strerror or 'the disk fails'}."
                raise failed(507, "storage_failed", problem, retry=False) from error

    def _add(self, name: str, consent: str, data: bytes) -> dict[str, Any]:
        inference = self._state.inference
        with inference.workspace() as folder:
            voice, warnings = inference.request_voices.resolve(data, Path(folder), "audio_sample")
        if voice.samples is None:
            raise VoiceError("has no samples", "audio_sample")
        rival = inference.voices.rival(name)
        if rival and folded(rival) != folded(name):
            raise VoiceError(f"{rival!r} answers to a part of {name!r} already", "name")
        taken = {*openai_voices(), *inference.voices.names()}
        note = self._store.add(name, consent, voice.samples, taken)
        return {**_shown(note.name, note), "warnings": warnings}

    def remove(self, name: str) -> dict[str, Any]:
        """Deletes an uploaded voice.

        Raises `ApiError`: 403 for a voice that was not uploaded, 404 for an unknown one.
        """
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
