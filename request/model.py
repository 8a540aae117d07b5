"""The request model: one description of a speech request for all doors.

`parse_request` gives a complete `SpeechRequest`, or raises `RequestError` with a problem for each
bad field. An unknown field never fails a request: it becomes a warning.

A field is one entry of `SpeechRequest`. OpenAPI, the bridge's JSON schema and the table in
docs/api.md are generated from it (`python -m tools.contract`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from request.errors import Problem, RequestError
from request.fields import field as _field
from request.fields import flag as _flag
from request.fields import known_fields, notes_in, problems_of
from request.fields import numeric as _numeric
from request.models import MOST_MODEL, ModelNames
from request.values import (
    MAX_NAME,
    MAX_PRONUNCIATIONS,
    MAX_SPEAKERS,
    MAX_URL,
    MAX_WORD,
    MOST_INLINE_BYTES,
    WEB_ADDRESS,
    Boolean,
    Name,
    Number,
    Plain,
    Pronunciations,
    Recording,
    Speakers,
    Text,
    Whole,
    kind_of,
    visible,
)

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """The settings that replace missing fields: characters, guidance, loudness in LUFS, and the
    models, of which the first is the default. `verify` is that of requests which name none."""

    max_text_length: int = 100_000
    cfg_scale: float = 1.3
    loudness: float = -16.0
    models: ModelNames = field(default_factory=ModelNames)
    verify: str = "off"


class SpeechRequest(BaseModel):
    """A checked request. Its fields are described in docs/api.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Text = _field(
        ...,
        "What to say",
        "text of 1 to {max_text_length} characters",
        unset="required",
        openai="input",
    )
    speaker_name: Name | None = _field(
        None,
        'Who says it; `{"id": "name"}` works too, and so do OpenAI\'s 13 names',
        f"a voice's name of up to {MAX_NAME} characters",
        unset="`DEFAULT_SPEAKER`",
        openai="voice",
        max_length=MAX_NAME,
    )
    model: Text | None = _field(
        None,
        "Which of the worker's [models](models.md) speaks. Once checked it is the model's id",
        f"a model's name of up to {MOST_MODEL} characters",
        unset="the default model",
        max_length=MOST_MODEL,
    )
    language: Text | None = _field(
        None,
        "The language of the text. A model that does not speak it refuses the request",
        "a language tag (BCP 47) such as en, de or pt-BR",
        unset="told by the text or the voice",
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,5}$",
    )
    voice_url: Text | None = _field(
        None,
        "A recording to speak like, up to 10 MB; its first 30 s are used, at least 3 s are needed",
        f"a public http or https address of up to {MAX_URL} characters",
        max_length=MAX_URL,
        pattern=WEB_ADDRESS,
    )
    voice_base64: Recording | None = _field(
        None,
        "The same recording, sent with the request",
        f"a recording of up to {MOST_INLINE_BYTES // 10**6} MB in base64",
    )
    speakers: Speakers | None = _field(
        None,
        "Voices of a script's speakers, by number or in order of appearance. Of speakers without a "
        "name, the first gets `speaker_name`, each other one a voice that is still free",
        f'up to {MAX_SPEAKERS} voices as {{"1": "Alice", "2": "Frank"}} or as a list in order of '
        "appearance",
    )
    cfg_scale: Number = _field(
        ...,
        "Guidance of the diffusion head. Where it is not given, the 1.5B gets at least 3 for "
        "[a few words](#a-few-words)",
        "a number above 0, up to 10",
        unset="`DEFAULT_CFG_SCALE`",
        gt=0,
        le=10,
    )
    disable_prefill: Boolean = _flag("Speak without the voice's recording")
    seed: Whole | None = _numeric(
        None,
        "The same seed, text and voice give the same samples, on the same kind of GPU and with the "
        "same `model.graph_shape` ([frame-loop.md](frame-loop.md#graph-shapes))",
        "a whole number",
        0,
        2**32 - 1,
        unset="drawn",
    )
    steps: Whole = _numeric(10, "Diffusion steps a frame", "a whole number", 1, 100)
    speed: Number = _numeric(
        1.0,
        "Tempo at constant pitch; the pauses scale too",
        "a number",
        0.25,
        4,
    )
    output_format: Format = _field(
        "mp3",
        "`pcm` is signed 16 bit, little endian, mono, without a header",
        ", ".join(get_args(Format)),
        openai="response_format",
    )
    loudness: Number | None = _numeric(
        ...,
        "Integrated loudness in LUFS under a true-peak ceiling of -1.5 dBTP; `null` leaves the "
        "samples alone",
        "a LUFS value",
        -40,
        -6,
        ", or null",
        unset="`TARGET_LUFS`",
    )
    pronunciations: Pronunciations = _field(
        {},
        "Respellings of whole words. A word in lower case matches any case, others match exactly",
        f"up to {MAX_PRONUNCIATIONS} words of up to {MAX_WORD} characters with respellings of up "
        f'to {MAX_WORD}, as {{"word": "respelling"}}',
        unset="none",
    )
    verify: Text = _field(
        "off",
        "Hear what was spoken, see [Verification](transcription.md#verification). `warn` says what "
        "was not heard, `repeat` also generates bad chunks again",
        "off, warn or repeat",
        unset="`VERIFY`",
        pattern="^(off|warn|repeat)$",
    )
    timestamps: Text | None = _field(
        None,
        "`word`: the answer's `words` say when each word of the text is spoken, see "
        "[Word times](transcription.md#word-times-and-subtitles)",
        "word",
        unset="none",
        pattern="^word$",
    )
    subtitles: Text | None = _field(
        None,
        "The answer's `subtitles` are a file of that format",
        "srt or vtt",
        unset="none",
        pattern="^(srt|vtt)$",
    )
    session_id: Plain | None = _field(
        None,
        "Names the kept copy",
        "1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit",
        unset="the job's id",
        jobs_only=True,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    )
    request_id: Plain | None = _field(
        None,
        "Appears in the worker's log",
        "1 to 128 printable ASCII characters without spaces",
        jobs_only=True,
        pattern=r"^[!-~]{1,128}$",
    )
    allow_recompress: Boolean = _flag(
        "Send Opus where the asked format is too large for an answer, and there is no S3 store or "
        "its upload failed",
        jobs_only=True,
    )
    must_fit: Boolean = _flag(
        "Refuse what would not fit into an answer before it is spoken, and name the formats that "
        "would; for callers who do not reach the volume",
        jobs_only=True,
    )
    stream: Boolean = _flag(
        "Send audio in parts while it is made, see [Streaming](#streaming)",
        jobs_only=True,
    )
    dry_run: Boolean = _flag("Give the text's plan and speak nothing, see [Dry run](#dry-run)")

    @property
    def heard_for(self) -> str | None:
        """The first field for which its speech has to be heard; None if there is none."""
        asked = {
            "verify": self.verify != "off",
            "timestamps": self.timestamps,
            "subtitles": self.subtitles,
        }
        return next((name for name, value in asked.items() if value), None)


