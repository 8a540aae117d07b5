"""The fast runtime: continuous batching of chunks in our own loop. See docs/frame-loop.md."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from engines.base import End, Frame, Plan
from engines.memory import free_host_memory
from engines.vibevoice.architecture import Architecture, architecture
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.code import Upstream
from engines.vibevoice.failures import free_memory, loaded
from engines.vibevoice.fast.batch import Batch
from engines.vibevoice.fast.capacity import capacity_for, longest_for, slots_for
from engines.vibevoice.fast.graph_shape import CPU_SLOTS, FIXED_CONTEXT, GraphShape
from engines.vibevoice.fast.layers.kernels import FLASH, SDPA, choose_attention, choose_convolutions
from engines.vibevoice.fast.layers.norm import WAY as NORM
from engines.vibevoice.fast.layers.packer import Shards
from engines.vibevoice.fast.layers.weights import Weights, load_weights
from engines.vibevoice.fast.loop import Loop
from engines.vibevoice.fast.sequence import Normaliser, SequenceGroup
from engines.vibevoice.fast.step import Tokens
from engines.vibevoice.frames import Frames
from engines.vibevoice.loader import check_room, check_tokens, dtype_for
from request.errors import Cancelled, EngineError, EngineLost

_CACHE = 1 << 30  # bytes of the voice cache; a voice's prompt prefix takes 17 MB in the 7B

log = logging.getLogger("vibevoice")


class FastRuntime:
    """A loaded model and its loop."""

    def __init__(self, batch: Batch, details: Mapping[str, str]) -> None:
        self.batch = batch
        self._details = dict(details)
        self.lost: EngineLost | None = None
        self._loop = Loop(batch, self._lose)
        if batch.graphs.pending:
            self._loop.start()

    @property
    def details(self) -> dict[str, str]:
        return {**self._details, "graphs": str(self.batch.graphs)}

    @property
    def figures(self) -> dict[str, float]:
        graphs = self.batch.graphs
        return {
            "frames_replayed": graphs.replayed,
            "frames_eager": graphs.eager,
            "frame_seconds": round(self._loop.meter.frame_seconds, 6),
        }

    def _lose(self, error: EngineLost) -> None:
        self.lost = error

    def start(self, plan: Plan) -> "FastSpeech":
        return FastSpeech(self.batch, self._loop, plan)

    def close(self) -> None:
        self._loop.close()


class FastSpeech:
    """See `engines.base.Speech`. The first read submits its chunks to the loop."""

    def __init__(self, batch: Batch, loop: Loop, plan: Plan) -> None:
        self._batch, self._loop, self._plan = batch, loop, plan
        self._frames = Frames()
        self._group = SequenceGroup(self._frames)

    def cancel(self) -> None:
        self._loop.cancel(self._group)

    def __iter__(self) -> Iterator[Frame | End]:
        try:
            self._submit()
            yield from self._frames
        finally:
            self.cancel()

    def _submit(self) -> None:
        if self._group.cancelled.is_set():
            raise Cancelled
        sequences = self._batch.preprocessor.sequences(self._plan)
        for index, sequence in enumerate(sequences):
            if sequence is None:
                self._frames.put(End(index, "empty", self._plan.chunks[index].seed))
        self._group.add(each for each in sequences if each is not None)
        if self._group.waiting:
            self._loop.submit(self._group)
        else:
            self._frames.finish()


@dataclass(frozen=True, slots=True)
class Choices:
    """Settings that replace automatic choices.

    `slots` None: chosen by the free memory, four on a CPU. `attention` None: chosen by measurement.
    `graphs` False: no CUDA graphs.
    """

    slots: int | None = None
    attention: Literal["sdpa", "flash"] | None = None
    graphs: bool = True


def load_fast(
    upstream: Upstream,
    checkpoint: Checkpoint,
    tokenizer_folder: str,
    device: torch.device,
    choices: Choices,
) -> FastRuntime:
    """Loads a checkpoint and, on a GPU, generates a few frames as a trial.

    Raises `Unsupported` where only upstream's own classes can run the model, `EngineError` for any
    other problem.
    """
    sizes = architecture(json.loads((checkpoint.folder / "config.json").read_bytes()))
    check_room(checkpoint, device)
    tokenizer = upstream.Tokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    check_tokens(tokenizer, sizes.vocabulary)
    # Newer torch prefers cuDNN's attention, which builds a new plan for every prompt length.
    torch.backends.cuda.enable_cudnn_sdp(False)

    def load() -> FastRuntime:
        began = time.monotonic()
        weights = _weights(checkpoint, sizes, Tokens.of(tokenizer), device)
        read = time.monotonic() - began
        runtime = _runtime(weights, tokenizer, upstream.AudioNormalizer(), checkpoint, choices)
        log.info("weights in %.1f s, ready after %.1f s", read, time.monotonic() - began)
        return runtime

    return loaded(load)


def _weights(
    checkpoint: Checkpoint, sizes: Architecture, tokens: Tokens, device: torch.device
) -> Weights:
    source = Shards(checkpoint.folder, device)
    weights = load_weights(source, sizes, tokens.choices, device, dtype_for(device))
    if not (math.isfinite(weights.scale) and math.isfinite(weights.bias)):
        raise EngineError("MODEL_PATH: the model's scaling factors are not numbers")
    free_memory()  # frees the temporary tensors of packing, before free memory is measured
    return weights


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _runtime(
    weights: Weights,
    tokenizer: Any,
    normaliser: Normaliser,
    checkpoint: Checkpoint,
    choices: Choices,
) -> FastRuntime:
    on_cuda = _is_gpu(weights.device)
    free = torch.cuda.mem_get_info(weights.device)[0] if on_cuda else free_host_memory() or 0
    slots = choices.slots or (slots_for(weights, free) if on_cuda else CPU_SLOTS)
    attention = {"sdpa": SDPA, "flash": FLASH, None: SDPA}[choices.attention]
    if on_cuda and choices.attention is None:
        attention = choose_attention(weights, slots)
    batch = Batch(
        weights,
        tokenizer,
        normaliser,
        checkpoint,
        slots=slots,
        cache_bytes=min(_CACHE, free // 20),
        capacity=capacity_for(weights, free, slots) if on_cuda else FIXED_CONTEXT,
        longest=longest_for(weights, free, slots) if on_cuda else None,
        flash=attention == FLASH,
        graphs_off=None if choices.graphs else "VIBEVOICE_GRAPHS=off",
    )
    details = {
        "device": torch.cuda.get_device_name(weights.device) if on_cuda else "cpu",
        "dtype": str(weights.dtype).removeprefix("torch."),
        "attention": attention,
        "runtime": "fast",
        "graph_shape": str(GraphShape(slots, FIXED_CONTEXT, 0)),
    }
    if on_cuda:
        details["norm"] = NORM
        details["convolutions"] = choose_convolutions(batch.codecs, weights, slots)
        free_memory()
    batch.warm_up()
    return FastRuntime(batch, details)
