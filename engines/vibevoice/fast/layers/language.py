"""The language model: decoding of many rows at once, and prefill of one.

A row is a sequence in the KV cache. A step appends one token, or a few, to each row, at that row's
own positions. They attend to all tokens of the same row before them, and to no other row.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from engines.vibevoice.architecture import Unsupported
from engines.vibevoice.fast.layers.kv_cache import KVCache
from engines.vibevoice.fast.layers.norm import RowNorm
from engines.vibevoice.fast.layers.weights import Layer, SpeechWeights

Attention = Callable[..., Tensor]


class LanguageModel:
    """Qwen2 over static buffers. `capacity` is the longest sequence, in tokens.

    With `flash`, steps use flash-attn's kernel for KV caches, which reads only the tokens that each
    row holds.
    """

    def __init__(self, weights: SpeechWeights, capacity: int, *, flash: bool = False) -> None:
        self._flash = flash_kernel() if flash else None
        self._weights, self._sizes = weights, weights.architecture
        sizes = self._sizes
        half = torch.arange(0, sizes.head_dim, 2, dtype=torch.float32) / sizes.head_dim
        places = torch.arange(capacity, dtype=torch.float32)[:, None]
        angles = places * (1.0 / sizes.rope_theta**half)
        sine = angles.sin()
        # RoPE swaps the halves of a head by a roll; the sine of the first half is negated.
        self._cosine = torch.cat([angles.cos()] * 2, -1)[:, None].to(weights.device, weights.dtype)
        self._sine = torch.cat([-sine, sine], -1)[:, None].to(weights.device, weights.dtype)
        self._places = torch.arange(capacity, device=weights.device)
        self._groups = sizes.heads // sizes.kv_heads
        self._norm = RowNorm(sizes.eps, weights.device, weights.dtype)

    def step(
        self, x: Tensor, positions: Tensor, cache: KVCache, context: int, every: int = 1
    ) -> Tensor:
        """Appends tokens to the first rows, or to each `every`-th, and gives their hidden states.

        `positions` are (rows,) for one token a row, (rows, tokens) for more, and all below
        `context`. `x` (rows * tokens, hidden) has the inputs and is overwritten. The result has its
        shape.
        """
        rotation = self._cosine[positions.flatten()], self._sine[positions.flatten()]
        attend = self.attention(positions, context, x.dtype)
        rows = self._places[: len(positions)]
        if positions.dim() == 2:
            rows = rows[:, None]
        for layer, (written, keys, values) in zip(
            self._weights.layers, cache.views(len(positions), context, every), strict=True
        ):
            query, pair = self._attention_inputs(layer, x, rotation)
            written.index_put_((rows, positions), pair.view(*positions.shape, *pair.shape[1:]))
            self._add_outputs(layer, x, attend(query, keys, values).reshape(len(x), -1))
        return x if self._weights.norm is None else self._norm(x, self._weights.norm)

    def attention(self, positions: Tensor, context: int, dtype: torch.dtype) -> Attention:
        """The attention of a step, as a function of queries, keys and values.

        Queries are (rows * tokens, heads * width) in the weights' order. The result is (rows,
        tokens * groups, key heads, width).
        """
        if self._flash is not None and positions.dim() == 1:  # its lengths are a row's
            return self._flashing(self._flash, positions)
        return self._masked(positions, context, dtype)

    def _masked(self, positions: Tensor, context: int, dtype: torch.dtype) -> Attention:
        """PyTorch's attention over the first `context` tokens, with a mask for each row."""
        bias = _bias(self._places[:context] <= positions[..., None], dtype)[:, None]
        one = positions.dim() == 1
        bias = bias[:, None] if one else bias.repeat_interleave(self._groups, 2)
        shape = self._queries(positions)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            query = query.reshape(shape).transpose(1, 2)  # a copy for several tokens a row
            seen_by = functional.scaled_dot_product_attention(query, keys, values, bias)
            return seen_by.transpose(1, 2)

        return attend

    def _queries(self, positions: Tensor) -> tuple[int, ...]:
        """Grouped-query attention: the heads that share a key become query tokens of that key.

        The shape is (rows, tokens * groups, key heads, width).
        """
        groups = positions[0].numel() * self._groups
        return len(positions), groups, self._sizes.kv_heads, self._sizes.head_dim

    def _flashing(self, kernel: Attention, positions: Tensor) -> Attention:
        lengths = (positions + 1).int()
        shape = self._queries(positions)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cached = keys.transpose(1, 2), values.transpose(1, 2)
            return kernel(query.view(shape), *cached, cache_seqlens=lengths)

        return attend

    def prefill(self, x: Tensor, start: int, cache: KVCache, row: int) -> None:
        """Prefill: appends `x` (tokens, hidden) to a row that holds `start` tokens."""
        sizes = self._sizes
        count, end = len(x), start + len(x)
        rotation = self._cosine[start:end], self._sine[start:end]
        seen = self._places[:end] <= self._places[start:end, None]
        bias = _bias(seen, x.dtype).repeat_interleave(self._groups, 0)[None, None]
        x = x.clone()
        for layer, kept in zip(self._weights.layers, cache.tensor[:, row], strict=True):
            query, pair = self._attention_inputs(layer, x, rotation)
            kept[start:end] = pair
            keys, values = kept[None, :end].transpose(1, 3).unbind(2)
            # A token's heads that share a key become consecutive query tokens.
            grouped = query.reshape(-1, sizes.kv_heads, sizes.head_dim).transpose(0, 1)[None]
            seen_by = functional.scaled_dot_product_attention(grouped, keys, values, bias)[0]
            self._add_outputs(layer, x, seen_by.transpose(0, 1).reshape(count, -1))

    def _attention_inputs(
        self, layer: Layer, x: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The rotated query (rows, heads * width), and key and value (rows, 2, heads, width)."""
        sizes = self._sizes
        qkv = torch.addmm(layer.qkv_bias, self._norm(x, layer.norm), layer.qkv)
        queries = sizes.heads * sizes.head_dim
        turned = qkv[:, : queries + sizes.kv_heads * sizes.head_dim]
        turned = turned.unflatten(1, (-1, sizes.head_dim))
        cosine, sine = rotation
        torch.addcmul(turned * cosine, turned.roll(sizes.head_dim // 2, -1), sine, out=turned)
        return qkv[:, :queries], qkv[:, queries:].unflatten(1, (2, sizes.kv_heads, sizes.head_dim))

    def _add_outputs(self, layer: Layer, x: Tensor, seen_by: Tensor) -> None:
        # In place, because an out-of-place addmm copies its input first.
        x.addmm_(seen_by, layer.out)
        gate, up = (self._norm(x, layer.mlp_norm) @ layer.gate_up).chunk(2, dim=-1)
        x.addmm_(functional.silu(gate) * up, layer.down)


def flash_kernel() -> Attention:
    """flash-attn's kernel for KV caches. Raises `Unsupported` where it is not installed."""
    try:
        kernel: Attention = importlib.import_module("flash_attn").flash_attn_with_kvcache
    except (ImportError, AttributeError) as problem:
        raise Unsupported(f"flash-attn has no kernel for KV caches: {problem}") from problem
    return kernel


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, float("-inf")
    )
