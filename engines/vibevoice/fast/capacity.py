"""How many slots fit into a GPU's memory, and how long they may be. `free` is what is free behind
the weights, in bytes."""

from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT, MOST_SLOTS
from engines.vibevoice.fast.layers.kv_cache import KVCache
from engines.vibevoice.fast.layers.weights import Weights

_GIB = 1 << 30
USUAL_CONTEXT = 2 * FIXED_CONTEXT
"""Tokens that slots hold from the start, if memory allows: room for four voices of 30 s beside a
chunk of 1,000 characters, in Chinese too. To grow later stops all slots and voids their graphs."""

GRAPHS = _GIB // 2
"""Bytes that captures leave free. All graphs of the 7B together take 0.2 GiB by arithmetic."""

_SPARE = GRAPHS + _GIB + _GIB // 4  # graphs, a voice of a minute while it is read, known voices


def slots_for(weights: Weights, free: int, most: int = MOST_SLOTS) -> int:
    """How many slots of `USUAL_CONTEXT` fit, beside room for prompts, voices and graphs."""
    slots = most
    while slots > 1 and _needed(weights, slots, USUAL_CONTEXT) > free - _SPARE:
        slots //= 2
    return slots


def capacity_for(weights: Weights, free: int, slots: int) -> int:
    """The tokens that each slot gets at the start."""
    fits = _needed(weights, slots, USUAL_CONTEXT) <= free - _SPARE
    return USUAL_CONTEXT if fits else FIXED_CONTEXT


def longest_for(weights: Weights, free: int, slots: int) -> int:
    """The tokens that slots can be grown to: the old ones are there while the new are filled."""
    longest = capacity_for(weights, free, slots)
    while longest < weights.architecture.context and (
        _needed(weights, slots, 3 * longest) <= free - _SPARE
    ):
        longest *= 2
    return longest


def _needed(weights: Weights, slots: int, tokens: int) -> int:
    """Bytes for the keys and values of all slots, and for what a step works on."""
    sizes, width = weights.architecture, weights.dtype.itemsize
    work = 64 * sizes.hop * sizes.decoder.widths[-1] * width
    return KVCache.size(sizes, 2 * slots, tokens) * width + slots * work
