"""Which engine speaks: the one place that knows them all by name."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engines.base import Engine
from request.errors import EngineError


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


def create_engine(
    name: str,
    *,
    model: str = "vibevoice/VibeVoice-7B",
    revision: str = "main",
    code: Path | None = None,
    volume: Path | None = None,
    hub_cache: Path | None = None,
    further_caches: Sequence[Path] = (),
    token: str | None = None,
    runtime: Literal["fast", "reference"] = "fast",
    slots: int | None = None,
    attention: Literal["sdpa", "flash"] | None = None,
    graphs: bool = True,
) -> Engine:
    """Makes the engine of that name, not yet loaded. The rest is for VibeVoice alone, see
    `engines.vibevoice.engine.VibeVoiceEngine`."""
    if name == "espeak":
        from engines.espeak.engine import EspeakEngine

        return EspeakEngine()
    if name == "vibevoice":
        from engines.vibevoice.engine import VibeVoiceEngine

        return VibeVoiceEngine(
            model,
            revision=revision,
            code=code,
            volume=volume,
            hub_cache=hub_cache,
            further_caches=further_caches,
            token=token,
            runtime=runtime,
            slots=slots,
            attention=attention,
            graphs=graphs,
        )
    raise EngineError(f"ENGINE={name} is unknown: set it to auto, vibevoice or espeak")
