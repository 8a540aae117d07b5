"""`--check` and `--verify`: print the state of the volume as a table."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from provision import code, flags, installed
from provision.begin import beside
from provision.lock import Lock
from provision.parts import read_manifest
from provision.wanted import Wanted
from provision.work import Look


def check(wanted: Wanted, look: Look = "sizes") -> bool:
    """Prints the table. True where nothing is damaged, and the next start is warm, which
    bootstrap.sh has determined. With the look `hashes` every file is read."""
    volume, flag = wanted.volume, wanted.volume / wanted.flag
    _row("part", "state", "size", "detail")
    damaged = [
        _environment(wanted, wanted.find_venv(), look),
        _code(wanted, wanted.find_code()),
        _model(wanted, flag, look),
    ]
    _row("voices", detail=f"{len(_files(volume / 'demo' / 'voices'))} files")
    state = "writable" if os.access(volume, os.W_OK) else "read-only"
    if wanted.unattached or not volume.is_dir():
        state = "absent"
    _row("volume", state, detail=f"{volume}{_free(volume)}")
    held = Lock(volume / ".lock", wanted.worker).describe()
    _row("lock", "held" if held else "free", detail=held)
    fresh = [mark for mark in _files(volume / ".in-use") if time.time() - _changed(mark) < 120]
    _row("in use by", detail=f"{len(fresh)} workers in the last two minutes")
    if why := flags.failure(volume / beside(wanted.flag, "failed")):
        _row("last start", "failed", detail=why)
    missing = "something is missing: --prefetch fills it in"
    if state == "read-only":
        missing = "the volume takes no files: the container disk is used"
    _row("next start", "warm" if wanted.warm else "cold", detail="" if wanted.warm else missing)
    return bool(wanted.warm) and not any(damaged)


def _row(title: str, state: str = "", size: str = "", detail: str = "") -> None:
    print(f"{title:20} {state:10} {size:10} {detail}".rstrip())  # noqa: T201


def _environment(wanted: Wanted, folder: Path | None, look: Look) -> bool:
    found = (
        installed.damage(folder, wanted.requirements.decode(), look == "hashes") if folder else {}
    )
    damage = [file for files in found.values() for file in files]
    return _part("Python environment", folder, wanted.venv.name, damage, "torch", "flash_attention")


def _code(wanted: Wanted, folder: Path | None) -> bool:
    is_ours = folder is not None and folder.name == wanted.code.name  # a clone of the user's is not
    damage = code.damage(folder) if folder and is_ours else []
    return _part("VibeVoice's code", folder, wanted.code.name, damage, "commit")


def _part(title: str, folder: Path | None, name: str, damage: Sequence[str], *keys: str) -> bool:
    """Prints the row of a part, and says whether it is damaged. The entries `keys` of its manifest
    are the detail."""
    if not folder:
        _row(title, "missing", detail=name)
        return False
    facts = read_manifest(folder / ".manifest.json")
    size = f"{int(facts['bytes']) // 1_000_000}M" if "bytes" in facts else ""
    details = [str(folder), *(f"{key} {facts[key]}" for key in keys if key in facts)]
    _row(title, _state(damage), size, ", ".join([*_told(damage), *details]))
    return bool(damage)


def _state(damage: Sequence[str]) -> str:
    return "damaged" if damage else "whole"


def _told(damage: Sequence[str]) -> list[str]:
    return [f"{len(damage)} files such as {damage[0]}: see --repair"] if damage else []


def _model(wanted: Wanted, flag: Path, look: Look) -> bool:
    """Prints the row of the model, and says whether it is damaged."""
    if wanted.cached:
        _row("model", "cached", detail=f"by RunPod, {wanted.cached}")
    elif wanted.model_wanted == "none":
        _row("model", "skipped", detail="not asked for")
    elif model := flags.model_of(flag):
        damage = flags.damaged_model_files(flag)
        unknown: list[str] = []
        if look == "hashes" and not damage:
            damage, unknown = _compared_with_hub(wanted, flag)
        size = f"{sum(file.stat().st_size for file in _files(model)) // 1_000_000}M"
        place = f"{os.environ['MODEL_PATH']}, {flags.below(model, wanted.volume)}"
        _row("model", _state(damage), size, ", ".join([*_told(damage), place, *unknown]))
        return bool(damage)
    else:
        _row("model", "missing", detail=wanted.model_wanted)
    return False


def _compared_with_hub(wanted: Wanted, flag: Path) -> tuple[list[str], list[str]]:
    """The files of the model that differ from the hub's, or why that is not known."""
    venv = wanted.find_venv()
    if venv is None:
        return [], ["its hashes are not compared: there is no environment"]
    with tempfile.NamedTemporaryFile() as out:
        asking = subprocess.run(
            [venv / "bin" / "python", "-m", "provision.model", "--verify", out.name, flag],
            env=os.environ | wanted.hub_folders(wanted.volume),
            capture_output=True, check=False,
        )  # fmt: skip
        if asking.returncode:
            return [], ["its hashes are not compared: the hub could not be asked"]
        return os.fsdecode(out.read()).splitlines(), []


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _changed(file: Path) -> float:
    return file.stat().st_mtime


def _free(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    return f", {shutil.disk_usage(folder).free / 1e9:.1f} GB free by what the system says"
