"""The state of all slots, in static tensors that a step (or its CUDA graph) reads and writes."""

import torch
from torch import Tensor

from engines.vibevoice.architecture import Architecture
from engines.vibevoice.fast.layers.codec import Codec, Context
from engines.vibevoice.fast.layers.kv_cache import KVCache

IDLE = -1


class Slots:
    """The state of `count` slots of up to `capacity` tokens each.

    Inputs of a step: `x` (slots, hidden) is the next input of the language model. `lengths`
    (slots, 2) has the tokens of the positive and the negative branch. `noise` is (slots, frames,
    latent), of which `used` rows are consumed. `guidance` is (slots, 1). `steps` has the solver
    steps, `left` the tokens until the limit. `preference` (slots, choices) is added to the logits.
    A slot that is not `active` keeps its state.

    Outputs: `audio` (slots, samples), and `chosen` (slots,), the index of the new token or `IDLE`.
    """

    def __init__(
        self,
        sizes: Architecture,
        count: int,
        capacity: int,
        choices: int,
        codecs: tuple[Codec, Codec],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(count, *shape, dtype=dtype, device=device)

        self.count = count
        self._sizes = sizes
        self.x = zeros(sizes.hidden)
        self.lengths = zeros(2, dtype=torch.long)
        self.active = zeros(dtype=torch.bool)
        self.left = zeros(dtype=torch.long)
        self.steps = zeros(dtype=torch.long)
        self.used = zeros(dtype=torch.long)
        self.noise = zeros(capacity, sizes.latent)
        self.guidance = zeros(1, dtype=torch.float32)
        self.preference = zeros(choices)
        self.audio = zeros(sizes.hop)
        self.chosen = zeros(dtype=torch.long).fill_(IDLE)
        self.every = torch.arange(count, device=device)
        self.cache = KVCache(sizes, 2 * count, capacity, device, dtype)
        self._codecs = codecs
        width = sum(codec.context_size for codec in codecs)
        self.past, self.new = zeros(width), zeros(width)
        self._contexts: dict[int, list[list[Context]]] = {}

    @property
    def capacity(self) -> int:
        return self.cache.capacity

    def contexts(self, count: int) -> list[list[Context]]:
        """The contexts of the codecs' convolutions for the first `count` slots, by codec."""
        if count not in self._contexts:
            widths = [codec.context_size for codec in self._codecs]
            parts = zip(
                self._codecs,
                self.past[:count].split(widths, 1),
                self.new[:count].split(widths, 1),
                strict=True,
            )
            self._contexts[count] = [codec.contexts(past, new) for codec, past, new in parts]
        return self._contexts[count]

    @torch.inference_mode()
    def admit(
        self,
        slot: int,
        *,
        start: Tensor,
        length: int,
        limit: int,
        steps: int,
        guidance: float,
        noise: Tensor,
    ) -> None:
        """Fills a slot for a chunk whose prompt of `length` tokens is in the KV cache.

        The last token is not; `start` (hidden,) is its embedding. `limit` is the most tokens that
        may be generated.
        """
        self.x[slot] = start
        self.lengths[slot, 0] = length - 1
        self.lengths[slot, 1] = 0
        self.left[slot] = limit
        self.steps[slot] = steps
        self.used[slot] = 0
        self.noise[slot, : len(noise)].copy_(noise, non_blocking=True)
        self.guidance[slot] = guidance
        self.past[slot] = 0
        self.active[slot] = True

    @torch.inference_mode()
    def release(self, slot: int, *, wipe: bool = False) -> None:
        """Frees a slot. `wipe` zeroes its state, which may hold NaN after an error."""
        self.active[slot] = False
        if wipe:
            self.cache.wipe(slot)
            self.x[slot] = 0
            self.past[slot] = 0
            self.new[slot] = 0

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        """Grows all slots to `capacity` tokens. Tensors move, so CUDA graphs become invalid."""
        old, device = self.cache.tensor, self.noise.device
        cache = KVCache(self._sizes, 2 * self.count, capacity, device, old.dtype)
        noise = self.noise.new_zeros(self.count, capacity, self.noise.shape[2])
        cache.tensor[:, :, : old.shape[2]] = old
        noise[:, : self.noise.shape[1]] = self.noise
        self.cache, self.noise = cache, noise
