"""The form of `/v1/audio/transcriptions`: OpenAI's fields, checked.

Names of lists are taken with and without `[]`. An unknown field never fails a request.
"""

from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from api.errors import ApiError, invalid
from api.middleware import BodyLimit
from api.transcription.answers import FORMATS, HearParams
from api.voices import is_form
from config import Settings
from request.errors import RequestError
from request.transcription import MAX_KEYWORDS, MOST_REFERENCE_CHARS, parse_transcription
from request.values import MAX_SPEAKERS

_TEXTS = ("model", "language", "prompt", "temperature")
_LISTS = (
    "keywords",
    "languages",
    "known_speaker_names",
    "known_speaker_references",
    "include",
    "timestamp_granularities",
)
_KNOWN = {"file", "response_format", "stream", "chunking_strategy", *_TEXTS, *_LISTS}
_MOST_TEXT = MAX_SPEAKERS * MOST_REFERENCE_CHARS + 2**20
_UPLOAD_SEC = 600
_STREAMED = ("json", "text", "diarized_json")
WORDS = {"audio": "file", "known_speakers": "known_speaker_references"}
"""OpenAI's names of our fields."""

HEARING_PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations")


def _body(names: tuple[str, ...]) -> dict[str, Any]:
    """The form's schema, with these fields besides the file."""
    text = {"type": "string"}
    shapes: dict[str, Any] = {
        "file": {"type": "string", "format": "binary", "description": "Any common audio format"},
        "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
        "stream": {"type": "boolean", "default": False},
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
    }
    fields = {
        name: {"type": "array", "items": text} if name.endswith("[]") else shapes.get(name, text)
        for name in ("file", *names)
    }
    schema = {"type": "object", "required": ["file"], "properties": fields}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


_TRANSLATED = ("model", "prompt", "temperature", "response_format")
TRANSLATION_BODY = _body(_TRANSLATED)
TRANSCRIPTION_BODY = _body((*_TRANSLATED, "language", "stream", *(f"{each}[]" for each in _LISTS)))
TRANSCRIPTION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript in the asked form, or events",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/plain": {"schema": {"type": "string"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}


def upload_limit(settings: Settings) -> BodyLimit:
    """The limit of a body: the file, and what the texts beside it may have."""
    return BodyLimit(settings.max_upload_mb * 2**20 + _MOST_TEXT, _UPLOAD_SEC)


class _Parser(MultiPartParser):
    """Starlette's parser, which bounds each text and not all of them together: they are kept in
    memory, while a file goes to disk."""

    _texts = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._texts += end - start
            if self._texts > _MOST_TEXT:
                raise MultiPartException(f"The fields have more than {_MOST_TEXT} bytes.")
        super().on_part_data(data, start, end)


async def read_form(request: Request) -> FormData:
    """The form of a request. Raises `ApiError` 400 or 415."""
    await is_form(request)
    kind = request.headers["content-type"]
    if not parse_options_header(kind)[1].get(b"boundary"):
        raise invalid(None, "invalid_value", "The Content-Type names no boundary.")
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=MAX_KEYWORDS + 100,
        max_part_size=MOST_REFERENCE_CHARS,
    )
    try:
        return await parser.parse()
    except MultiPartException as problem:
        raise invalid(None, "invalid_value", problem.message) from problem


def params_of(form: FormData, *, translate: bool) -> HearParams:
    """Checks a form. Raises `ApiError` 400, or `RequestError` with our names of the fields."""
    given = _fields(form)
    _check_file(given)
    form_of_answer = _one_of(given, "response_format", FORMATS[:-1] if translate else FORMATS)
    granularities = _chosen(given, "timestamp_granularities", ("word", "segment")) or ["segment"]
    fields: dict[str, Any] = {
        name: given[name] for name in _TEXTS if given.get(name) not in (None, "")
    }
    if given.get("keywords"):
        fields["keywords"] = given["keywords"]
    if known := _known_speakers(given):
        fields["known_speakers"] = known
    if "language" not in fields and len(languages := given.get("languages", [])) == 1:
        fields["language"] = languages[0]
    fields |= {"speakers": form_of_answer == "diarized_json", "translate": translate}
    request, _ = parse_transcription(fields, has_file=True)
    return HearParams(
        request,
        form_of_answer,
        # whisper-1 does not stream at OpenAI either: the field is ignored.
        stream=_boolean(given, "stream") and form_of_answer in _STREAMED,
        segments="segment" in granularities,
        words=form_of_answer == "verbose_json" and "word" in granularities,
        logprobs="logprobs" in _chosen(given, "include", ("logprobs",))
        and form_of_answer == "json",
        ignored=tuple(sorted(name for name in given if name not in _KNOWN)),
    )


def _fields(form: FormData) -> dict[str, Any]:
    """The form by names: a list for each name of a list, else the last value."""
    given: dict[str, Any] = {}
    for key, value in form.multi_items():
        name = key.partition("[")[0] if key.startswith("chunking_strategy") else key
        name = name.removesuffix("[]")
        if name in _LISTS:
            given.setdefault(name, []).append(value)
        else:
            given[name] = value
    return given


def _check_file(given: dict[str, Any]) -> None:
    if "file" not in given:
        problem = "Missing required parameter: 'file'."
        raise invalid("file", "missing_required_parameter", problem)
    if not isinstance(given["file"], UploadFile):
        raise invalid("file", "invalid_type", "file: is a text, and should be a file.")


def _known_speakers(given: dict[str, Any]) -> dict[str, str]:
    names = given.get("known_speaker_names", [])
    references = given.get("known_speaker_references", [])
    if len(names) != len(references):
        problem = f"has {len(references)} recordings for {len(names)} names"
        raise RequestError(problem, "known_speakers", allowed="one recording a name")
    if len(set(names)) != len(names):
        raise invalid(
            "known_speaker_names", "invalid_value", "known_speaker_names: has a name twice."
        )
    return dict(zip(names, references, strict=True))


def _one_of(given: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = given.get(name) or allowed[0]
    if value not in allowed:
        raise _unsupported(name, value, allowed)
    return str(value)


def _chosen(given: dict[str, Any], name: str, allowed: tuple[str, ...]) -> list[str]:
    for value in given.get(name, []):
        if value not in allowed:
            raise _unsupported(name, value, allowed)
    return list(given.get(name, []))


def _unsupported(name: str, value: str, allowed: tuple[str, ...]) -> ApiError:
    listed = ", ".join(f"'{each}'" for each in allowed)
    problem = f"Invalid value: '{value[:50]}'. Supported values are: {listed}."
    code = "unsupported_format" if name == "response_format" else "invalid_value"
    return invalid(name, code, problem)


def _boolean(given: dict[str, Any], name: str) -> bool:
    value = str(given.get(name) or "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise _unsupported(name, value, ("true", "false"))
    return value in ("true", "1")
