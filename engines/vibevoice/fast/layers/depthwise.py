"""Kernels for a codec's depthwise convolutions over time.

The fastest differs between GPUs and between stages: cuDNN falls back to slow kernels for some
shapes (pytorch#128936).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engines.vibevoice.fast.layers.weights import Block


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """A block's seven taps and bias: (channels, 1, 1, 7) for a convolution, and (7, channels) in
    float32 for products."""

    kernel: Tensor
    bias: Tensor
    taps: Tensor
    exact_bias: Tensor

    @classmethod
    def of(cls, block: Block) -> "Filter":
        kernel = block.taps.t()[:, None, None].contiguous()
        return cls(kernel, block.taps_bias, block.taps.float(), block.taps_bias.float())


class Way(Protocol):
    """A kernel, from (slots, 6 + time, channels) to (slots, time, channels)."""

    def __call__(self, full: Tensor, by: Filter) -> Tensor: ...


def convolve(full: Tensor, by: Filter) -> Tensor:
    """By cuDNN on a GPU, and by oneDNN on a CPU."""
    image = full.transpose(1, 2).unsqueeze(2)  # channels last, without a copy
    mixed = functional.conv2d(image, by.kernel, by.bias, groups=full.shape[2])
    return mixed.squeeze(2).transpose(1, 2)


def convolve_natively(full: Tensor, by: Filter) -> Tensor:
    """By PyTorch's native kernel, which needs a contiguous copy of its input."""
    with torch.backends.cudnn.flags(enabled=False):
        return convolve(full, by)


def add_products(full: Tensor, by: Filter) -> Tensor:
    """Seven products, added up in float32 and rounded once."""
    moments = full.shape[1] - len(by.taps) + 1
    sums = torch.addcmul(by.exact_bias, full[:, :moments], by.taps[0])
    for place, tap in enumerate(by.taps[1:], start=1):
        torch.addcmul(sums, full[:, place : place + moments], tap, out=sums)
    return sums.to(full.dtype)


CUDNN, NATIVE, PRODUCTS = "cudnn", "native", "products"
WAYS: Mapping[str, Way] = {CUDNN: convolve, NATIVE: convolve_natively, PRODUCTS: add_products}
"""The default first."""
