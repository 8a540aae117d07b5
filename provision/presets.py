"""Fills the voices of VibeVoice-Realtime: upstream's presets, converted from its pickles."""

import os
import shutil
from pathlib import Path

from provision.work import Builder

REPOSITORY = "https://github.com/microsoft/VibeVoice"
COMMIT = "e73d1e17c3754f046352014856a922f8208fb5d2"
_FOLDER = "demo/voices/streaming_model"
_ROOT = Path(__file__).resolve().parent.parent


def are_wanted() -> bool:
    """Whether this worker may speak with VibeVoice-Realtime."""
    models = os.environ.get("MODELS", "").split(",")
    asked = {os.environ.get("ENGINE", "").strip(), *(model.strip() for model in models)}
    return bool(asked & {"realtime", "vibevoice-realtime"})


def provide(builder: Builder, venv: Path) -> None:
    """Fetches and converts the presets, once. Those that lie there are not touched."""
    place = builder.base / "presets"
    if (place / ".filled").exists():
        return
    builder.doing("fetching the voices of VibeVoice-Realtime")
    builder.room_for("the presets", 200)
    fresh = builder.base / ".building-presets"
    if fresh.exists():
        shutil.rmtree(fresh)
    git = ("git", "-C", fresh, "-c", "safe.directory=*", "-c", "advice.detachedHead=false")
    fresh.mkdir()
    try:
        builder.run(*git, "init", "-q")
        builder.run(*git, "remote", "add", "origin", REPOSITORY)
        # Files come when they are checked out: the others are videos of some hundred MB.
        builder.run(*git, "fetch", "-q", "--depth", "1", "--filter=blob:none", "origin", COMMIT)
        builder.run(*git, "checkout", "-q", COMMIT, "--", _FOLDER)
        builder.assert_ours()
        made = fresh / "presets"
        builder.run(
            venv / "bin" / "python", "-m", "engines.realtime.convert", "convert", fresh / _FOLDER,
            "--out", made, PYTHONPATH=str(_ROOT),
        )  # fmt: skip
        builder.assert_ours()
        place.mkdir(exist_ok=True)
        for file in sorted(made.iterdir(), key=lambda file: file.suffix == ".json"):
            if not (place / file.name).exists():  # a manifest after its tensors
                file.rename(place / file.name)
        (place / ".filled").touch()
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
