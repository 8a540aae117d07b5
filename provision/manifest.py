"""Manifests: JSON with one entry a line, so that bash can read it; there whole or not at all."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(path: Path, facts: Mapping[str, object]) -> None:
    """Puts a manifest in place in one step, once its bytes are on the disk."""
    fresh = path.with_name(f".building-{os.getpid()}{path.name}")
    text = json.dumps({**facts, "written": _now()}, indent=2, ensure_ascii=False)
    with fresh.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read(path: Path) -> dict[str, Any]:
    """Empty where there is none, or none that can be read: then it counts for nothing."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
