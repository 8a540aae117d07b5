"""What a caller may ask for, checked once.

`parse_request` either gives a whole `SpeechRequest` or raises `RequestError` with a problem for
every bad field: what is wrong with it and what is allowed. Fields that nobody knows never
fail a request: they come back as warnings.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from speech.errors import Problem, RequestError
from speech.text import MAX_SPEAKERS

ALIASES = {
    "input": "text",
    "voice": "speaker_name",
    "response_format": "output_format",
}
"""OpenAI's names for fields of ours."""

OPENAI_WORDS = {ours: theirs for theirs, ours in ALIASES.items()}

MAX_PRONUNCIATIONS = 500
MOST_RECORDING_BYTES = 10 * 1024 * 1024

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """The settings that fill what a request leaves open; see `config.Settings`."""

    max_text_length: int = 100_000
    cfg_scale: float = 1.3
    loudness: float = -16.0


class _Wrong(ValueError):
    """A problem that our own checks find; `code` is one of `speech.errors.CODES`."""

    def __init__(self, problem: str, code: str = "invalid_value") -> None:
        super().__init__(problem)
        self.code = code


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise _Wrong("is not a number", "invalid_type")
    return value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _voice(value: Any) -> Any:
    """OpenAI also writes a voice as `{"id": "name"}`."""
    if isinstance(value, dict) and set(value) == {"id"}:
        return value["id"]
    return _plain(value)


def _whole_characters(value: Any) -> Any:
    """JSON can carry half a surrogate pair, which no encoder takes; it counts as one character."""
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else value


def _pronunciations(value: Any) -> Any:
    if not isinstance(value, dict):
        raise _Wrong(f"is {_kind(value)}", "invalid_type")
    if len(value) > MAX_PRONUNCIATIONS:
        raise _Wrong(f"has {len(value)} words")
    for word, respelling in value.items():
        if not isinstance(respelling, str) or not 1 <= len(respelling.strip()) <= 100:
            raise _Wrong(f"{_shown(word)} has no usable respelling")
        if not 1 <= len(word.strip()) <= 100:
            raise _Wrong(f"{_shown(word)} is no usable word")
    return {_whole_characters(word): _whole_characters(said) for word, said in value.items()}


def _speakers(value: Any) -> Any:
    if not isinstance(value, dict | list):
        raise _Wrong(f"is {_kind(value)}", "invalid_type")
    if not 1 <= len(value) <= MAX_SPEAKERS:
        raise _Wrong(f"has {len(value)} entries")
    named = value.items() if isinstance(value, dict) else enumerate(value)
    names = {key: _whole_characters(_voice(name)) for key, name in named}
    for key, name in names.items():
        if isinstance(key, str) and not re.fullmatch(r"[0-9]{1,3}", key):
            raise _Wrong(f"{_shown(key)} is no speaker's number")
        if not isinstance(name, str) or not 1 <= len(name) <= 200:
            raise _Wrong(f"names no voice for {_shown(key)}")
    if isinstance(value, list):
        return tuple(names.values())
    return {int(key): name for key, name in names.items()}


def _recording(value: Any) -> Any:
    """The bytes of a base64 text, which may stand in a `data:` URL."""
    if not isinstance(value, str):
        raise _Wrong(f"is {_kind(value)}", "invalid_type")
    encoded = value.partition(";base64,")[2] if value.startswith("data:") else value
    if len(encoded) > MOST_RECORDING_BYTES * 4 // 3 + 4:
        raise _Wrong(f"has {len(encoded)} characters")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        raise _Wrong("is no base64") from None


Number = BeforeValidator(_number)
Name = Annotated[
    str, BeforeValidator(_voice), BeforeValidator(_whole_characters), Field(max_length=200)
]


