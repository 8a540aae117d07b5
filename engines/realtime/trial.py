"""A trial: a few frames of two windows with a made-up voice, when the model is loaded.

So an unfit GPU fails the start, and CUDA loads its kernels before the first request.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.realtime.presets import Preset
from engines.realtime.slots import SPEECH_WINDOW, TEXT_WINDOW
from engines.realtime.step import Said
from engines.vibevoice.fast.graph_shape import TEXT_STEP, GraphShape
from request.errors import EngineError

if TYPE_CHECKING:
    from engines.realtime.batch import Batch

_STEPS, _CONTEXTS = 5, (512, 1024, 2048)
_VOICE_TOKENS = 8


def warm_up(batch: "Batch") -> None:
    """Makes frames in slot 0, which must be free, and captures the most used graph shapes.

    The others are captured while the loop is idle. Raises `EngineError` where the frames are not
    finite audio, and what the device raises.
    """
    make_trial(batch)
    state = batch.state
    sizes = {min(1 << power, state.count) for power in range(state.count.bit_length() + 1)}
    for steps in (_STEPS, TEXT_STEP):
        for slots in sorted(sizes):
            batch.graphs.want(*(GraphShape(slots, each, steps) for each in _CONTEXTS))
        # This shape can run the steps of all other shapes.
        batch.graphs.want(GraphShape(state.count, state.capacity, steps))
        batch.graphs.capture(GraphShape(state.count, state.capacity, steps))


@torch.inference_mode()
def make_trial(batch: "Batch") -> None:
    state, sizes = batch.state, batch.step.weights.architecture
    state.admit(0, _voice(batch), steps=_STEPS, guidance=1.5, put_offs=1 << 30)
    for _ in range(2):
        ids = torch.ones(TEXT_WINDOW, dtype=torch.long)
        noise = torch.ones(SPEECH_WINDOW, sizes.latent).to(batch.step.weights.dtype)
        state.open_window(0, ids, TEXT_WINDOW, noise, last=False)
        batch.graphs.run(GraphShape(1, 512, TEXT_STEP))
        batch.graphs.run(GraphShape(1, 512, _STEPS))
        sound = state.audio[0].float().cpu().numpy()
        if state.chosen[0] not in (Said.FRAME, Said.PUT_OFF) or not np.isfinite(sound).all():
            raise EngineError(
                "the model makes samples that are no numbers: its weights are damaged, or this GPU"
                " cannot run it"
            )
    state.release(0, wipe=True)


def _voice(batch: "Batch") -> Preset:
    state, weights = batch.state, batch.step.weights

    def zeros(layers: int, tokens: int) -> torch.Tensor:
        return state.cache.tensor.new_zeros(layers, tokens, *state.cache.tensor.shape[3:])

    text, speech = len(weights.text_layers), len(weights.layers)
    return Preset(
        zeros(text, _VOICE_TOKENS),
        zeros(speech, _VOICE_TOKENS),
        zeros(speech, 1),
        state.hidden.new_zeros(weights.architecture.hidden),
    )
