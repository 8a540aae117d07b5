"""VibeVoice as an engine.

    engine.py      the engine: finds, loads, starts        code.py    where upstream's code is
    fast/          the fast runtime                        hub.py     where models lie
    reference.py   the reference runtime, by upstream's    download.py  a model, whole or not at all
    model.py       `generate`; both loaded by loader.py    checkpoint.py  what a model folder holds
    prompt.py      the token ids of a chunk
    frames.py      frames on their way to a reader         failures.py  what a GPU's errors mean
    architecture.py  the sizes of a model

Importing the package, `engine` and what it imports at its top needs neither torch nor upstream's
code; loading the engine does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engines.base import Engine, EngineSettings

IN_PROCESS = False
"""Its Python loop would compete for the GIL, and a broken CUDA context needs a new process."""


def create(settings: "EngineSettings") -> "Engine":
    from engines.vibevoice.engine import VibeVoiceEngine

    return VibeVoiceEngine(
        settings["model_path"], revision=settings["model_revision"], **options(settings)
    )


def options(settings: "EngineSettings") -> dict[str, Any]:
    """The arguments of an engine of this kind that do not depend on its model."""
    home = settings["hf_home"]
    token = settings["hf_token"]
    return {
        "code": settings["vibevoice_code"],
        "volume": settings["vibevoice_volume"],
        "hub_cache": settings["hf_hub_cache"] or (home and home / "hub"),
        "further_caches": settings["further_hub_caches"],
        "token": token and token.get_secret_value(),
        "runtime": settings["vibevoice_runtime"],
        "slots": settings["max_slots"],
        "attention": settings["vibevoice_attention"],
        "graphs": settings["vibevoice_graphs"] == "on",
    }