notes_of = partial(notes_in, SpeechRequest)
"""The notes of a field of `SpeechRequest`, by its name."""


OPENAI_WORDS: dict[str, str] = {
    name: words for name in SpeechRequest.model_fields if (words := notes_of(name)["openai"])
}
"""OpenAI's names of fields by our names."""

ALIASES = {theirs: ours for ours, theirs in OPENAI_WORDS.items()}

NULL_COUNTS = frozenset({"loudness"})
"""Fields whose `null` is a value. For any other field null means that it is not given."""

EXCLUSIVE = ("voice_url", "voice_base64")
"""Two fields of which a request may have only one."""


def parse_request(raw: object, defaults: Defaults) -> tuple[SpeechRequest, list[str]]:
    """Checks a request given as parsed JSON. Raises `RequestError`.

    Also gives warnings for the answer. A default `cfg_scale` is not in `model_fields_set`. `model`
    is the id of one of `defaults.models`."""
    if not isinstance(raw, Mapping):
        allowed = "an object with a field `text`"
        problem = f"is {kind_of(raw)}"
        raise RequestError(problem, "input", code="invalid_type", allowed=allowed)
    fields, warnings = known_fields(raw, SpeechRequest, ALIASES, NULL_COUNTS)
    problems: list[Problem] = []
    allowed_in = partial(_allowed, defaults)
    text = fields.get("text")
    if isinstance(text, str) and not 1 <= len(text) <= defaults.max_text_length:
        code = "string_above_max_length" if text else "invalid_value"
        problem = f"has {len(text)} characters"
        problems.append(Problem("text", code, problem, allowed_in("text")))
        fields["text"] = "-"
    elif isinstance(text, str) and not visible(text):
        problems.append(Problem("text", "invalid_value", "is empty", allowed_in("text")))
    fields.setdefault("loudness", defaults.loudness)
    fields.setdefault("verify", defaults.verify)
    try:
        request = SpeechRequest.model_validate({"cfg_scale": defaults.cfg_scale, **fields})
        if "cfg_scale" not in fields:
            request.model_fields_set.discard("cfg_scale")
    except ValidationError as error:
        problems += problems_of(error, fields, allowed_in)
    first, second = EXCLUSIVE
    if fields.get(first) and fields.get(second):
        problem = f"comes with {second}, and only one can speak"
        problems.append(Problem(first, "invalid_value", problem, allowed_in(first)))
    if problems:
        raise RequestError(tuple(problems))
    return request.model_copy(update={"model": defaults.models.resolve(request.model)}), warnings


def words_of(raw: object) -> dict[str, str]:
    """OpenAI's names that the caller used, by our names; for `Problem.named`."""
    if not isinstance(raw, Mapping):
        return {}
    given = {name for name, value in raw.items() if value is not None}
    return {o: theirs for o, theirs in OPENAI_WORDS.items() if theirs in given and o not in given}


def _allowed(defaults: Defaults, name: str) -> str:
    description = SpeechRequest.model_fields[name].description or ""
    return description.replace("{max_text_length}", str(defaults.max_text_length))
