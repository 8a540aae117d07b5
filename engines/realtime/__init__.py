"""VibeVoice-Realtime-0.5B as an engine, over the layers and the loop of `engines/vibevoice/fast`.

    engine.py     the engine: finds, checks, loads    checkpoint.py  what a model folder holds
    runtime.py    speeches, which may grow            weights.py     weights in their places
    sequence.py   a chunk and its windows             slots.py       the state of all slots
    text.py       stable tokens of a growing text     step.py        text read, or a frame made
    batch.py      texts into slots, frames out        trial.py       frames at the start
    presets.py    its voices                          reference.py   upstream's own `generate`
    convert.py    voices of upstream's presets        pickles.py     those, read as data

It has its own voices alone: its checkpoint comes without an encoder of recordings.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.base import Engine, EngineSettings

IN_PROCESS = False
"""See `engines.vibevoice`."""


def create(settings: "EngineSettings") -> "Engine":
    from engines.realtime.engine import RealtimeEngine
    from engines.vibevoice import options

    return RealtimeEngine(
        settings["realtime_model_path"],
        put_offs=settings["realtime_put_offs"],
        **options(settings),
    )
