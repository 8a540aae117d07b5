"""What can go wrong, as data. Every sentence is written for the caller who reads it.

An error holds one or more `Problem`s; `str()` makes the sentence of them. No code reads a sentence:
what is done about a failure goes by its `code`, and `CODES` says what each means to a caller.

A problem names no path of the machine and carries no secret; whatever else escapes a job is an
internal error, which the doors report without its text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Code:
    """What a code means: the HTTP status, and after how many seconds the same request may succeed
    (None: it would fail again)."""

    status: int
    meaning: str
    retry: int | None = None


CODES: Mapping[str, Code] = {
    "missing_required_parameter": Code(400, "A field that is needed is not there"),
    "invalid_type": Code(400, "A value of another kind: a word for a number, a list for a text"),
    "invalid_value": Code(400, "A value of the right kind that cannot be used"),
    "string_above_max_length": Code(400, "A text that is too long"),
    "unsupported_format": Code(400, "An audio format that nobody here makes"),
    "voice_not_found": Code(404, "No voice has that name, and `STRICT_VOICES` is set"),
    "worker_unavailable": Code(503, "The engine is lost and gets replaced: send it again", retry=5),
    "engine_failed": Code(500, "The engine could not load, or not finish what it began"),
    "audio_too_large": Code(500, "The audio is made and does not fit into an answer"),
    "delivery_failed": Code(500, "The audio is made and could not be handed over"),
    "internal_error": Code(500, "A fault of ours; the worker's log has its place"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    `field` is our name of the request's field, perhaps with a place in it (`speakers.2`), or None
    where no field is to blame. `allowed` says what the field takes, where that helps. `retry_sec`
    is known better here than by the code.
    """

    field: str | None
    code: str
    problem: str
    allowed: str | None = None
    retry_sec: int | None = None

    @property
    def retry(self) -> int | None:
        """After how many seconds the same request may succeed; None where it would fail again."""
        return self.retry_sec or CODES[self.code].retry

    def named(self, words: Mapping[str, str]) -> str | None:
        """The field in the caller's words: `words` has them by our names, where they differ."""
        if self.field is None:
            return None
        name, dot, place = self.field.partition(".")
        return f"{words.get(name, name)}{dot}{place}"

    def told(self, words: Mapping[str, str]) -> str:
        field = self.named(words)
        named = f"{field}: {self.problem}" if field else self.problem
        return f"{named} (allowed: {self.allowed})" if self.allowed else named


class SpeechError(Exception):
    """A failure that the caller is told about. `problems` has at least one item."""

    code: ClassVar[str] = "engine_failed"
    """Of a problem that names none."""

    def __init__(
        self,
        problem: str | tuple[Problem, ...],
        field: str | None = None,
        *,
        code: str | None = None,
        allowed: str | None = None,
        retry_sec: int | None = None,
    ) -> None:
        if isinstance(problem, str):
            problem = (Problem(field, code or self.code, problem, allowed, retry_sec),)
        super().__init__(problem)
        self.problems = problem

    def __str__(self) -> str:
        return self.told()

    def told(self, words: Mapping[str, str] | None = None) -> str:
        """The sentence, with its fields in the caller's words; see `Problem.named`."""
        return "; ".join(problem.told(words or {}) for problem in self.problems)


class RequestError(SpeechError):
    """The request cannot be served as it stands. Raised before any synthesis."""

    code = "invalid_value"


class VoiceError(RequestError):
    """A voice that was asked for does not exist or cannot be used."""


class EngineError(SpeechError):
    """The engine could not load or could not finish what it began."""


class EngineLost(EngineError):
    """The engine has ended, or cannot work again in its process: that has to be replaced."""

    code = "worker_unavailable"


class DeliveryError(SpeechError):
    """The audio is made but cannot be handed over; the sentence says where it is kept."""

    code = "delivery_failed"


class Cancelled(Exception):
    """The job was cancelled. Not an error of anybody's, so not a `SpeechError`."""
