"""The preview voice: every language, no model, by espeak-ng. Its phonemes serve other engines too.

engine.py    the engine                   reading.py  a text cut into pieces, and as phonemes
languages.py languages by tag and script  library.py  espeak-ng's C library
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.base import Engine, EngineSettings

IN_PROCESS = True
"""espeak-ng is C code that releases the GIL, and it has no GPU context that could break."""


def create(_: "EngineSettings") -> "Engine":
    from engines.espeak.engine import EspeakEngine

    return EspeakEngine()
