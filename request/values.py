"""Values of a request: what counts as a number, a name or a recording.

All doors use the same rules. `api/schema.py` writes them into the JSON schema that the bridge reads
(`bridge/values.js`). So each pattern must mean the same in Python, Rust and JavaScript.
"""

import base64
import math
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

MAX_SPEAKERS = 4
MAX_NAME = 200
MAX_URL = 2000
MAX_PRONUNCIATIONS = 500
MAX_WORD = 100
MOST_RECORDING_BYTES = 10 * 1024 * 1024
MOST_INLINE_BYTES = 7_000_000
"""A recording inside of a request. In base64 it leaves room, in the 10 MB that `/run` takes in all,
for a text of 100,000 characters in escapes of six bytes."""
MOST_RECORDING_CHARS = MOST_INLINE_BYTES * 4 // 3 + 4
MOST_WHOLE = 2**53 - 1
"""The largest safe integer in JavaScript. Above it two integers may be equal there."""

_BLANK = r"\s\x00-\x20\x85\uFEFF"  # in a character class: `\s` alone differs between languages
VISIBLE = rf"[^{_BLANK}]"
WEB_ADDRESS = rf"^https?://[^{_BLANK}]+$"
TEXTS: dict[str, Any] = {
    "number": r"^[ \t\r\n]*[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})"
    r"([eE][+-]?[0-9]{1,4})?[ \t\r\n]*$",
    "integer": r"^[ \t\r\n]*[+-]?[0-9]{1,400}(\.0{1,400})?[ \t\r\n]*$",
    "not_finite": r"^[+-]?([nN][aA][nN]|[iI][nN][fF]([iI][nN][iI][tT][yY])?)$",
    "true": ["true", "t", "yes", "y", "on", "1"],
    "false": ["false", "f", "no", "n", "off", "0"],
}
"""The texts that count as numbers and whole numbers; those for booleans in any case."""

_NUMBER, _WHOLE, _NOT_FINITE = (
    re.compile(TEXTS[kind]) for kind in ("number", "integer", "not_finite")
)
_SPEAKER = "^[0-9]{1,3}$"
_VISIBLE = re.compile(VISIBLE)
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/]")


class Wrong(ValueError):
    """A value is wrong. `code` is one of `request.errors.CODES`."""

    def __init__(self, problem: str, code: str = "invalid_value") -> None:
        super().__init__(problem)
        self.code = code


def visible(text: str) -> bool:
    """Whether the text has a character other than white space and control characters."""
    return _VISIBLE.search(text) is not None


