"""Manifests: JSON with one entry a line, so that bash can read it; there whole or not at all.

    python provision/manifest.py FILE KEY=VALUE ... [KEY:=FILE_OF_LINES ...]

Needs the standard library alone: it runs before there is a virtual environment.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, facts: Mapping[str, object]) -> None:
    """Puts a manifest in place in one step, once its bytes are on the disk."""
    fresh = path.with_name(f".building-{os.getpid()}{path.name}")
    text = json.dumps({**facts, "written": _now()}, indent=2, ensure_ascii=False)
    with fresh.open("w", encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main() -> None:
    facts: dict[str, object] = {}
    for argument in sys.argv[2:]:
        key, _, value = argument.partition("=")
        if key.endswith(":"):
            facts[key[:-1]] = Path(value).read_text(encoding="utf-8").splitlines()
        else:
            facts[key] = value
    write(Path(sys.argv[1]), facts)


if __name__ == "__main__":
    main()
