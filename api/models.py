"""The models: one of ours, and every name that OpenAI's speech models had, for clients that carry
one in their code. All of them are the same voice."""

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
    """Raises the 404 of OpenAI for a name that no model has."""
    if name not in NAMES:
        shown = name[:100]
        raise invalid("model", "model_not_found", f"The model '{shown}' does not exist", 404)
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": OURS}


def models() -> dict[str, Any]:
    """`models` is where GUIs look for the list in /v1/audio/models."""
    data = [model(name) for name in NAMES]
    return {"object": "list", "data": data, "models": data}
