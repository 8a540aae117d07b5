"""The diffusion solver as constants: DPM-Solver++ of second order, after Lu et al. (2022).

The model predicts `v`. The new sample and the data prediction of a step are linear in the sample,
the previous prediction and `v`. So a step is one product with a constant 2 x 3 matrix. Upstream
computes the same constants for every frame, in about sixty operations a step.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch


@dataclass(frozen=True, slots=True)
class Step:
    """A solver step. `time` is the training timestep.

    `mix` (2, 3) maps (sample, previous prediction, v) to (next sample, prediction).
    """

    time: int
    mix: tuple[tuple[float, float, float], tuple[float, float, float]]


def solver_steps(count: int, train_steps: int = 1000) -> tuple[Step, ...]:
    """The `count` solver steps from noise to data on the cosine schedule, in order.

    The first and the last are of first order.
    """
    noise_levels = _sigmas(train_steps)
    spaced = torch.linspace(0, train_steps - 1, count + 1, dtype=torch.float64).round()
    times = [int(time) for time in reversed(spaced[1:].tolist())]
    sigmas = [noise_levels[time] for time in times] + [torch.zeros(())]
    levels = [_level(sigma) for sigma in sigmas]
    steps = []
    for index, time in enumerate(times):
        (alpha, sigma, log_ratio), (alpha_next, sigma_next, log_ratio_next) = levels[index:][:2]
        width = log_ratio_next - log_ratio
        pull = float(alpha_next * (torch.exp(-width) - 1.0))
        second = 0.0
        if 0 < index < count - 1:
            second = 0.5 * pull * float(width / (log_ratio - levels[index - 1][2]))
        kept, a, s = float(sigma_next / sigma), float(alpha), float(sigma)
        both = pull + second
        steps.append(Step(time, ((kept - both * a, second, both * s), (a, 0.0, -s))))
    return tuple(steps)


def _sigmas(train_steps: int) -> torch.Tensor:
    def signal(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    grid = [step / train_steps for step in range(train_steps + 1)]
    betas = [min(1 - signal(b) / signal(a), 0.999) for a, b in pairwise(grid)]
    power = torch.cumprod(1.0 - torch.tensor(betas, dtype=torch.float32), dim=0)
    return ((1 - power) / power) ** 0.5


def _level(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A noise level's alpha (signal) and sigma (noise), and the log of their ratio."""
    alpha = 1 / ((sigma**2 + 1) ** 0.5)
    return alpha, sigma * alpha, torch.log(alpha) - torch.log(sigma * alpha)
