"""The diffusion head: samples an acoustic latent from a hidden state, all solver steps unrolled.

The modulations (adaLN) of all layers and steps depend on the hidden state and on the step's time,
not on the sample. So they are one product before the first step.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from engines.vibevoice.fast.layers.norm import RowNorm
from engines.vibevoice.fast.layers.solver import solver_steps
from engines.vibevoice.fast.layers.weights import SpeechWeights

_FREQUENCIES = 256


class Head:
    """A sampler of latents in a fixed number of solver steps."""

    def __init__(self, weights: SpeechWeights, steps: int) -> None:
        self._weights = weights.head
        self._sizes = weights.architecture
        self._steps = solver_steps(steps, weights.architecture.train_steps)
        device, dtype = weights.device, weights.dtype
        times = torch.tensor([step.time for step in self._steps], device=device).to(dtype)
        self._times = self._embed(times)
        self._norm = RowNorm(self._sizes.head_eps, device, dtype)
        self._mixes = torch.tensor([step.mix for step in self._steps], device=device)

    def _embed(self, times: Tensor) -> Tensor:
        """Embeds times (steps,) to (steps, hidden), rounded in bfloat16 as upstream rounds."""
        half = _FREQUENCIES // 2
        places = torch.arange(half, dtype=torch.float32) / half
        angles = times[:, None].float() * torch.exp(-math.log(10_000) * places).to(times.device)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(times.dtype)
        first, second = self._weights.time
        return functional.silu(waves @ first) @ second

    def __call__(self, hidden: Tensor, noise: Tensor, guidance: Tensor) -> Tensor:
        """Samples latents (n, latent) for n slots by classifier-free guidance.

        `hidden` is (2n, width): the positive and the negative row of each slot in turn. `noise`
        (n, latent) and `guidance` (n, 1) are in float32.
        """
        sizes, weights = self._sizes, self._weights
        count, width, layers = len(noise), sizes.hidden, sizes.head_layers
        shifts, scales, gates = self._modulations(hidden)
        # The solver's own arithmetic stays in float32.
        state = torch.zeros(3, count, sizes.latent, device=noise.device)
        spare = torch.empty_like(state)
        state[0] = noise
        for step, mix in enumerate(self._mixes):
            shift, scale, gate = shifts[step], scales[step], gates[step]
            # Both branches have the same input, and differ from the first modulation on.
            x = (state[0].to(hidden.dtype) @ weights.inputs)[:, None]
            for layer in range(layers):
                h = self._norm(x)
                h = torch.addcmul(shift[layer], h, scale[layer]).flatten(0, 1)
                up_gate, up = (h @ weights.gate_up[layer]).chunk(2, dim=-1)
                h = (functional.silu(up_gate) * up) @ weights.down[layer]
                x = torch.addcmul(x, gate[layer], h.view(count, 2, width))
            h = self._norm(x)
            h = torch.addcmul(shift[layers], h, scale[layers])
            v = (h.flatten(0, 1) @ weights.out).view(count, 2, sizes.latent).float()
            torch.lerp(v[:, 1], v[:, 0], guidance, out=state[2])
            torch.mm(mix, state.flatten(1), out=spare[:2].flatten(1))
            state, spare = spare, state
        return state[0].to(hidden.dtype)

    def _modulations(self, hidden: Tensor) -> tuple[list[tuple[Tensor, ...]], ...]:
        """Shifts, scales (times the norm's weight) and gates, (n, 2, width), by step and layer."""
        layers = self._sizes.head_layers
        condition = hidden @ self._weights.condition
        mixed = functional.silu(condition + self._times[:, None])
        every = (mixed.flatten(0, 1) @ self._weights.modulation).view(
            len(self._steps), -1, 2, 3 * layers + 2, self._sizes.hidden
        )
        shift, scale, gate = every.split((layers + 1, layers + 1, layers), dim=3)
        scale = torch.addcmul(self._weights.norms, self._weights.norms, scale)
        shift_, scale_, gate_ = (
            [step.unbind(2) for step in part.unbind(0)] for part in (shift, scale, gate)
        )
        return shift_, scale_, gate_
