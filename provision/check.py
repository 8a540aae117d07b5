"""`--check`: prints the state of the volume as a table."""

import os
import shutil
import time
from pathlib import Path

from provision import flags
from provision.lock import Lock
from provision.parts import read_manifest
from provision.wanted import Wanted


def check(wanted: Wanted) -> bool:
    """Prints the table. True where the next start is warm, which bootstrap.sh has determined."""
    volume = wanted.volume
    _row("part", "state", "size", "detail")
    _part("Python environment", wanted.find_venv(), wanted.venv.name, "torch", "flash_attention")
    _part("VibeVoice's code", wanted.find_code(), wanted.code.name, "commit")
    _row("model", *_model(wanted))
    _row("voices", detail=f"{len(_files(volume / 'demo' / 'voices'))} files")
    state = "writable" if os.access(volume, os.W_OK) else "read-only"
    if wanted.unattached or not volume.is_dir():
        state = "absent"
    _row("volume", state, detail=f"{volume}{_free(volume)}")
    held = Lock(volume / ".lock", wanted.worker).describe()
    _row("lock", "held" if held else "free", detail=held)
    fresh = [mark for mark in _files(volume / ".in-use") if time.time() - _changed(mark) < 120]
    _row("in use by", detail=f"{len(fresh)} workers in the last two minutes")
    missing = "something is missing: --prefetch fills it in"
    if state == "read-only":
        missing = "the volume takes no files: the container disk is used"
    _row("next start", "warm" if wanted.warm else "cold", detail="" if wanted.warm else missing)
    return bool(wanted.warm)


def _row(title: str, state: str = "", size: str = "", detail: str = "") -> None:
    print(f"{title:20} {state:10} {size:10} {detail}".rstrip())  # noqa: T201


def _part(title: str, folder: Path | None, name: str, *keys: str) -> None:
    """Prints the row of a part; the entries `keys` of its manifest are the detail."""
    if not folder:
        _row(title, "missing", detail=name)
        return
    facts = read_manifest(folder / ".manifest.json")
    size = f"{int(facts['bytes']) // 1_000_000}M" if "bytes" in facts else ""
    details = [str(folder), *(f"{key} {facts[key]}" for key in keys if key in facts)]
    _row(title, "whole", size, ", ".join(details))


def _model(wanted: Wanted) -> tuple[str, str, str]:
    if wanted.cached:
        return "cached", "", f"by RunPod, {wanted.cached}"
    if wanted.model_wanted == "none":
        return "skipped", "", "not asked for"
    if model := flags.model_of(wanted.volume, wanted.flag):
        size = sum(file.stat().st_size for file in _files(model))
        place = flags.below(model, wanted.volume)
        return "whole", f"{size // 1_000_000}M", f"{os.environ['MODEL_PATH']}, {place}"
    return "missing", "", wanted.model_wanted


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _changed(file: Path) -> float:
    return file.stat().st_mtime


def _free(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    return f", {shutil.disk_usage(folder).free / 1e9:.1f} GB free by what the system says"