def whole_characters(value: Any) -> Any:
    """Replaces lone surrogates, which JSON can carry and UTF-8 cannot, by U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else value


def plain(value: Any) -> Any:
    """A whole number as its text; any other value as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def name(value: Any) -> Any:
    """A voice's name of `{"id": "name"}`, as OpenAI writes it, or of a number."""
    if isinstance(value, dict) and set(value) == {"id"}:
        return value["id"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not abs(value) <= MOST_WHOLE:
        raise Wrong(f"{shown(value)} is no name")
    return str(int(value)) if value == int(value) else value


def number(value: Any) -> Any:
    """A finite number, also of a text. Raises `Wrong`. Other kinds of values stay."""
    if isinstance(value, bool):
        raise Wrong("is not a number", "invalid_type")
    if isinstance(value, str) and not _NUMBER.search(value) and not _NOT_FINITE.fullmatch(value):
        raise Wrong(f"{shown(value)} is not a number", "invalid_type")
    try:
        read = float(value) if isinstance(value, str | int) else value
    except OverflowError:
        raise Wrong(f"{shown(value)} is out of range") from None
    if isinstance(read, float) and not math.isfinite(read):
        raise Wrong(f"{shown(value)} is not finite")
    return read


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise Wrong("is not a number", "invalid_type")
    if isinstance(value, str):
        if not _WHOLE.search(value):
            raise Wrong(f"{shown(value)} is not a whole number", "invalid_type")
        return int(value.partition(".")[0])
    return value


def _boolean(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in (*TEXTS["true"], *TEXTS["false"]):
        return value.lower() in TEXTS["true"]
    return value


def _pronunciations(value: Any) -> Any:
    if not isinstance(value, dict):
        raise Wrong(f"is {kind_of(value)}", "invalid_type")
    if len(value) > MAX_PRONUNCIATIONS:
        raise Wrong(f"has {len(value)} words")
    _raise_first(
        problem
        for word, said in value.items()
        for problem in (
            *_word_problems(said, f"{shown(word)} has no usable respelling"),
            *_word_problems(word, f"{shown(word)} is no usable word"),
        )
    )
    return {whole_characters(word): whole_characters(said) for word, said in value.items()}


def _word_problems(word: Any, problem: str) -> Iterable[Wrong]:
    if not isinstance(word, str):
        yield Wrong(problem, "invalid_type")
    elif len(word) > MAX_WORD:
        yield Wrong(problem, "string_above_max_length")
    elif not visible(word):
        yield Wrong(problem)


def _speakers(value: Any) -> Any:
    if not isinstance(value, dict | list):
        raise Wrong(f"is {kind_of(value)}", "invalid_type")
    if not 1 <= len(value) <= MAX_SPEAKERS:
        raise Wrong(f"has {len(value)} entries")
    problems: list[Wrong] = []
    names = {}
    for key, given in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str) and not re.fullmatch(_SPEAKER, key):
            problems.append(Wrong(f"{shown(key)} is no speaker's number"))
        try:
            names[key] = whole_characters(_voice(given, key))
        except Wrong as problem:
            problems.append(problem)
    _raise_first(problems)
    if isinstance(value, list):
        return tuple(names.values())
    return {int(key): voice for key, voice in names.items()}


def _voice(given: Any, key: str | int) -> str:
    voice = name(given)
    if not isinstance(voice, str):
        code = "invalid_value" if voice is given and isinstance(given, dict) else "invalid_type"
        raise Wrong(f"names no voice for {shown(key)}", code)
    if not 1 <= len(voice) <= MAX_NAME:
        code = "string_above_max_length" if voice else "invalid_value"
        raise Wrong(f"names no voice for {shown(key)}", code)
    return voice


def _raise_first(problems: Iterable[Wrong]) -> None:
    """Raises the first by code: the order of an object's fields differs between languages."""
    if problem := min(problems, key=lambda each: each.code, default=None):
        raise problem


def recording(value: Any, most_chars: int = MOST_RECORDING_CHARS) -> bytes:
    """The bytes of a base64 text, or of a `data:` URL with one. Raises `Wrong`."""
    if not isinstance(value, str):
        raise Wrong(f"is {kind_of(value)}", "invalid_type")
    encoded = value.partition(";base64,")[2] if value.startswith("data:") else value
    if len(encoded) > most_chars:
        raise Wrong(f"has {len(encoded)} characters", "string_above_max_length")
    letters = encoded.removesuffix("=").removesuffix("=")
    if not encoded or len(encoded) % 4 or _NO_BASE64.search(letters):
        raise Wrong("is no base64")
    return base64.b64decode(encoded)


_PROBLEMS = {
    "missing": ("missing_required_parameter", "is missing"),
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
"""Code and problem by pydantic's error types. OpenAI too calls 1.5 an `invalid_type`."""


def problem_of(item: Any, value: object) -> tuple[str, str]:
    """The code and problem of one of pydantic's errors; `value` is what the caller gave."""
    kind = item["type"]
    if kind == "value_error" and isinstance(wrong := item["ctx"]["error"], Wrong):
        return wrong.code, str(wrong)
    code, problem = _PROBLEMS.get(kind, ("invalid_value", "is out of range"))
    if kind == "literal_error" and not isinstance(value, str):
        code = "invalid_type"
    if kind == "missing":
        return code, problem
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return code, f"{shown(value)} {problem}"
    return "invalid_type", f"is {kind_of(value)}"


def shown(value: object) -> str:
    """A caller's value for a message: ASCII, one line, at most 40 characters."""
    text = ascii(value[:50] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"


def kind_of(value: object) -> str:
    """The JSON type of a value, in words."""
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


_TEXT = {"type": "string", "minLength": 1}
_WORD = {**_TEXT, "maxLength": MAX_WORD, "pattern": VISIBLE}
_NAME = {**_TEXT, "maxLength": MAX_NAME}
_NAME_OBJECT = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": _NAME},
    "additionalProperties": False,
}
VOICE_SCHEMA: dict[str, Any] = {"anyOf": [_NAME, _NAME_OBJECT]}
"""The JSON schema of OpenAI's `voice`."""
_ANY_NAME = {
    "anyOf": [
        *VOICE_SCHEMA["anyOf"],
        {"type": "integer", "minimum": -MOST_WHOLE, "maximum": MOST_WHOLE},
    ]
}

Number = Annotated[float, BeforeValidator(number)]
Whole = Annotated[int, BeforeValidator(_whole)]
Boolean = Annotated[bool, BeforeValidator(_boolean)]
Text = Annotated[str, BeforeValidator(whole_characters)]
Name = Annotated[str, BeforeValidator(name), BeforeValidator(whole_characters)]
Plain = Annotated[str, BeforeValidator(plain)]
Recording = Annotated[
    bytes,
    BeforeValidator(lambda value: recording(value)),
    WithJsonSchema({**_TEXT, "maxLength": MOST_RECORDING_CHARS, "contentEncoding": "base64"}),
]
Pronunciations = Annotated[
    dict[str, str],
    BeforeValidator(_pronunciations),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_PRONUNCIATIONS,
            "propertyNames": _WORD,
            "additionalProperties": _WORD,
        }
    ),
]
Speakers = Annotated[
    dict[int, str] | tuple[str, ...],
    BeforeValidator(_speakers),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": MAX_SPEAKERS,
                    "propertyNames": {"pattern": _SPEAKER},
                    "additionalProperties": _ANY_NAME,
                },
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_SPEAKERS,
                    "items": _ANY_NAME,
                },
            ]
        }
    ),
]
