"""Model names: our own, those of the served model, and all names of OpenAI's speech models.

Many clients have one of OpenAI's names in their code. All names mean the same model.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from api.errors import invalid

OURS = "vibevoice"
NAMES = (
    OURS,
    "tts-1",
    "tts-1-hd",
    "tts-1-1106",
    "tts-1-hd-1106",
    "gpt-4o-mini-tts",
    "gpt-4o-mini-tts-2025-03-20",
    "gpt-4o-mini-tts-2025-12-15",
)
_CREATED = 1_756_166_400  # seconds: 2025-08-26, when VibeVoice came out


def names_of(model_path: str) -> tuple[str, ...]:
    """All names of a server's model: `NAMES`, its hub id or folder, and the last part of that."""
    return tuple(dict.fromkeys((*NAMES, model_path, PurePath(model_path).name)))


def model(name: str, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """A model as OpenAI's `model` object. Raises `ApiError` 404 for an unknown name."""
    if name not in names and name.lower() != OURS:
        problem = f"The model '{name[:100]}' does not exist. There are: {', '.join(_shown(names))}"
        raise invalid("model", "model_not_found", problem, 404)
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": OURS}


def models(names: Sequence[str] = NAMES) -> dict[str, Any]:
    """All models as OpenAI's `list`. The key `models` is for GUIs that read /v1/audio/models."""
    data = [model(name, names) for name in _shown(names)]
    return {"object": "list", "data": data, "models": data}


def _shown(names: Sequence[str]) -> list[str]:
    """The names without paths of this machine."""
    return [name for name in names if not name.startswith(("/", "~", "."))]
