"""Parts of a volume (environment, code), and their manifests.

A part counts once its manifest is there, which is written last. A manifest is JSON with one entry a
line, so that bash can read it. It is written atomically.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """The environment or the code. A folder without the file `proof` is not whole."""

    kind: str
    definition: bytes
    proof: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{digest(self.definition)}"

    def find(self, *places: Path) -> Path | None:
        """The first of the folders that holds the part whole, or None.

        Whole means that its manifest is not empty, and that its kept definition equals this one.
        Whether its files are damaged is another question: see `installed` and `code`.
        """
        return next((place / self.name for place in places if self._is_whole(place)), None)

    def _is_whole(self, place: Path) -> bool:
        files = [place / self.name / name for name in (".manifest.json", self.proof, ".definition")]
        return (
            all(file.exists() for file in files)
            and files[0].stat().st_size > 0
            and files[-1].read_bytes() == self.definition
        )

    def keep_definition(self, folder: Path) -> None:
        (folder / ".definition").write_bytes(self.definition)


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]


def write_manifest(path: Path, facts: Mapping[str, object]) -> None:
    """Writes a manifest atomically: fsync of a temporary file, then a rename."""
    fresh = path.with_name(f".building-{os.getpid()}{path.name}")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = json.dumps({**facts, "written": now}, indent=2, ensure_ascii=False)
    with fresh.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_manifest(path: Path) -> dict[str, Any]:
    """The entries of a manifest; empty where there is none or it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remove(folder: Path) -> None:
    """Removes a part's folder if it is there; first its manifest, so that no half counts."""
    (folder / ".manifest.json").unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def size_of(folder: Path) -> int:
    """The size of all files in a folder, in bytes."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
