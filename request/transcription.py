"""The request of a transcription: one description for the queue and for HTTP.

The names are those of RunPod's worker for faster-whisper where it has one, since its jobs should
run here as they are. OpenAI's own names are read by `api/transcription.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from request.errors import Problem, RequestError
from request.fields import field, flag, known_fields, numeric, problems_of
from request.models import MOST_MODEL
from request.values import (
    MAX_NAME,
    MAX_SPEAKERS,
    MAX_URL,
    MAX_WORD,
    WEB_ADDRESS,
    Boolean,
    Number,
    Plain,
    Text,
    Wrong,
    kind_of,
    recording,
    shown,
    visible,
    whole_characters,
)

MAX_PROMPT = 4096
MAX_KEYWORDS = 500
MOST_UPLOAD_BYTES = 15 * 2**20
"""As much as a job may carry: RunPod takes 20 MB of JSON, and base64 adds a third."""
MOST_REFERENCE_CHARS = 2**22
"""The longest base64 of a known speaker's 10 s: 3 MiB, as stereo at 48 kHz takes 2."""


def _upload(value: Any) -> bytes:
    return recording(value, MOST_UPLOAD_BYTES * 4 // 3 + 4)


def _keywords(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise Wrong(f"is {kind_of(value)}", "invalid_type")
    if len(value) > MAX_KEYWORDS:
        raise Wrong(f"has {len(value)} words")
    for word in value:
        if not isinstance(word, str):
            raise Wrong(f"has {kind_of(word)} among its words", "invalid_type")
        if len(word) > MAX_WORD:
            raise Wrong(f"{shown(word)} is too long", "string_above_max_length")
    return tuple(whole_characters(word).strip() for word in value if visible(word))


def _known_speakers(value: Any) -> dict[str, bytes]:
    if not isinstance(value, Mapping):
        raise Wrong(f"is {kind_of(value)}", "invalid_type")
    if len(value) > MAX_SPEAKERS:
        raise Wrong(f"has {len(value)} speakers")
    known = {}
    for name, reference in value.items():
        if not (isinstance(name, str) and visible(name) and len(name) <= MAX_NAME):
            raise Wrong(f"{shown(name)} is no usable name")
        try:
            known[whole_characters(name)] = recording(reference, MOST_REFERENCE_CHARS)
        except Wrong as wrong:
            raise Wrong(f"the recording of {shown(name)} {wrong}", wrong.code) from None
    return known


Upload = Annotated[bytes, BeforeValidator(_upload)]
Keywords = Annotated[tuple[str, ...], BeforeValidator(_keywords)]
KnownSpeakers = Annotated[dict[str, bytes], BeforeValidator(_known_speakers)]


class TranscriptionRequest(BaseModel):
    """A checked request. Its fields are described in docs/transcription.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    audio: Text | None = field(
        None,
        "The recording, up to `MAX_UPLOAD_MB`",
        f"a public http or https address of up to {MAX_URL} characters",
        unset="required, or `audio_base64`",
        max_length=MAX_URL,
        pattern=WEB_ADDRESS,
    )
    audio_base64: Upload | None = field(
        None,
        "The recording, sent with the request",
        f"a recording of up to {MOST_UPLOAD_BYTES // 2**20} MB in base64",
    )
    model: Text | None = field(
        None,
        "Which recogniser listens; every name of OpenAI's means the default",
        f"a model's name of up to {MOST_MODEL} characters",
        unset="the default recogniser",
        max_length=MOST_MODEL,
    )
    language: Text | None = field(
        None,
        "The language that is spoken",
        "an ISO 639-1 code such as en, or a language's English name",
        unset="told by the recording",
        max_length=50,
    )
    translate: Boolean = flag("Also give the text in English, as `translation`")
    prompt: Text = field(
        "",
        "Text that came before, or names that may come",
        f"text of up to {MAX_PROMPT} characters",
        unset="none",
        openai="initial_prompt",
        max_length=MAX_PROMPT,
    )
    keywords: Keywords = field(
        (),
        "Words that are likely to come, spelt as they should be",
        f"up to {MAX_KEYWORDS} words of up to {MAX_WORD} characters, as a list",
        unset="none",
    )
    words: Boolean = flag("Also give the times of words", openai="word_timestamps")
    speakers: Boolean = flag("Say who speaks")
    known_speakers: KnownSpeakers = field(
        {},
        "Speakers whose names are known, with 2 to 10 s of the voice of each",
        f"up to {MAX_SPEAKERS} recordings in base64 by name, as "
        f'{{"name": "recording"}}; names of up to {MAX_NAME} characters',
        unset="none",
    )
    temperature: Number = numeric(
        0,
        "Above 0 words are drawn at random; 0 raises it by itself where decoding fails",
        "a number",
        0,
        1,
    )
    vad: Boolean = field(
        True,
        "Leave out what is no speech before it is decoded",
        "true or false",
        openai="enable_vad",
    )
    transcription: Literal["plain_text", "formatted_text", "srt", "vtt"] = field(
        "plain_text",
        "The form of `transcription` and `translation`; `formatted_text` has a line a segment",
        "plain_text, formatted_text, srt or vtt",
    )
    request_id: Plain | None = field(
        None,
        "Appears in the worker's log",
        "1 to 128 printable ASCII characters without spaces",
        pattern=r"^[!-~]{1,128}$",
    )


ALIASES = {"initial_prompt": "prompt", "word_timestamps": "words", "enable_vad": "vad"}
"""The names of RunPod's worker for faster-whisper, where ours differ."""


def parse_transcription(
    raw: object, *, has_file: bool = False
) -> tuple[TranscriptionRequest, list[str]]:
    """Checks a request given as parsed JSON. Raises `RequestError`. Also gives warnings.

    With `has_file` the recording has come by another way, and none is in the request.
    """
    if not isinstance(raw, Mapping):
        problem, allowed = f"is {kind_of(raw)}", "an object with a field `audio` or `audio_base64`"
        raise RequestError(problem, "input", code="invalid_type", allowed=allowed)
    fields, warnings = known_fields(raw, TranscriptionRequest, ALIASES)
    fields.pop("task", None)
    problems: list[Problem] = []
    given = [name for name in ("audio", "audio_base64") if fields.get(name)]
    if len(given) != 1 and not has_file:
        code = "invalid_value" if given else "missing_required_parameter"
        problem = "comes with audio_base64, and only one can be heard" if given else "is missing"
        problems.append(Problem("audio", code, problem, "audio or audio_base64"))
    try:
        request = TranscriptionRequest.model_validate(fields)
    except ValidationError as error:
        problems += problems_of(error, fields, allowed_in)
    if problems:
        raise RequestError(tuple(problems))
    return request, [warning for warning in warnings if not warning.startswith("'task'")]


def allowed_in(name: str) -> str:
    """What a field takes, for error messages."""
    return TranscriptionRequest.model_fields[name].description or ""
