"""The preview voice: every language, no model, by espeak-ng."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.base import Engine, EngineSettings

IN_PROCESS = True
"""It is C that lets go of the interpreter, and has no device to lose."""


def create(_: "EngineSettings") -> "Engine":
    from engines.espeak.engine import EspeakEngine

    return EspeakEngine()
