"""What `/openapi.json` says beyond what FastAPI sees by itself."""

from typing import Any

from pydantic import BaseModel

from dry_run import DryRunAnswer
from speech.codecs import FORMATS
from speech.request import SpeechRequest
from speech.voice_store import MOST_CONSENT, NAME
from web.contract import EXTRAS, MOST_INSTRUCTIONS, MOST_NAME
from web.models import NAMES

DESCRIPTION = (
    "Text to speech by OpenAI's contract. Every error has the envelope of `ErrorAnswer`. "
    "The WebSocket at `/v1/audio/speech/stream` is described in docs/streaming.md."
)


class Problem(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's error envelope."""

    error: Problem


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorAnswer, "description": "An error in OpenAI's envelope"}
}

_AUDIO: dict[str, Any] = {
    entry.content_type: {"schema": {"type": "string", "format": "binary"}}
    for entry in FORMATS.values()
}
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "JSON, and at the end [DONE]"}},
}
SPEECH_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Audio, or events with audio; of a dry run, how the text would be read",
        "model": DryRunAnswer,
        "content": {**_AUDIO, "text/event-stream": {"schema": _EVENT}},
    }
}


def _name(limit: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": limit}


def _extras() -> dict[str, Any]:
    """Fields of our own, as numbers and booleans, though the same as texts are taken too."""
    properties = SpeechRequest.model_json_schema()["properties"]
    shown = {}
    for name in sorted(EXTRAS):
        field = properties[name]
        # Their validators take more than a schema can tell: recordings, names, respellings.
        loose = name in ("voice_base64", "speakers", "pronunciations", "voice_url")
        description = {"description": field.get("description", "")}
        shown[name] = description if loose else {**field, **description}
        shown[name].pop("title", None)
    return shown


SPEECH_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["model", "input", "voice"],
                "properties": {
                    "model": {"type": "string", "enum": list(NAMES)},
                    "input": {
                        "type": "string",
                        "minLength": 1,
                        "description": "What to say, up to OPENAI_INPUT_LIMIT characters",
                    },
                    "voice": {
                        "anyOf": [
                            _name(MOST_NAME),
                            {
                                "type": "object",
                                "required": ["id"],
                                "properties": {"id": _name(MOST_NAME)},
                                "additionalProperties": False,
                            },
                        ]
                    },
                    "instructions": {"type": "string", "maxLength": MOST_INSTRUCTIONS},
                    "response_format": {"type": "string", "enum": list(FORMATS), "default": "mp3"},
                    "speed": {"type": "number", "minimum": 0.25, "maximum": 4, "default": 1},
                    "stream_format": {
                        "type": "string",
                        "enum": ["audio", "sse"],
                        "default": "audio",
                    },
                    **_extras(),
                },
            },
            "example": {"model": "tts-1", "input": "Good morning.", "voice": "alloy"},
        }
    },
}

VOICE_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["name", "consent", "audio_sample"],
                "properties": {
                    "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
                    "consent": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": MOST_CONSENT,
                        "description": "Who agreed, and where that is written",
                    },
                    "audio_sample": {
                        "type": "string",
                        "format": "binary",
                        "description": "3 to 30 seconds in any common format, up to 10 MiB",
                    },
                },
            }
        }
    },
}
