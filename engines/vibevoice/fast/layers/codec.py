"""Streaming codecs: decoder and encoders as matrix products over (time, channels), frame by frame.

A causal convolution needs the inputs just before its own. They stay in static buffers, with all
layers of a slot in one row. A frame reads `past` and writes `new`. The caller decides for which
slots `new` becomes `past`. Zeros are the context of the first frame.

Every strided convolution has a kernel of twice its stride. So it is one product of each block of
inputs and the next block. A transposed one is the product of each input and the one before.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from engines.vibevoice.architecture import Net, Unsupported
from engines.vibevoice.failures import first_line, meaning
from engines.vibevoice.fast.layers.depthwise import CUDNN, PRODUCTS, WAYS, Filter
from engines.vibevoice.fast.layers.norm import RowNorm, epsilon, rms_norm
from engines.vibevoice.fast.layers.weights import Block, CodecWeights

log = logging.getLogger("vibevoice")

_KERNEL = 7
_CPU_COLUMNS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """A convolution's context buffers, both (slots, inputs before, channels).

    It reads the inputs of the frame before from `past`, and writes those for the next frame to
    `new`.
    """

    past: Tensor
    new: Tensor


class Codec:
    """A decoder or an encoder, without state.

    `ways` has for each stage the kernel of its depthwise convolutions, by its name in
    `depthwise.WAYS`.
    """

    def __init__(self, weights: CodecWeights, net: Net, *, decodes: bool) -> None:
        self._weights, self._net, self._decodes = weights, net, decodes
        self.shapes = _shapes(net, decodes)
        self.filters = [[Filter.of(block) for block in stage] for stage in weights.stages]
        self.ways = [CUDNN] * len(weights.stages)
        matrix = weights.head[0]
        self._eps = epsilon(net.eps, matrix.device)
        self._norm = RowNorm(net.eps, matrix.device, matrix.dtype)
        self._least = matrix.new_full((1,), net.eps)
        self._means = {width: matrix.new_full((width, 1), 1 / width) for width in net.widths}
        self._downs = {id(block): _abreast(block) for stage in weights.stages for block in stage}

    @property
    def context_size(self) -> int:
        """The number of context values of one slot."""
        return sum(rows * channels for rows, channels in self.shapes)

    def moments(self, samples: int) -> list[int]:
        """The time steps at each stage for an input or output of `samples` samples."""
        strides = (1, *self._net.strides)
        if self._decodes:
            frames = samples // math.prod(strides)
            return [frames * math.prod(strides[: at + 1]) for at in range(len(strides))]
        return [samples // math.prod(strides[: at + 1]) for at in range(len(strides))]

    def contexts(self, past: Tensor, new: Tensor) -> list[Context]:
        """Views of two buffers of (slots, `context_size`), one for each convolution."""
        sizes = [rows * channels for rows, channels in self.shapes]
        return [
            Context(before.unflatten(1, shape), after.unflatten(1, shape))
            for before, after, shape in zip(
                past.split(sizes, 1), new.split(sizes, 1), self.shapes, strict=True
            )
        ]

    def __call__(self, x: Tensor, contexts: Sequence[Context]) -> Tensor:
        """Decodes a frame, (slots, 1, latent) to (slots, hop, 1) samples, or encodes it."""
        return self._forward(x, _Streaming(contexts))

    def whole(self, x: Tensor) -> Tensor:
        """Encodes a whole recording, (1, samples, 1), to latents (1, frames, latent)."""
        return self._forward(x, _Whole(self.shapes))

    def _forward(self, x: Tensor, past: "_Streaming | _Whole") -> Tensor:
        strides = (1, *self._net.strides)
        for stage, (matrix, bias) in enumerate(self._weights.scalers):
            if not stage:
                x = _convolution(past.before(x), matrix, bias)
            elif self._decodes:
                x = _upsampled(x, past.last(x), matrix, bias)
            else:
                x = _downsampled(past.before(x, strides[stage]), matrix, bias, strides[stage])
            for block, by in zip(self._weights.stages[stage], self.filters[stage], strict=True):
                x = self._block(x, block, partial(self._convolved, stage, by), past)
        return _convolution(past.before(x), *self._weights.head)

    def _block(
        self,
        x: Tensor,
        block: Block,
        convolve: Callable[[Tensor], Tensor],
        past: "_Streaming | _Whole",
    ) -> Tensor:
        full = past.before(self._normed(x))
        if x.shape[1] == 1:
            mixed = (full * block.taps).sum(1, keepdim=True).add_(block.taps_bias)
        else:
            mixed = convolve(full)
        x = x + mixed
        h = self._normed(x).flatten(0, 1)
        h = functional.gelu(torch.addmm(block.up_bias, h, block.up))
        if x.is_cuda:
            h = x.flatten(0, 1).addmm_(h, block.down).add_(block.down_bias)
        else:  # on a CPU a fused add takes twice as long as a separate one
            down, bias = self._downs[id(block)]
            if h.numel() % len(down):  # a recording of any length
                down, bias = block.down, block.down_bias
            h = h.view(-1, len(down)) @ down
            h.add_(x.view(h.shape)).add_(bias)
        return h.view(x.shape)

    def _convolved(self, stage: int, by: Filter, full: Tensor) -> Tensor:
        """The stage's depthwise convolution, by its chosen kernel.

        Where the kernel refuses an input, as of a recording's length, `PRODUCTS` replaces it.
        """
        try:
            return WAYS[self.ways[stage]](full, by)
        except RuntimeError as refusal:
            if self.ways[stage] == PRODUCTS or not isinstance(meaning(refusal), Unsupported):
                raise
            log.warning("convolutions of stage %d: %s; products now", stage, first_line(refusal))
        self.ways[stage] = PRODUCTS
        return WAYS[PRODUCTS](full, by)

    def _normed(self, x: Tensor) -> Tensor:
        """Root mean square norm without a weight."""
        if x.shape[1] == 1:
            return self._norm(x)
        if x.is_cuda:
            return rms_norm(x, self._eps)
        # On a CPU the mean of narrow rows takes three times as long as a product.
        width = x.shape[2]
        power = torch.addmm(self._least, x.square().flatten(0, 1), self._means[width])
        return x * power.rsqrt_().view(*x.shape[:2], 1)


class _Streaming:
    """The contexts of a frame in a stream, given to the convolutions in the order they run."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self._contexts = iter(contexts)

    def before(self, x: Tensor, _stride: int = 1) -> Tensor:
        """`x` with the inputs before it prepended."""
        context = next(self._contexts)
        full = torch.cat([context.past, x], dim=1)
        context.new.copy_(full[:, -context.new.shape[1] :])
        return full

    def last(self, x: Tensor) -> Tensor:
        """The single input before `x`."""
        context = next(self._contexts)
        context.new.copy_(x[:, -1:])
        return context.past