class SpeechRequest(BaseModel):
    """A request that can be served. Each description says what is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[str, BeforeValidator(_whole_characters)] = Field(
        description="text of 1 to {max_text_length} characters"
    )
    speaker_name: Name | None = Field(None, description="a voice's name of up to 200 characters")
    voice_url: str | None = Field(
        None,
        max_length=2000,
        pattern=r"^https?://[^\s]+$",
        description="a public http or https address of up to 2000 characters",
    )
    voice_base64: Annotated[bytes | None, BeforeValidator(_recording)] = Field(
        None, min_length=1, description="a recording of up to 10 MB in base64"
    )
    speakers: Annotated[dict[int, str] | tuple[str, ...] | None, BeforeValidator(_speakers)] = (
        Field(
            None,
            description='up to 4 voices as {"1": "Alice", "2": "Frank"} or as a list in order of '
            "appearance",
        )
    )
    cfg_scale: Annotated[float, Number] = Field(
        gt=0, le=10, allow_inf_nan=False, description="a number above 0, up to 10"
    )
    disable_prefill: bool = Field(False, description="true or false")
    seed: Annotated[int | None, Number] = Field(
        None, ge=0, le=2**32 - 1, description="a whole number from 0 to 4294967295"
    )
    steps: Annotated[int, Number] = Field(
        10, ge=1, le=100, description="a whole number from 1 to 100"
    )
    speed: Annotated[float, Number] = Field(
        1.0, ge=0.25, le=4, allow_inf_nan=False, description="a number from 0.25 to 4"
    )
    output_format: Format = Field("mp3", description="mp3, opus, aac, flac, wav, pcm")
    loudness: Annotated[float | None, Number] = Field(
        ge=-40, le=-6, allow_inf_nan=False, description="a LUFS value from -40 to -6, or null"
    )
    pronunciations: Annotated[dict[str, str], BeforeValidator(_pronunciations)] = Field(
        default_factory=dict,
        description="up to 500 words of up to 100 characters with respellings of up to 100, as "
        '{"word": "respelling"}',
    )
    session_id: Annotated[str | None, BeforeValidator(_plain)] = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="1 to 64 letters, digits, dots, dashes and underscores, "
        "the first a letter or digit",
    )
    request_id: Annotated[str | None, BeforeValidator(_plain)] = Field(
        None,
        pattern=r"^[!-~]{1,128}$",
        description="1 to 128 printable ASCII characters without spaces",
    )
    allow_recompress: bool = Field(False, description="true or false")
    stream: bool = Field(False, description="true or false")
    dry_run: bool = Field(False, description="true or false")


def parse_request(raw: object, defaults: Defaults) -> tuple[SpeechRequest, list[str]]:
    """Checks a job's input. Gives the request and the warnings that its answer must carry. A
    `cfg_scale` that the job left open is not in the request's `model_fields_set`."""
    if not isinstance(raw, Mapping):
        allowed = "an object with a field `text`"
        problem = f"is {_kind(raw)}"
        raise RequestError(problem, "input", code="invalid_type", allowed=allowed)
    fields, warnings = _known_fields(raw)
    problems: list[Problem] = []
    allowed_in = partial(_allowed, defaults)
    text = fields.get("text")
    if isinstance(text, str) and not 1 <= len(text) <= defaults.max_text_length:
        code = "string_above_max_length" if text else "invalid_value"
        problem = f"has {len(text)} characters"
        problems.append(Problem("text", code, problem, allowed_in("text")))
        fields["text"] = "-"
    elif isinstance(text, str) and not text.strip():
        problems.append(Problem("text", "invalid_value", "is empty", allowed_in("text")))
    fields.setdefault("loudness", defaults.loudness)
    try:
        request = SpeechRequest.model_validate({"cfg_scale": defaults.cfg_scale, **fields})
        if "cfg_scale" not in fields:
            request.model_fields_set.discard("cfg_scale")
    except ValidationError as error:
        found = {str(item["loc"][0]): item for item in reversed(error.errors(include_url=False))}
        problems += [
            Problem(name, *_problem(item), allowed_in(name))
            for name, item in reversed(found.items())
        ]
    if fields.get("voice_url") and fields.get("voice_base64"):
        problem = "comes with voice_base64, and only one can speak"
        problems.append(Problem("voice_url", "invalid_value", problem, allowed_in("voice_url")))
    if problems:
        raise RequestError(tuple(problems))
    return request, warnings


def words_of(raw: object) -> dict[str, str]:
    """The caller's names for fields, by our own, where they are others; see `Problem.named`."""
    if not isinstance(raw, Mapping):
        return {}
    given = {name for name, value in raw.items() if value is not None}
    return {o: theirs for o, theirs in OPENAI_WORDS.items() if theirs in given and o not in given}


def _known_fields(raw: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The request's own fields, and warnings on the rest."""
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    warnings: list[str] = []
    for given, value in raw.items():
        name = ALIASES.get(given, given)
        if name not in SpeechRequest.model_fields:
            warnings.append(f"{_shown(given)}: unknown field, ignored")
        elif value is None and name != "loudness":
            continue
        elif name in fields:
            first, second = (names[name], given) if names[name] == name else (given, names[name])
            if fields[name] != value:
                warnings.append(f"{second}: ignored, since {first} is given too")
            if given == name:
                fields[name], names[name] = value, given
        else:
            fields[name], names[name] = value, given
    if len(warnings) > 20:
        warnings[20:] = [f"and {len(warnings) - 20} more unknown fields, ignored"]
    return fields, warnings


_PROBLEMS = {
    "missing": ("missing_required_parameter", "is missing"),
    "float_parsing": ("invalid_type", "is not a number"),
    "int_parsing": ("invalid_type", "is not a whole number"),
    "int_from_float": ("invalid_type", "is not a whole number"),
    "int_parsing_size": ("invalid_value", "is out of range"),
    "bool_parsing": ("invalid_type", "is not true or false"),
    "bool_type": ("invalid_type", "is not true or false"),
    "finite_number": ("invalid_value", "is not finite"),
    "literal_error": ("unsupported_format", "is unknown"),
    "string_pattern_mismatch": ("invalid_value", "cannot be used"),
    "string_type": ("invalid_type", "is no text"),
    "string_too_long": ("string_above_max_length", "is too long"),
    "too_long": ("string_above_max_length", "is too long"),
}
"""Code and problem, by pydantic's types of errors. `int_from_float` is 1.5; OpenAI calls it so."""


def _problem(item: Any) -> tuple[str, str]:
    """The code and the problem of one of pydantic's."""
    kind, value = item["type"], item["input"]
    if kind == "value_error" and isinstance(wrong := item["ctx"]["error"], _Wrong):
        return wrong.code, str(wrong)
    code, problem = _PROBLEMS.get(kind, ("invalid_value", "is out of range"))
    if kind == "literal_error" and not isinstance(value, str):
        code = "invalid_type"
    if kind == "missing":
        return code, problem
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return code, f"{_shown(value)} {problem}"
    return "invalid_type", f"is {_kind(value)}"


def _allowed(defaults: Defaults, name: str) -> str:
    description = SpeechRequest.model_fields[name].description or ""
    return description.replace("{max_text_length}", str(defaults.max_text_length))


def _shown(value: object) -> str:
    """A caller's value, short and on one line."""
    text = ascii(value[:50] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"


def _kind(value: object) -> str:
    kinds = {
        type(None): "null",
        bool: "a boolean",
        list: "a list",
        dict: "an object",
        str: "a string",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")
