"""Model names: our own, and all names of OpenAI's speech models.

Many clients have one of OpenAI's names in their code. All names mean the same model.
"""

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


def model(name: str) -> dict[str, Any]:
    """A model as OpenAI's `model` object. Raises `ApiError` 404 for an unknown name."""
    if name not in NAMES:
        shown = name[:100]
        raise invalid("model", "model_not_found", f"The model '{shown}' does not exist", 404)
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": OURS}


def models() -> dict[str, Any]:
    """All models as OpenAI's `list`. The key `models` is for GUIs that read /v1/audio/models."""
    data = [model(name) for name in NAMES]
    return {"object": "list", "data": data, "models": data}