class _Whole:
    """The contexts of a whole recording: zeros before it.

    Like upstream, it pads the end with zeros to a multiple of a stride.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        self._shapes = iter(shapes)

    def before(self, x: Tensor, stride: int = 1) -> Tensor:
        rows, _ = next(self._shapes)
        return functional.pad(x, (0, 0, rows, -x.shape[1] % stride))

    def last(self, x: Tensor) -> Tensor:
        next(self._shapes)
        return torch.zeros_like(x[:, :1])


def _shapes(net: Net, decodes: bool) -> tuple[tuple[int, int], ...]:
    """(inputs before, channels) of each convolution, in the order in which they run."""
    shapes: list[tuple[int, int]] = []
    channels = net.inputs
    for stage, (width, depth) in enumerate(zip(net.widths, net.depths, strict=True)):
        rows = _KERNEL - 1 if not stage else 1 if decodes else net.strides[stage - 1]
        shapes += [(rows, channels), *[(_KERNEL - 1, width)] * depth]
        channels = width
    return (*shapes, (_KERNEL - 1, channels))


def _abreast(block: Block) -> tuple[Tensor, Tensor]:
    """The block's last product as a block-diagonal one over several time steps, with 16 columns.

    On a CPU a product with fewer columns takes up to four times as long.
    """
    down, bias = block.down, block.down_bias
    moments = max(1, _CPU_COLUMNS // len(bias))
    if down.is_cuda or moments == 1:
        return down, bias
    return torch.block_diag(*[down] * moments), bias.repeat(moments)


def _convolution(full: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """A convolution of stride 1 over (slots, 6 + time, inputs)."""
    length, inputs = full.shape[1:]
    if length == _KERNEL:
        return torch.addmm(bias, full.flatten(1), matrix)[:, None]
    kernel = matrix.view(_KERNEL, inputs, -1).permute(2, 1, 0).unsqueeze(2)
    image = full.transpose(1, 2).unsqueeze(2)
    return functional.conv2d(image, kernel, bias).squeeze(2).transpose(1, 2)


def _downsampled(full: Tensor, matrix: Tensor, bias: Tensor, stride: int) -> Tensor:
    blocks = full.unflatten(1, (-1, stride)).flatten(2)
    pairs = torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2)
    return torch.addmm(bias, pairs.flatten(0, 1), matrix).view(*pairs.shape[:2], -1)


def _upsampled(x: Tensor, last: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    before = last if x.shape[1] == 1 else torch.cat([last, x[:, :-1]], dim=1)
    pairs = torch.cat([x, before], dim=2)
    made = torch.addmm(bias, pairs.flatten(0, 1), matrix)
    # A transposed convolution halves the channels.
    return made.view(len(x), -1, x.shape[2] // 2)
