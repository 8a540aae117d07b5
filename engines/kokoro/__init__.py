"""Kokoro-82M: a neural voice that speaks in real time on two cores.

engine.py    the engine: a text becomes phonemes, and those become sound
files.py     the model and the voices: a user's, or those of Python packages
styles.py    voices by name, blended out of those of a file
"""

from typing import TYPE_CHECKING

from engines.memory import Memory

if TYPE_CHECKING:
    from engines.base import Engine, EngineSettings

IN_PROCESS = True
"""onnxruntime is C++ that releases the GIL, and it has no GPU context that could break."""
MEMORY = Memory(host=168 << 20)
"""Of a load, with one thread; with two it is 175 MiB."""


def create(settings: "EngineSettings") -> "Engine":
    from engines.kokoro.engine import KokoroEngine
    from engines.kokoro.files import Files

    files = Files(settings["kokoro_model"], settings["kokoro_voices"], settings["vibevoice_volume"])
    return KokoroEngine(files, settings["cpu_threads"])
