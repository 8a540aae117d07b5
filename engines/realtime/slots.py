"""The state of all slots of a Realtime model, in static tensors that its steps read and write."""

import torch
from torch import Tensor

from engines.realtime.checkpoint import Sizes
from engines.realtime.presets import Preset
from engines.vibevoice.fast.layers.codec import Codec, Context
from engines.vibevoice.fast.layers.kv_cache import KVCache
from engines.vibevoice.fast.slots import IDLE

TEXT_WINDOW, SPEECH_WINDOW = 5, 6
"""Tokens of text that are read at once, and frames that are made after them."""


Saved = tuple[Tensor, ...]
"""A slot's state in the host's memory."""


class Slots:
    """The state of `count` slots of up to `capacity` positions each.

    A window is text, then frames. Its inputs: `ids` (slots, TEXT_WINDOW), of which `unread`
    (slots,) are still to be read; `noise` (slots, SPEECH_WINDOW, latent), of which `used` rows are
    consumed and `left` frames are still to be made; `is_last`: no text follows the window's.

    `hidden` (slots, 2, hidden) has the positive and the negative branch's last state. `lengths`
    (slots, 2) are their positions, `text_lengths` (slots,) those of the text model. `says_end` is
    what the classifier said of the frame before, and `early` counts how often it said an end before
    all text was read; up to `put_offs` of these are put off. `guidance` is (slots, 1), `steps` the
    solver steps. A slot that is not `active` keeps its state.

    Outputs: `audio` (slots, samples), and `chosen` (slots,), a `step.Said` or `IDLE`.
    """

    def __init__(
        self,
        sizes: Sizes,
        count: int,
        capacity: int,
        decoder: Codec,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        speech = sizes.speech

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(count, *shape, dtype=dtype, device=device)

        self.count = count
        self.ids = zeros(TEXT_WINDOW, dtype=torch.long)
        self.unread = zeros(dtype=torch.long)
        self.noise = zeros(SPEECH_WINDOW, speech.latent)
        self.used = zeros(dtype=torch.long)
        self.left = zeros(dtype=torch.long)
        self.is_last = zeros(dtype=torch.bool)
        self.hidden = zeros(2, speech.hidden)
        self.lengths = zeros(2, dtype=torch.long)
        self.text_lengths = zeros(dtype=torch.long)
        self.says_end = zeros(dtype=torch.bool)
        self.early = zeros(dtype=torch.long)
        self.put_offs = zeros(dtype=torch.long)
        self.guidance = zeros(1, dtype=torch.float32)
        self.steps = zeros(dtype=torch.long)
        self.active = zeros(dtype=torch.bool)
        self.audio = zeros(speech.hop)
        self.chosen = zeros(dtype=torch.long).fill_(IDLE)
        self.every = torch.arange(count, device=device)
        self.cache = KVCache(speech, 2 * count, capacity, device, dtype)
        self.text_cache = KVCache(speech, count, capacity, device, dtype, sizes.text_layers)
        self._decoder = decoder
        self.past, self.new = zeros(decoder.context_size), zeros(decoder.context_size)
        self._contexts: dict[int, list[Context]] = {}

    @property
    def capacity(self) -> int:
        return self.cache.capacity

    def contexts(self, count: int) -> list[Context]:
        """The contexts of the decoder's convolutions for the first `count` slots."""
        if count not in self._contexts:
            past, new = self.past[:count], self.new[:count]
            self._contexts[count] = self._decoder.contexts(past, new)
        return self._contexts[count]

    @torch.inference_mode()
    def admit(
        self, slot: int, preset: Preset, *, steps: int, guidance: float, put_offs: int
    ) -> None:
        """Fills a slot with a voice, before any text."""
        self.text_cache.put(slot, preset.text)
        self.cache.put(2 * slot, preset.speech)
        self.cache.put(2 * slot + 1, preset.negative)
        self.hidden[slot, 1] = preset.negative_hidden
        self.text_lengths[slot] = preset.text.shape[1]
        self.lengths[slot, 0] = preset.speech.shape[1]
        self.lengths[slot, 1] = preset.negative.shape[1]
        self.unread[slot] = 0
        self.left[slot] = 0
        self.is_last[slot] = False
        self.says_end[slot] = False
        self.early[slot] = 0
        self.put_offs[slot] = put_offs
        self.guidance[slot] = guidance
        self.steps[slot] = steps
        self.past[slot] = 0
        self.active[slot] = True

    @torch.inference_mode()
    def save(self, slot: int, text: int, speech: int) -> Saved:
        """A copy of a slot between two windows, of so many positions in the two models."""
        return tuple(each.cpu().clone() for each in self._kept(slot, text, speech))

    @torch.inference_mode()
    def restore(self, slot: int, saved: Saved, text: int, speech: int) -> None:
        """Fills a slot with what was saved of another."""
        for here, there in zip(self._kept(slot, text, speech), saved, strict=True):
            here.copy_(there)
        self.unread[slot] = 0
        self.left[slot] = 0
        self.active[slot] = True

    def _kept(self, slot: int, text: int, speech: int) -> Saved:
        """Views of all that a window takes from the one before it."""
        caches = self.text_cache.tensor[:, slot, :text], self.cache.tensor[:, 2 * slot, :speech]
        states = (self.hidden, self.lengths, self.text_lengths, self.says_end, self.is_last)
        options = (self.early, self.put_offs, self.guidance, self.steps, self.past)
        negative = self.cache.tensor[:, 2 * slot + 1, :speech]
        return (*caches, negative, *(each[slot] for each in (*states, *options)))

    @torch.inference_mode()
    def open_window(self, slot: int, ids: Tensor, count: int, noise: Tensor, last: bool) -> None:
        """Begins a window of `count` tokens, padded to `ids` (TEXT_WINDOW,), and `noise` frames."""
        self.ids[slot].copy_(ids, non_blocking=True)
        self.noise[slot, : len(noise)].copy_(noise, non_blocking=True)
        self.unread[slot] = count
        self.used[slot] = 0
        self.left[slot] = len(noise)
        self.is_last[slot] = last

    @torch.inference_mode()
    def release(self, slot: int, *, wipe: bool = False) -> None:
        """Frees a slot. `wipe` zeroes its state, which may hold NaN after an error."""
        self.active[slot] = False
        if wipe:
            self.cache.wipe(slot)
            self.text_cache.tensor[:, slot] = 0
            self.hidden[slot] = 0
            self.past[slot] = 0
            self.new[slot] = 0
