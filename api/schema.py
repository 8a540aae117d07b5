"""OpenAPI: the parts of `/openapi.json` that FastAPI cannot derive.

`SPEECH` is the JSON schema of a speech request. The bridge has it as `bridge/request.schema.json`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from audio.codecs import FORMATS
from request.model import EXCLUSIVE, NULL_COUNTS, SpeechRequest, notes_of
from request.models import OPENAI_NAMES, OURS
from request.values import VISIBLE, VOICE_SCHEMA
from synthesis.dry_run import DryRunAnswer
from voices.uploads import MOST_CONSENT, NAME

DESCRIPTION = (
    "Text to speech by OpenAI's contract. Every error has the envelope of `ErrorAnswer`. "
    "The WebSocket at `/v1/audio/speech/stream` is described in docs/streaming.md."
)


class Problem(BaseModel):
    """The envelope's content: `param` is the field at fault, `code` a stable name."""

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


OWN: dict[str, dict[str, Any]] = {
    "model": {"minLength": 1, "examples": [OURS, *OPENAI_NAMES]},
    "input": {"minLength": 1, "pattern": VISIBLE},
    "instructions": {"type": "string", "maxLength": 4096},
    "voice": {},
    "response_format": {},
    "speed": {},
    "stream_format": {"type": "string", "enum": ["audio", "sse"], "default": "audio"},
}
"""OpenAI's fields in the order of their checks, with what `SpeechRequest` does not say of them."""


_NULL = {"type": "null"}
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "max_length": "maxLength",
    "pattern": "pattern",
}
_NOT_OF_A_KIND = {"title", "default", "description", *_BOUNDS, *notes_of("text")}


def _speech_schema() -> dict[str, Any]:
    """The JSON schema of a request in OpenAI's names: OpenAI's fields first, then ours."""
    made = SpeechRequest.model_json_schema()["properties"]
    ours = {
        notes["openai"] or name: _shown(name, made[name], notes)
        for name in made
        if not (notes := notes_of(name))["jobs_only"]
    }
    own: dict[str, Any] = {name: ours.pop(name, {}) | more for name, more in OWN.items()}
    own["voice"] = {"description": own["voice"]["description"], **VOICE_SCHEMA}
    return {
        "type": "object",
        "required": ["input", "voice"],
        "not": {"required": list(EXCLUSIVE)},
        "properties": own | ours,
    }


def _shown(name: str, made: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of one field, made of pydantic's.

    Our notes are left out. So is the branch `null`, where null means that a field is not given.
    """
    field = {
        key: made[key] for key in ("default", "description") if made.get(key) not in (None, {})
    }
    field["description"] = field["description"].replace("{max_text_length}", "OPENAI_INPUT_LIMIT")
    # Pydantic's schema has no bounds of a field that a `BeforeValidator` reads.
    bounds = {_BOUNDS[key]: value for key, value in notes["bounds"].items()}
    branches = [_kind(branch, bounds) for branch in made.get("anyOf", [made])]
    if name not in NULL_COUNTS and _NULL in branches:
        branches.remove(_NULL)
    return field | (branches[0] if len(branches) == 1 else {"anyOf": branches})


def _kind(branch: Mapping[str, Any], bounds: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in branch.items() if key not in _NOT_OF_A_KIND}
    return own | (bounds if branch.get("type") in ("string", "number", "integer") else {})


SPEECH = _speech_schema()
EXTRAS = frozenset(SPEECH["properties"]) - frozenset(OWN)
"""The names of our own fields."""

SPEECH_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": SPEECH,
            "example": {"model": "tts-1", "input": "Good morning.", "voice": "alloy"},
        }
    },
}

# The same limits as `voices.uploads.VoiceStore` checks.
VOICE_NAME: dict[str, Any] = {"pattern": f"^{NAME.pattern}$"}
VOICE_CONSENT: dict[str, Any] = {
    "minLength": 1,
    "maxLength": MOST_CONSENT,
    "description": "Who agreed, and where that is written",
}
VOICE_SAMPLE = "3 to 30 seconds in any common format, up to 10 MiB"
