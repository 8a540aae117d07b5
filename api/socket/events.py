"""What may be said on the socket, checked. docs/streaming.md has the table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from api.contract import loads
from api.errors import ApiError, invalid
from api.models import model
from api.schema import EXTRAS
from audio.codecs import FORMATS
from request.model import NULL_COUNTS, Defaults, SpeechRequest, parse_request
from text.feed import Granularity

TYPES = ("session.config", "input.text", "input.done", "cancel", "pause", "resume", "session.close")
RATES = (24_000, 48_000)
MOST_CONTEXT_ID = 100
_MOST_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How utterances are spoken; `request` has a text that stands for theirs."""

    request: SpeechRequest
    sample_rate: int = 24_000
    paced: bool = False
    granularity: Granularity = "sentence"
    max_buffer_delay_ms: int = 1000


def parse_message(data: str) -> dict[str, Any]:
    message = loads(data)
    if not isinstance(message, dict) or message.get("type") not in TYPES:
        raise invalid("type", "invalid_value", f"A message has a type: {', '.join(TYPES)}.")
    return message


def parse_config(message: Mapping[str, Any], defaults: Defaults) -> SessionConfig:
    """Unknown fields are ignored, as everywhere."""
    given = {name: value for name, value in message.items() if value is not None}
    if "model" in given:
        model(str(given["model"]))
    fields: dict[str, Any] = {name: given[name] for name in EXTRAS if name in given}
    fields |= {name: message[name] for name in NULL_COUNTS if name in message}
    for name in ("voice", "speed"):
        if name in given:
            fields[name] = given[name]
    form = _choice(given, "response_format", "pcm", tuple(FORMATS))
    request, _ = parse_request({**fields, "text": "-", "output_format": form}, defaults)
    paced = given.get("paced", False)
    if not isinstance(paced, bool):
        raise invalid("paced", "invalid_type", "Invalid type for 'paced': expected a boolean.")
    if paced and form != "pcm":
        raise invalid("paced", "invalid_value", "Only pcm can be paced.")
    return SessionConfig(
        request,
        _choice(given, "sample_rate", 24_000, RATES),
        paced,
        _choice(given, "split_granularity", "sentence", get_args(Granularity)),
        whole(given, "max_buffer_delay_ms", 0, 60_000, 1000),
    )


def whole(fields: Mapping[str, Any], name: str, least: int, most: int, default: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        problem = f"Invalid '{name}': expected a whole number from {least} to {most}."
        raise invalid(name, "invalid_value", problem)
    return value


def played_ms(message: Mapping[str, Any]) -> int | None:
    found: int | None = whole(message, "played_ms", 0, _MOST_MS, None)
    return found


def text_of(message: Mapping[str, Any]) -> str:
    text = message.get("text")
    if not isinstance(text, str):
        raise invalid("text", "invalid_type", "Invalid type for 'text': expected a string.")
    return text


def context_of(message: Mapping[str, Any]) -> str | None:
    name = message.get("context_id")
    if name is None or (isinstance(name, str) and 1 <= len(name) <= MOST_CONTEXT_ID):
        return name
    problem = f"A context_id is a string of 1 to {MOST_CONTEXT_ID} characters."
    raise invalid("context_id", "invalid_value", problem)


def _choice(fields: Mapping[str, Any], name: str, default: Any, allowed: tuple[Any, ...]) -> Any:
    value = fields.get(name, default)
    if value not in allowed or isinstance(value, bool):
        listed = ", ".join(map(str, allowed))
        raise invalid(name, "invalid_value", f"Invalid '{name}': supported are {listed}.")
    return value


def refused(code: str, message: str) -> ApiError:
    return invalid(None, code, message)
