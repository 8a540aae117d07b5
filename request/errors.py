"""Errors as data: codes, problems, and the exceptions that carry them.

A `SpeechError` holds one or more `Problem`s, and `str()` makes a sentence of them for the caller.
No code reads a sentence: programs decide by the `code`. `CODES` has the meaning of each.

A problem names no path of the machine and carries no secret. Any other exception is an internal
error, which a door reports without its text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Code:
    """The meaning of a code: its HTTP status, and `retry`, the seconds after which the same request
    may succeed (None: it would fail again)."""

    status: int
    meaning: str
    retry: int | None = None


CODES: Mapping[str, Code] = {
    "missing_required_parameter": Code(400, "A field that is needed is not there"),
    "invalid_type": Code(400, "A value of another kind: a word for a number, a list for a text"),
    "invalid_value": Code(400, "A value of the right kind that cannot be used"),
    "string_above_max_length": Code(400, "A text that is too long"),
    "unsupported_format": Code(400, "An audio format that nobody here makes"),
    "model_not_found": Code(404, "No model of this worker has that name"),
    "voice_not_found": Code(404, "No voice has that name, and `STRICT_VOICES` is set"),
    "worker_unavailable": Code(503, "The engine is lost and gets replaced: send it again", retry=5),
    "model_unavailable": Code(
        503, "Models that are in use leave no room for this one: send it again", retry=30
    ),
    "out_of_memory": Code(500, "The model does not fit into the memory that is free"),
    "engine_failed": Code(500, "The engine could not load, or not finish what it began"),
    "audio_too_large": Code(400, "The audio does not fit into an answer"),
    "delivery_failed": Code(500, "The audio is made and could not be handed over"),
    "internal_error": Code(500, "A fault of ours; the worker's log has its place"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One error in a request or in its processing.

    `field` is our name of the field at fault, with a place in it if needed (`speakers.2`), or None.
    `problem` completes a sentence that begins with the field. `allowed` says what the field takes.
    `retry_sec` replaces the code's `retry`, in seconds.
    """

    field: str | None
    code: str
    problem: str
    allowed: str | None = None
    retry_sec: int | None = None

    @property
    def retry(self) -> int | None:
        """Seconds after which the same request may succeed; None if it would fail again."""
        return self.retry_sec or CODES[self.code].retry

    def named(self, words: Mapping[str, str]) -> str | None:
        """The field's name for the caller. `words` maps our names to others, such as OpenAI's."""
        if self.field is None:
            return None
        name, dot, place = self.field.partition(".")
        return f"{words.get(name, name)}{dot}{place}"

    def told(self, words: Mapping[str, str]) -> str:
        """The problem as a sentence; `words` as in `named`."""
        field = self.named(words)
        named = f"{field}: {self.problem}" if field else self.problem
        return f"{named} (allowed: {self.allowed})" if self.allowed else named


class SpeechError(Exception):
    """A failure that is reported to the caller. `problems` has at least one item.

    `problem` is a tuple of problems, or the sentence of one; then the other arguments are its
    fields.
    """

    code: ClassVar[str] = "engine_failed"
    """The code of a problem that is given as a sentence without one."""

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
        """The sentence of all problems; `words` as in `Problem.named`."""
        return "; ".join(problem.told(words or {}) for problem in self.problems)


class RequestError(SpeechError):
    """The request cannot be served, and would fail again. Raised before any synthesis."""

    code = "invalid_value"


class VoiceError(RequestError):
    """A requested voice does not exist or cannot be used."""


class EngineError(SpeechError):
    """The engine could not load, or could not finish a request."""


class EngineLost(EngineError):
    """The engine's process has ended or cannot work any more, and must be replaced."""

    code = "worker_unavailable"


class DeliveryError(SpeechError):
    """The audio is made, but cannot be delivered. The sentence says where it is kept."""

    code = "delivery_failed"


class Cancelled(Exception):
    """The caller cancelled the request. This is no failure, so it is no `SpeechError`."""
