"""The state of all slots, in static tensors: what a step reads, changes and gives out."""

import torch
from torch import Tensor

from engines.vibevoice.architecture import Architecture
from engines.vibevoice.fast.layers.codec import Codec, Context
from engines.vibevoice.fast.layers.kv_cache import KVCache

IDLE = -1


class Slots:
    """`count` slots of up to `capacity` tokens each.

    Read by a step: `x` (slots, hidden) is the next input, `lengths` (slots, 2) the tokens of the
    positive and the negative branch, `noise` (slots, frames, latent) with `used` rows taken of it,
    `guidance` (slots, 1), `steps` of the solver, `left` tokens until the limit, and `preference`
    (slots, choices), which is added to the logits. A slot that is not `active` keeps its state.

    Given out: `audio` (slots, samples) and `chosen`, which token came, or `IDLE`.
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
        """The codecs' contexts of the first slots."""
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
        """A chunk whose prompt of `length` tokens lies in the cache, but for its last: `start`
        (hidden,) is the embedding of that one. `limit` is the most tokens that may come."""
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
        """`wipe` where the slot may hold what is no number."""
        self.active[slot] = False
        if wipe:
            self.cache.wipe(slot)
            self.x[slot] = 0
            self.past[slot] = 0
            self.new[slot] = 0

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        """Makes room for longer sequences. The tensors move: graphs of steps are void."""
        old, device = self.cache.tensor, self.noise.device
        cache = KVCache(self._sizes, 2 * self.count, capacity, device, old.dtype)
        noise = self.noise.new_zeros(self.count, capacity, self.noise.shape[2])
        cache.tensor[:, :, : old.shape[2]] = old
        noise[:, : self.noise.shape[1]] = self.noise
        self.cache, self.noise = cache, noise
