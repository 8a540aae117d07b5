"""The engines by name. To add one, add a folder with `create(settings)`, and its name below.

    engines/<name>/__init__.py    create(settings)    the engine, not yet loaded
                                  IN_PROCESS          whether it may share a server's process
                                  MEMORY              what a load takes at least, if that is known

`settings` are `config.Settings.engine_settings`. They are plain data, so an engine reads no
environment variables and can be made in another process.
"""

import importlib
import importlib.util

from engines.base import Engine, EngineSettings
from engines.memory import Memory
from engines.subprocess import SubprocessEngine
from request.errors import EngineError

NAMES = ("vibevoice", "realtime", "kokoro", "piper", "espeak", "upstream")


def create_engine(name: str, settings: EngineSettings, *, subprocess: bool = False) -> Engine:
    """Makes an engine by name; it is not loaded yet. Raises `EngineError` for an unknown name.

    With `subprocess` it runs in a process of its own, unless its package says `IN_PROCESS`.
    """
    if name not in NAMES:
        raise EngineError(f"ENGINE={name} is unknown: set it to auto, {', '.join(NAMES)}")
    package = importlib.import_module(f"engines.{name}")
    if subprocess and not package.IN_PROCESS:
        return SubprocessEngine(name, settings)
    engine: Engine = package.create(settings)
    return engine


def least_memory(name: str) -> Memory:
    """What a load of an engine takes at least; nothing where that depends on its model."""
    package = importlib.import_module(f"engines.{name}") if name in NAMES else None
    known: Memory = getattr(package, "MEMORY", Memory())
    return known


def choose_engine(setting: str, on_runpod: bool) -> str:
    """Resolves `auto`: VibeVoice on RunPod and wherever there is a GPU, else Kokoro.

    A RunPod worker never falls back to another voice, because a paying caller would take it for the
    model's.
    """
    if setting != "auto":
        return setting
    return "vibevoice" if on_runpod or _has_gpu() else "kokoro"


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
