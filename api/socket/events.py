"""Client messages on the socket, checked. docs/streaming.md has the table.

Every function here raises `ApiError` 400 for a bad field, and names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from api.contract import OF_EVENTS, loads, unheard
from api.errors import ApiError, invalid
from api.schema import EXTRAS
from audio.codecs import FORMATS
from request.model import NULL_COUNTS, Defaults, SpeechRequest, parse_request
from text.feed import Granularity

TYPES = (
    "session.config",
    "input.text",
    "input.commit",
    "input.done",
    "cancel",
    "pause",
    "resume",
    "session.close",
)
RATES = (24_000, 48_000)
MOST_CONTEXT_ID = 100
_MOST_MS = 86_400_000
_MOST_IGNORED, _MOST_SHOWN = 20, 100
_HEARD = OF_EVENTS - {"subtitles"}
_FIELDS = EXTRAS - {"dry_run", "subtitles"} | {
    "model",
    "voice",
    "speed",
    "response_format",
    "sample_rate",
    "paced",
    "split_granularity",
    "max_buffer_delay_ms",
}


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a session's utterances are spoken: a checked `session.config`.

    The text of `request` is a placeholder. `sample_rate` is in Hz. `ignored` names the fields that
    change nothing.
    """

    request: SpeechRequest
    sample_rate: int = 24_000
    paced: bool = False
    granularity: Granularity = "sentence"
    max_buffer_delay_ms: int = 1000
    ignored: tuple[str, ...] = ()


def parse_message(data: str) -> dict[str, Any]:
    """A message as a JSON object with a known `type`."""
    message = loads(data)
    if not isinstance(message, dict) or message.get("type") not in TYPES:
        raise invalid("type", "invalid_value", f"A message has a type: {', '.join(TYPES)}.")
    return message


def parse_config(message: Mapping[str, Any], defaults: Defaults) -> SessionConfig:
    """The settings in a `session.config`. Unknown fields are ignored."""
    message = _flat(message)
    given = {name: value for name, value in message.items() if value is not None}
    ignored = sorted(name[:_MOST_SHOWN] for name in given.keys() - _FIELDS)[:_MOST_IGNORED]
    fields = {name: given[name] for name in EXTRAS - {"subtitles"} if name in given}
    fields |= {name: message[name] for name in NULL_COUNTS if name in message}
    for name in ("model", "voice", "speed"):
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
        # VERIFY does not count here: it would cost every session the text that grows.
        request if _HEARD & given.keys() else unheard(request),
        _choice(given, "sample_rate", 24_000, RATES),
        paced,
        _choice(given, "split_granularity", "sentence", get_args(Granularity)),
        whole(given, "max_buffer_delay_ms", 0, 60_000, 1000),
        tuple(ignored),
    )


def _flat(message: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `session.config`, as other servers' clients send them too.

    sglang-omni's put them into an object `session`. vLLM-Omni's may call the voice `speaker`.
    """
    fields = {name: value for name, value in message.items() if name not in ("type", "session")}
    session = message.get("session")
    if not isinstance(session, dict | None):
        raise invalid("session", "invalid_type", "Invalid type for 'session': expected an object.")
    fields |= session or {}
    if fields.get("voice") is None:
        fields["voice"] = fields.pop("speaker", None)
    return fields


def whole(fields: Mapping[str, Any], name: str, least: int, most: int, default: Any) -> Any:
    """A whole number from `least` to `most`, or `default` if the field is missing or null."""
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
    """How much of an utterance the client has played, in ms; None if it does not say."""
    found: int | None = whole(message, "played_ms", 0, _MOST_MS, None)
    return found


def text_of(message: Mapping[str, Any]) -> str:
    """The text of an `input.text`."""
    text = message.get("text")
    if not isinstance(text, str):
        raise invalid("text", "invalid_type", "Invalid type for 'text': expected a string.")
    return text


def context_of(message: Mapping[str, Any]) -> str | None:
    """The client's name of an utterance, or None."""
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
    """An error for a message that cannot be followed now; no field is at fault."""
    return invalid(None, code, message)
