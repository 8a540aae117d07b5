"""The models of a server, as OpenAI lists them."""

from typing import Any

from request.models import OURS, ModelNames

_CREATED = 1_756_166_400  # seconds: 2025-08-26, when VibeVoice came out


def model(name: str, *lists: ModelNames) -> dict[str, Any]:
    """A model as OpenAI's `model` object, of the first list that has it.

    Raises `RequestError` for a name that none has, as the first list does.
    """
    names = next((names for names in lists if names.has(name)), lists[0])
    meant = names.resolve(name)
    alias = {} if meant.lower() == name.lower() else {"alias_of": meant}
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": OURS, **alias}


def models(*lists: ModelNames) -> dict[str, Any]:
    """All models as OpenAI's `list`. The key `models` is for GUIs that read /v1/audio/models."""
    data = [model(name, *lists) for names in lists for name in names.listed]
    return {"object": "list", "data": data, "models": data}
