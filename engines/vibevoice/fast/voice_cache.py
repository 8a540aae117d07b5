"""What is known of voices: their latents, and the prompts that begin with them.

By the content of the recording, so a voice that was heard before costs no encoder run, and the
chunks of a text share the work on all that stands before their words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.base import Samples, Voice
from engines.vibevoice.fast.layers.codec import Codec
from engines.vibevoice.fast.layers.weights import Weights
from engines.vibevoice.fast.lru import LRU

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A levelled voice of so many `frames`. `key` names its content."""

    wave: Samples
    frames: int
    key: Key


def recordings(
    voices: Sequence[Voice], level: Callable[[Samples], Samples], hop: int
) -> Mapping[int, Recording]:
    """The voices that have samples, by speaker.

    Upstream pads all to the longest one. That shows in the last frame of the others: they end in
    silence, the longest one in nothing.
    """
    waves = {
        speaker: np.asarray(level(voice.samples), np.float32)
        for speaker, voice in enumerate(voices)
        if voice.samples is not None and len(voice.samples)
    }
    longest = max(map(len, waves.values()), default=0)
    found = {}
    for speaker, wave in waves.items():
        frames = -(-len(wave) // hop)
        pad = frames * hop - len(wave) if len(wave) < longest else 0
        padded = np.pad(wave, (0, pad))
        found[speaker] = Recording(padded, frames, (voices[speaker].sha256, len(padded)))
    return found


class VoiceCache:
    """Bounded in bytes. What a job holds stays until it lets go: see `Lease`."""

    def __init__(self, weights: Weights, most: int) -> None:
        sizes = weights.architecture
        self._weights = weights
        self.listener = Codec(weights.listener, sizes.listener, decodes=False)
        self._known: LRU[Key, Tensor] = LRU(most, lambda tensor: tensor.nbytes)

    @property
    def used(self) -> int:
        """Bytes."""
        return self._known.used

    def lease(self) -> "Lease":
        return Lease(self)

    @torch.inference_mode()
    def listen(self, wave: Samples) -> Tensor:
        """A recording's latents, (frames, latent): the encoder runs."""
        weights = self._weights
        heard = torch.from_numpy(wave)
        if weights.embedding.is_cuda:
            heard = heard.pin_memory()  # a copy from other memory waits for the frame under way
        heard = heard.to(weights.device, non_blocking=True).to(weights.dtype)
        return self.listener.whole(heard[None, :, None])[0]

    def forget(self) -> None:
        """Drops all that nobody uses."""
        self._known.clear()


class Lease:
    """What one job uses of the cache."""

    def __init__(self, cache: VoiceCache) -> None:
        self._cache = cache
        self._held: set[Key] = set()

    def latents(self, recording: Recording) -> Tensor:
        return self.hold(("latents", *recording.key), lambda: self._cache.listen(recording.wave))

    def hold(self, key: Key, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, made where it is not known."""
        value = self._cache._known.acquire(key, make)
        if key in self._held:
            self._cache._known.release(key)
        self._held.add(key)
        return value

    def release(self) -> None:
        for key in self._held:
            self._cache._known.release(key)
        self._held.clear()
