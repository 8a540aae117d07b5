"""A trial: a short text with a synthetic voice, spoken when the model is loaded.

So an unfit GPU fails the start, and CUDA loads its kernels before the first request.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.base import SAMPLE_RATE, Options, Plan, PlannedChunk, Turn, Voice
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.sequence import Sequence
from request.errors import EngineError

if TYPE_CHECKING:
    from engines.vibevoice.fast.batch import Batch

_FRAMES = 3
_VOICE_SEC = 3
_CERTAIN = 1e4  # larger than any logit of a model


def make_trial(batch: "Batch") -> None:
    """Runs a prompt and generates a few frames in slot 0, which must be free. Frees the slot.

    Raises `EngineError` where the frames are not finite audio, and what the device raises.
    """
    sequence = batch.preprocessor.sequences(_plan())[0]
    if sequence is None:
        raise EngineError("MODEL_PATH: the tokenizer makes nothing of a word")
    sequence.slot = 0
    lease, speaks = batch.lease(), batch.tokens.choices.index(batch.tokens.diffusion)
    with torch.inference_mode():
        batch.state.preference[0, speaks] = _CERTAIN
    try:
        batch.admit(sequence, lease)
        for _ in range(_FRAMES):
            _make_frame(batch, sequence)
    finally:
        lease.release()
    with torch.inference_mode():
        batch.state.preference[0, speaks] = 0
    batch.release(sequence, wipe=True)
    batch.voices.forget()


def _make_frame(batch: "Batch", sequence: Sequence) -> None:
    step = batch.launch(GraphShape(1, 512, sequence.steps), {0: sequence})
    sounds = [output.samples for output in batch.read(step)]
    # NaN logits choose the first token, which ends the text without a frame.
    if not sounds or any(each is None or not np.isfinite(each).all() for each in sounds):
        raise EngineError(
            "the model makes no sound, or samples that are no numbers: its weights are damaged, or"
            " this GPU cannot run it"
        )


def _plan() -> Plan:
    noise = np.random.default_rng(0).standard_normal(_VOICE_SEC * SAMPLE_RATE)
    voice = Voice("noise", (0.1 * noise).astype(np.float32), "noise")
    chunk = PlannedChunk((Turn(0, "One."),), seed=0)
    return Plan((chunk,), (voice,), Options(frames_per_token=0, repeatable=False))
