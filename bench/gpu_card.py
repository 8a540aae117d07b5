"""A device with random weights on it, as the parts of `gpu_check` share it."""

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from bench.__main__ import machine as host
from bench.random_model import Tokenizer, checkpoint_of, random_weights
from engines.vibevoice.failures import free_memory
from engines.vibevoice.fast.batch import Batch
from engines.vibevoice.fast.capacity import slots_for
from engines.vibevoice.fast.graph_shape import MOST_SLOTS, GraphShape
from engines.vibevoice.fast.layers.kernels import choose_convolutions, device_seconds
from engines.vibevoice.fast.layers.weights import Weights

STEPS = 10
GIB = 1 << 30


class Card:
    """What the parts share: a device, weights on it, and one batch at a time. `code` is a clone of
    upstream's, else its package counts."""

    def __init__(self, device: torch.device, size: str, code: Path | None = None) -> None:
        self.device, self.size, self.code = device, size, code
        self.on_cuda = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if self.on_cuda else host()
        self.frames_ms: dict[tuple[int, int], float] = {}
        """Of slots and context: the best way's."""
        self.captures: dict[GraphShape, tuple[float, int]] = {}
        """Seconds and bytes, of the first."""
        self.flash = False
        """Whether flash-attn's kernel runs here, right or wrong."""
        self.upstream_ms: float | None = None
        self._batch: tuple[bool, Batch] | None = None

    @cached_property
    def model(self) -> tuple[Weights, Tokenizer]:
        return random_weights(self.size, self.device)

    @cached_property
    def slots(self) -> int:
        """As many as the worker would take."""
        return slots_for(self.model[0], self.free) if self.on_cuda else MOST_SLOTS

    @property
    def free(self) -> int:
        free_memory()
        return torch.cuda.mem_get_info(self.device)[0] if self.on_cuda else 0

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def batch(self, *, flash: bool = False) -> Batch:
        """Raises `Unsupported` where there is no flash-attn."""
        if self._batch is None or self._batch[0] != flash:
            slots = self.slots  # before the old one goes
            self._batch = None
            free_memory()
            weights, tokenizer = self.model
            made = Batch(
                weights,
                tokenizer,
                lambda samples: samples,
                checkpoint_of(weights),
                slots=slots,
                cache_bytes=GIB,
                flash=flash,
            )
            if self.on_cuda:  # as the worker does
                choose_convolutions(made.codecs, weights, slots, self.clock)
            self._batch = (flash, made)
        return self._batch[1]

    def drop(self) -> None:
        self._batch = None
        self.__dict__.pop("model", None)
        free_memory()

    def seconds(self, run: Callable[[], object], times: int = 1) -> float:
        """Of one of so many runs, one behind the other, until the device is done."""
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            run()
        self.wait()
        return (time.perf_counter() - start) / times

    def clock(self, call: Callable[[], Tensor]) -> float:
        return device_seconds(call) if self.on_cuda else min(self.seconds(call) for _ in range(3))


@torch.inference_mode()
def fill(batch: Batch, context: int = 512, steps: int = STEPS) -> None:
    """All slots at work behind prompts of three quarters of a context, the same each time."""
    state = batch.state
    draw = torch.Generator(state.x.device).manual_seed(1)
    for tensor in (state.x, state.noise, state.past, state.cache.tensor):
        tensor.normal_(generator=draw)
    state.active.fill_(True)
    state.steps.fill_(steps)
    state.left.fill_(10**6)
    state.guidance.fill_(1.3)
    state.preference[:, batch.tokens.choices.index(batch.tokens.diffusion)] = 1e4
    rewind(batch, context)


@torch.inference_mode()
def rewind(batch: Batch, context: int) -> None:
    batch.state.used.zero_()
    batch.state.lengths[:, 0] = 3 * context // 4
    batch.state.lengths[:, 1] = context // 4
