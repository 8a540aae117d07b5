"""What a caller may ask for: OpenAI's `CreateSpeechRequest`, and fields of our own beside it.

`parse` gives a whole `Ask` or raises the error that OpenAI would. Fields that nobody knows never
fail a request: `ignored` names them. Characters are code points, as OpenAI counts them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from speech.codecs import FORMATS
from speech.request import ALIASES, Defaults, SpeechRequest, parse_request
from web.errors import ApiError, invalid
from web.models import model

MOST_INSTRUCTIONS = 4096
MOST_NAME = 200
JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json *(;|$)", re.I)

_OWN = {"model", "input", "voice", "response_format", "speed", "stream_format", "instructions"}
# `stream` is in no contract, and clients send it: the answer is a stream in any case. The others
# belong to queue jobs.
_NOT_HERE = {"stream", "session_id", "request_id", "allow_recompress", *ALIASES.values()}
EXTRAS = set(SpeechRequest.model_fields) - _OWN - _NOT_HERE

_KINDS: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that can be served; `ignored` are the fields that change nothing."""

    speech: SpeechRequest
    sse: bool
    ignored: tuple[str, ...]


def most_bytes(input_limit: int) -> int:
    """Bytes that no body within the limits exceeds: an escaped character takes up to twelve."""
    return 2**20 + 12 * input_limit


def loads(body: bytes | str) -> object:
    """Strict JSON. Raises a 400."""
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        problem = "We could not parse the JSON body of your request."
        raise invalid(None, "invalid_json", problem) from None


def _no_number(name: str) -> None:
    raise ValueError(name)


def parse(body: object, defaults: Defaults) -> Ask:
    if not isinstance(body, dict):
        raise invalid(None, "invalid_value", "The body must be a JSON object.")
    given = {name: value for name, value in body.items() if value is not None or name == "loudness"}
    for name in ("model", "input", "voice"):
        if name not in given:
            problem = f"Missing required parameter: '{name}'."
            raise invalid(name, "missing_required_parameter", problem)
    model(_string(given, "model", 1, 1000))
    text = _string(given, "input", 1, defaults.max_text_length)
    if not text.strip():
        raise _wrong("input", "there is nothing to say")
    if "instructions" in given:
        _string(given, "instructions", 0, MOST_INSTRUCTIONS)
    fields = {
        "text": text,
        "speaker_name": _voice(given["voice"]),
        "output_format": _one_of(given, "response_format", tuple(FORMATS), "unsupported_format"),
        "speed": _number(given, "speed", 0.25, 4) if "speed" in given else 1,
        **{name: value for name, value in given.items() if name in EXTRAS},
    }
    sse = _one_of(given, "stream_format", ("audio", "sse")) == "sse"
    request, _ = parse_request(fields, defaults)
    ignored = set(given) - _OWN - EXTRAS - {"stream"}
    return Ask(request, sse, tuple(sorted(ignored)))


def limited(defaults: Defaults, input_limit: int) -> Defaults:
    return replace(defaults, max_text_length=input_limit)


def _voice(value: object) -> str:
    if isinstance(value, dict):
        if set(value) != {"id"}:
            raise _wrong("voice", "expected a name or an object with just an 'id'")
        value = value["id"]
    return _string({"voice": value}, "voice", 1, MOST_NAME)


def _string(fields: Mapping[str, Any], name: str, least: int, most: int) -> str:
    value = fields[name]
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


def _number(fields: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "a number", value)
    if not least <= value <= most:
        shown = str(value) if abs(value) < 1e9 else "a larger one"
        raise _wrong(name, f"expected a number from {least} up to {most}, but got {shown} instead")
    return value


def _one_of(
    fields: Mapping[str, Any], name: str, allowed: tuple[str, ...], code: str = "invalid_value"
) -> str:
    """The first of `allowed` is the default."""
    value = fields.get(name, allowed[0])
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
    got = _KINDS.get(type(value), "something else")
    problem = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return invalid(name, "invalid_type", problem)
