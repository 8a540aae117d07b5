"""The names of models: what a request's `model` may be, and which engine it means.

A name means, in any case: a model of this worker, an alias of MODEL_ALIASES, or, for OpenAI's names
of speech models, the default. Many clients have one of OpenAI's names in their code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Self

from request.errors import RequestError
from request.values import shown

OURS = "vibevoice"
_LONG_NAMES = {"vibevoice-realtime": "realtime"}
OPENAI_NAMES = (
    "tts-1",
    "tts-1-hd",
    "tts-1-1106",
    "tts-1-hd-1106",
    "gpt-4o-mini-tts",
    "gpt-4o-mini-tts-2025-03-20",
    "gpt-4o-mini-tts-2025-12-15",
)
OPENAI_HEARING_NAMES = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize",
)
"""OpenAI's names of models that transcribe: each means the default recogniser."""
MOST_MODEL = 200
"""The longest name of a model, in characters."""


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names that one worker answers to. `ids` are its models, the default first. `aliases` are
    further names, each with its id; they come before `openai`, whose names mean the default."""

    ids: tuple[str, ...] = (OURS,)
    aliases: Mapping[str, str] = field(default_factory=dict)
    openai: tuple[str, ...] = OPENAI_NAMES

    @classmethod
    def of(cls, ids: tuple[str, ...], aliases: Mapping[str, str], model_path: str) -> Self:
        """With the names of VibeVoice, MODEL_PATH and its last part: the default has them where
        VibeVoice is not among the models."""
        meant = OURS if OURS in ids else ids[0]
        served = (OURS, model_path, PurePath(model_path).name)
        named = {name: each for name, each in _LONG_NAMES.items() if each in ids}
        return cls(ids, dict.fromkeys(served, meant) | named | dict(aliases))

    @property
    def names(self) -> dict[str, str]:
        """Every name with its id: the ids, the aliases, OpenAI's names."""
        own = {**dict(zip(self.ids, self.ids, strict=True)), **self.aliases}
        return own | {name: self.ids[0] for name in self.openai if name not in own}

    @property
    def listed(self) -> tuple[str, ...]:
        """The same names without paths of this machine."""
        return tuple(name for name in self.names if not name.startswith(("/", "~", ".")))

    def has(self, name: str) -> bool:
        """Whether `resolve` knows the name."""
        return name.lower() in {known.lower() for known in self.names}

    def resolve(self, name: str | None) -> str:
        """The id that a name means, in any case; the default's for none. Raises `RequestError` for
        a name that nothing has, with the list of those that do."""
        if not name:
            return self.ids[0]
        for known, meant in self.names.items():
            if known.lower() == name.lower():
                return meant
        problem, allowed = f"{shown(name)} does not exist", ", ".join(self.listed)
        raise RequestError(problem, "model", code="model_not_found", allowed=allowed)


def listed(value: Any) -> Any:
    """The words of a setting with commas between, in lower case. Other kinds of values stay. A
    model's long name is its short one."""
    if not isinstance(value, str):
        return value
    words = (word.strip().lower() for word in value.split(","))
    return tuple(_LONG_NAMES.get(word, word) for word in words if word)


def preloaded(value: Any) -> Any:
    """The same of PRELOAD_MODELS, whose `true` is the default model, here "", and `false` none."""
    words = listed(value)
    if words in (("true",), ("yes",), ("on",), ("1",)):
        return ("",)
    return () if words in (("false",), ("no",), ("off",), ("0",)) else words


def pairs(value: Any) -> Any:
    """The pairs of a setting `name=model, ...`. Other kinds of values stay."""
    if not isinstance(value, str):
        return value
    found = [pair.partition("=")[::2] for pair in value.split(",") if pair.strip()]
    if not all(name.strip() and meant.strip() for name, meant in found):
        raise ValueError("has to be name=model, with commas between")
    return {name.strip(): meant.strip().lower() for name, meant in found}
