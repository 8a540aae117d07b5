"""The language model: a step for many rows at once, and the prompt of one.

A row is a sequence in the KV cache. A step appends one token to each row, at that row's own
position, and attends to all that the row holds. No row sees another.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from engines.vibevoice.architecture import Unsupported
from engines.vibevoice.cache import KVCache
from engines.vibevoice.weights import Layer, Weights

Attention = Callable[..., Tensor]


class LanguageModel:
    """Qwen2 over static buffers. `capacity` is the longest sequence, in tokens. With `flash`, steps
    attend by flash-attn's kernel for KV caches, which reads no more than each row holds."""

    def __init__(self, weights: Weights, capacity: int, *, flash: bool = False) -> None:
        self._flash = flash_kernel() if flash else None
        self._weights, self._sizes = weights, weights.architecture
        sizes = self._sizes
        half = torch.arange(0, sizes.head_dim, 2, dtype=torch.float32) / sizes.head_dim
        places = torch.arange(capacity, dtype=torch.float32)[:, None]
        angles = places * (1.0 / sizes.rope_theta**half)
        sine = angles.sin()
        # The halves of a head are rolled into each other: the first meets the other's negative.
        self._cosine = torch.cat([angles.cos()] * 2, -1)[:, None].to(weights.device, weights.dtype)
        self._sine = torch.cat([-sine, sine], -1)[:, None].to(weights.device, weights.dtype)
        self._places = torch.arange(capacity, device=weights.device)
        self._groups = sizes.heads // sizes.kv_heads

    def step(self, x: Tensor, positions: Tensor, cache: KVCache, context: int) -> Tensor:
        """Appends `x` (rows, hidden) to the first rows at `positions` (rows,), all below `context`,
        and gives the last hidden states."""
        rows = len(x)
        rotation = self._cosine[positions], self._sine[positions]
        attend = self._masked(positions, context, x.dtype)
        if self._flash is not None:
            attend = self._flashing(self._flash, positions)
        every = self._places[:rows]
        for layer, (written, keys, values) in zip(
            self._weights.layers, cache.views(rows, context), strict=True
        ):
            query, pair = self._attention_inputs(layer, x, rotation)
            written.index_put_((every, positions), pair)
            x = self._layer_outputs(layer, x, attend(query, keys, values).reshape(rows, -1))
        return self._normed(x, self._weights.norm)

    def _masked(self, positions: Tensor, context: int, dtype: torch.dtype) -> Attention:
        """Each row attends to what it holds of the first `context` tokens."""
        bias = _bias(self._places[:context] <= positions[:, None], dtype)[:, None, None]
        shape = (len(positions), self._sizes.kv_heads, self._groups, self._sizes.head_dim)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            # The heads that share a key are this query's tokens.
            return functional.scaled_dot_product_attention(query.view(shape), keys, values, bias)

        return attend

    def _flashing(self, kernel: Attention, positions: Tensor) -> Attention:
        lengths = (positions + 1).int()
        shape = (len(positions), 1, self._sizes.heads, self._sizes.head_dim)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cached = keys.transpose(1, 2), values.transpose(1, 2)
            return kernel(query.reshape(shape), *cached, cache_seqlens=lengths)

        return attend

    def prefill(self, x: Tensor, start: int, cache: KVCache, row: int) -> None:
        """Appends `x` (tokens, hidden) to a row that holds `start` tokens."""
        sizes = self._sizes
        count, end = len(x), start + len(x)
        rotation = self._cosine[start:end], self._sine[start:end]
        seen = self._places[:end] <= self._places[start:end, None]
        bias = _bias(seen, x.dtype).repeat(self._groups, 1)[None, None]
        for layer, kept in zip(self._weights.layers, cache.tensor[:, row], strict=True):
            query, pair = self._attention_inputs(layer, x, rotation)
            kept[start:end] = pair
            keys, values = kept[None, :end].transpose(1, 3).unbind(2)
            grouped = query.view(count, sizes.kv_heads, self._groups, sizes.head_dim)
            grouped = grouped.permute(1, 2, 0, 3).flatten(1, 2)[None]
            seen_by = functional.scaled_dot_product_attention(grouped, keys, values, bias)[0]
            seen_by = seen_by.unflatten(1, (self._groups, count)).permute(2, 0, 1, 3)
            x = self._layer_outputs(layer, x, seen_by.reshape(count, -1))

    def _attention_inputs(
        self, layer: Layer, x: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The rotated query (rows, heads * width), and key and value (rows, 2, heads, width)."""
        sizes = self._sizes
        qkv = torch.addmm(layer.qkv_bias, self._normed(x, layer.norm), layer.qkv)
        queries = sizes.heads * sizes.head_dim
        turned = qkv[:, : queries + sizes.kv_heads * sizes.head_dim]
        turned = turned.unflatten(1, (-1, sizes.head_dim))
        cosine, sine = rotation
        torch.addcmul(turned * cosine, turned.roll(sizes.head_dim // 2, -1), sine, out=turned)
        return qkv[:, :queries], qkv[:, queries:].unflatten(1, (2, sizes.kv_heads, sizes.head_dim))

    def _layer_outputs(self, layer: Layer, x: Tensor, seen_by: Tensor) -> Tensor:
        x = torch.addmm(x, seen_by, layer.out)
        gate, up = (self._normed(x, layer.mlp_norm) @ layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, functional.silu(gate) * up, layer.down)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (self._sizes.hidden,), weight, self._sizes.eps)


def flash_kernel() -> Attention:
    """flash-attn's, if it is installed. Raises `Unsupported`."""
    try:
        kernel: Attention = importlib.import_module("flash_attn").flash_attn_with_kvcache
    except (ImportError, AttributeError) as problem:
        raise Unsupported(f"flash-attn has no kernel for KV caches: {problem}") from problem
    return kernel


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, float("-inf")
    )
