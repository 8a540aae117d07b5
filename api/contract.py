"""The request body of `/v1/audio/speech`: OpenAI's `CreateSpeechRequest` plus fields of our own.

`parse` gives complete `SpeechParams` or raises the error that OpenAI's API gives. An unknown field
never fails a request: `SpeechParams.ignored` names it. Lengths count code points, as OpenAI's do.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from api.errors import ApiError, invalid, too_large
from api.schema import EXTRAS, SPEECH
from request.model import NULL_COUNTS, Defaults, SpeechRequest, parse_request
from request.values import Wrong, kind_of, number

JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json *(;|$)", re.I)

_FIELDS = SPEECH["properties"]
OF_EVENTS = {"verify", "timestamps", "subtitles"}
# Some clients send `stream`, which OpenAI's contract has not. Every answer is a stream anyway.
_OF_NO_EFFECT = {"stream"}


@dataclass(frozen=True, slots=True)
class SpeechParams:
    """A checked request. `sse` asks for server-sent events; `ignored` names the fields
    that are unknown or need events."""

    speech: SpeechRequest
    sse: bool
    ignored: tuple[str, ...]


def most_bytes(input_limit: int) -> int:
    """The largest body in bytes for an `input` of `input_limit` characters, without a recording.

    JSON escapes a character in up to 12 bytes. Other fields have 1 MiB.
    """
    return 2**20 + 12 * input_limit


def loads(body: bytes | str) -> object:
    """Parses strict JSON in UTF-8, without NaN and Infinity. Raises `ApiError` 400."""
    try:
        text = body if isinstance(body, str) else body.decode("utf-8-sig")
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        problem = "We could not parse the JSON body of your request."
        raise invalid(None, "invalid_json", problem) from None


def _no_number(name: str) -> None:
    raise ValueError(name)


def check_size(body: object, count: int, input_limit: int) -> None:
    """Raises `ApiError` 413 if a body of `count` bytes, less its recording, is too large."""
    recording = body.get("voice_base64") if isinstance(body, dict) else None
    spoken = len(recording) if isinstance(recording, str) else 0
    if count - spoken > (most := most_bytes(input_limit)):
        raise too_large(most)


def parse(body: object, defaults: Defaults) -> SpeechParams:
    """Checks a parsed JSON body.

    Raises `ApiError` 400 or 404 for a field of OpenAI's, `RequestError` for one of ours.
    """
    if not isinstance(body, dict):
        raise invalid(None, "invalid_value", "The body must be a JSON object.")
    given = {
        name: value for name, value in body.items() if value is not None or name in NULL_COUNTS
    }
    for name in SPEECH["required"]:
        if name not in given:
            problem = f"Missing required parameter: '{name}'."
            raise invalid(name, "missing_required_parameter", problem)
    named = _string("model", given["model"]) if "model" in given else None
    model = defaults.models.resolve(named)
    text = _string("input", given["input"], defaults.max_text_length)
    if not re.search(_FIELDS["input"]["pattern"], text):
        raise _wrong("input", "there is nothing to say")
    if "instructions" in given:
        _string("instructions", given["instructions"])
    fields = {
        "text": text,
        "model": model,
        "speaker_name": _voice(given["voice"]),
        "output_format": _one_of(given, "response_format", "unsupported_format"),
        "speed": _number("speed", given.get("speed", 1)),
        **{name: value for name, value in given.items() if name in EXTRAS},
    }
    sse = _one_of(given, "stream_format") == "sse"
    ignored = set(given) - set(_FIELDS) - _OF_NO_EFFECT
    request, _ = parse_request(fields, defaults)
    if not sse:
        ignored |= set(fields) & OF_EVENTS
        request = unheard(request)
    return SpeechParams(request, sse, tuple(sorted(ignored)))


def unheard(request: SpeechRequest) -> SpeechRequest:
    """The same request, of whose speech nothing is heard."""
    return request.model_copy(update={"verify": "off", "timestamps": None, "subtitles": None})


def limited(defaults: Defaults, input_limit: int) -> Defaults:
    """The same defaults with a text limit of `input_limit` characters."""
    return replace(defaults, max_text_length=input_limit)


def _voice(value: object) -> str:
    if isinstance(value, dict):
        if set(value) != {"id"}:
            raise _wrong("voice", "expected a name or an object with just an 'id'")
        value = value["id"]
    return _string("voice", value, schema=_FIELDS["voice"]["anyOf"][0])


def _string(
    name: str, value: object, most: int | None = None, schema: Mapping[str, Any] | None = None
) -> str:
    """Checks a string by `schema` (default: the field's). `most` replaces its maximum length."""
    limits = schema or _FIELDS[name]
    most, least = most or limits["maxLength"], limits.get("minLength", 0)
    if not isinstance(value, str):
        raise _wrong_type(name, "a string", value)
    if len(value) > most:
        problem = (
            f"Invalid '{name}': string too long. Expected a string with maximum length {most}, "
            f"but got a string with length {len(value)} instead."
        )
        raise invalid(name, "string_above_max_length", problem)
    if len(value) < least:
        raise _wrong(name, "expected a string that is not empty")
    return value


def _number(name: str, given: object) -> float:
    least, most = _FIELDS[name]["minimum"], _FIELDS[name]["maximum"]
    try:
        value = number(given)
    except Wrong as wrong:
        value = None if wrong.code == "invalid_type" else math.inf
    if not isinstance(value, int | float):
        raise _wrong_type(name, "a number", given)
    if not least <= value <= most:
        shown = str(value) if abs(value) < 1e9 else "a larger one"
        raise _wrong(name, f"expected a number from {least} up to {most}, but got {shown} instead")
    return value


def _one_of(given: Mapping[str, Any], name: str, code: str = "invalid_value") -> str:
    allowed, value = _FIELDS[name]["enum"], given.get(name, _FIELDS[name]["default"])
    if not isinstance(value, str):
        raise _wrong_type(name, "a string", value)
    if value not in allowed:
        listed = ", ".join(f"'{each}'" for each in allowed)
        problem = f"Invalid value: '{value[:50]}'. Supported values are: {listed}."
        raise invalid(name, code, problem)
    return value


def _wrong(name: str, problem: str) -> ApiError:
    return invalid(name, "invalid_value", f"Invalid '{name}': {problem}.")


def _wrong_type(name: str, expected: str, value: object) -> ApiError:
    problem = f"Invalid type for '{name}': expected {expected}, but got {kind_of(value)} instead."
    return invalid(name, "invalid_type", problem)
