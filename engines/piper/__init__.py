"""Piper: voices of one small model each, twenty times faster than they are heard.

engine.py    the engine
voices.py    the voices of a folder and of a Python package, by name
"""

from typing import TYPE_CHECKING

from engines.memory import Memory

if TYPE_CHECKING:
    from engines.base import Engine, EngineSettings

IN_PROCESS = True
"""onnxruntime is C++ that releases the GIL, and it has no GPU context that could break."""
MEMORY = Memory(host=120 << 20)
"""Of the first voice's load."""


def create(settings: "EngineSettings") -> "Engine":
    from engines.piper.engine import PiperEngine

    folder = settings["vibevoice_volume"] / "demo" / "piper"
    return PiperEngine(folder, settings["cpu_threads"])
