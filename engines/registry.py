"""Which engine speaks: the one place that knows them all by name."""

import importlib.util

from engines.base import Engine
from speech.errors import EngineError


def choose_engine(setting: str, on_runpod: bool) -> str:
    """Resolves `auto`: VibeVoice on RunPod and wherever there is a GPU, else the preview voice.

    A RunPod worker never falls back to the preview voice: a paying caller would take it for the
    model's own.
    """
    if setting != "auto":
        return setting
    return "vibevoice" if on_runpod or _has_gpu() else "espeak"


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def create_engine(name: str) -> Engine:
    """Makes the engine of that name, not yet loaded."""
    if name == "espeak":
        from engines.espeak import EspeakEngine

        return EspeakEngine()
    raise EngineError(f"ENGINE={name} is not part of this version; set ENGINE=espeak")
