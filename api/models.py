"""The models of a server, as OpenAI lists them."""

from typing import Any

from request.models import OURS, ModelNames

_CREATED = 1_756_166_400  # seconds: 2025-08-26, when VibeVoice came out


def model(names: ModelNames, name: str) -> dict[str, Any]:
    """A model as OpenAI's `model` object. Raises `RequestError` for an unknown name."""
    meant = names.resolve(name)
    alias = {} if meant.lower() == name.lower() else {"alias_of": meant}
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": OURS, **alias}


def models(names: ModelNames) -> dict[str, Any]:
    """All models as OpenAI's `list`. The key `models` is for GUIs that read /v1/audio/models."""
    data = [model(names, name) for name in names.listed]
    return {"object": "list", "data": data, "models": data}
