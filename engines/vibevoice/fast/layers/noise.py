"""The random numbers of a chunk, from private generators, equal to those that upstream draws.

Upstream seeds torch's global generators and then draws in this order. First, on the model's device:
a strength for each voice, and noise of the shape of the voices' latents. Then for each frame, on
the CPU: noise for both branches, of which only the positive branch's is used.
"""

import hashlib

import torch
from torch import Generator, Tensor

from engines.base import PlannedChunk

_VECTOR = 16  # below this size torch's CPU generator draws in another order


class Noise:
    """The noise of one chunk. If the chunk has voices, call `voices` before `frames`."""

    def __init__(self, chunk: PlannedChunk, device: torch.device, *, with_voices: bool) -> None:
        self._chunk = chunk
        self._device = device
        first = chunk.seed if chunk.attempt == 1 or with_voices else noise_seed(chunk)
        self._frames = Generator().manual_seed(first)
        on_cpu = device.type == "cpu"
        # On the CPU both use one generator: the frames' noise continues after the voices'.
        self._voices = self._frames if on_cpu else Generator(device).manual_seed(first)

    def voices(
        self, shape: tuple[int, int, int], dtype: torch.dtype, std: float, kind: str
    ) -> Tensor:
        """The noise that is added to the voices' latents, (voices, frames, latent)."""
        voices, frames, latent = shape
        if kind not in ("gaussian", "fix"):
            return torch.zeros(shape, dtype=dtype, device=self._device)
        strength: Tensor | float = std
        if kind == "gaussian":
            drawn = torch.empty(voices, dtype=dtype, device=self._device)
            strength = drawn.normal_(generator=self._voices)[:, None, None] * (std / 0.8)
        # The layout of upstream's latents, because torch fills other layouts differently.
        like = torch.empty(voices, latent, frames, dtype=dtype, device=self._device)
        noise = strength * like.transpose(1, 2).normal_(generator=self._voices)
        if self._chunk.attempt > 1:  # the same noise for the voices, other noise for the frames
            self._frames.manual_seed(noise_seed(self._chunk))
        return noise

    def frames(self, count: int, latent: int) -> Tensor:
        """The next `count` frames' noise, (count, latent), float32 on the CPU."""
        if 2 * latent % _VECTOR:
            drawn = [torch.randn(2, latent, generator=self._frames) for _ in range(count)]
            return torch.stack(drawn)[:, 0]
        return torch.randn(count, 2, latent, generator=self._frames)[:, 0]


def noise_seed(chunk: PlannedChunk) -> int:
    """The seed of a further attempt's noise, of 32 bits: torch's CPU generator uses no more."""
    digest = hashlib.sha256(f"{chunk.seed}:{chunk.attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
