"""The voice cache: voices' latents, and the KV cache of prompt prefixes (prefix caching).

The keys are hashes of the recordings. So a voice that was used before needs no encoder run, and the
chunks of a text share the prefill of all that precedes their words.
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
    """A levelled voice of `frames` frames. `key` is the hash of its content."""

    wave: Samples
    frames: int
    key: Key


def recordings(
    voices: Sequence[Voice], level: Callable[[Samples], Samples], hop: int
) -> Mapping[int, Recording]:
    """The voices that have samples, by speaker. `level` levels them; `hop` is samples a frame.

    Upstream pads all recordings to the longest one. So the last frame of a shorter recording is
    filled up with silence, and that of the longest one is not.
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
    """An LRU cache of at most `most` bytes. Values that a `Lease` holds are never evicted."""

    def __init__(self, weights: Weights, most: int) -> None:
        sizes = weights.architecture
        self._weights = weights
        self.listener = Codec(weights.listener, sizes.listener, decodes=False)
        self._known: LRU[Key, Tensor] = LRU(most, lambda tensor: tensor.nbytes)

    @property
    def used(self) -> int:
        """The size of all values in bytes."""
        return self._known.used

    def lease(self) -> "Lease":
        return Lease(self)

    @torch.inference_mode()
    def listen(self, wave: Samples) -> Tensor:
        """Encodes a recording, (samples,), to latents, (frames, latent)."""
        weights = self._weights
        heard = torch.from_numpy(wave)
        if weights.embedding.is_cuda:
            heard = heard.pin_memory()  # a copy from pageable memory waits for the step in flight
        heard = heard.to(weights.device, non_blocking=True).to(weights.dtype)
        return self.listener.whole(heard[None, :, None])[0]

    def forget(self) -> None:
        """Evicts all values that are not in use."""
        self._known.clear()


class Lease:
    """The values of the cache that one speech uses, held until `release`."""

    def __init__(self, cache: VoiceCache) -> None:
        self._cache = cache
        self._held: set[Key] = set()

    def latents(self, recording: Recording) -> Tensor:
        return self.hold(("latents", *recording.key), lambda: self._cache.listen(recording.wave))

    def hold(self, key: Key, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, made by `make` if it is absent, and held until `release`."""
        value = self._cache._known.acquire(key, make)
        if key in self._held:
            self._cache._known.release(key)
        self._held.add(key)
        return value

    def release(self) -> None:
        for key in self._held:
            self._cache._known.release(key)
        self._held.clear()
