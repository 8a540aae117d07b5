"""How many slots fit into a GPU's memory, and how many tokens each may hold.

`free` is the memory in bytes that is free after the weights are loaded.
"""

from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT, MOST_SLOTS
from engines.vibevoice.fast.layers.kv_cache import KVCache
from engines.vibevoice.fast.layers.weights import SpeechWeights

_GIB = 1 << 30
USUAL_CONTEXT = 2 * FIXED_CONTEXT
"""Tokens a slot at the start, if memory allows. They hold four voices of 30 s and a chunk of 1,000
characters, also in Chinese. To grow later stops all slots and drops all graphs."""

GRAPHS = _GIB // 2
"""Bytes that captures leave free. All graphs of the 7B take 0.2 GiB by calculation."""

_SPARE = GRAPHS + _GIB + _GIB // 4  # graphs, the encoding of a voice of a minute, the voice cache


def slots_for(weights: SpeechWeights, free: int, most: int = MOST_SLOTS) -> int:
    """The number of slots of `USUAL_CONTEXT` that fit, with room for prompts, voices and graphs."""
    slots = most
    while slots > 1 and _needed(weights, slots, USUAL_CONTEXT) > free - _SPARE:
        slots //= 2
    return slots


def capacity_for(weights: SpeechWeights, free: int, slots: int) -> int:
    """The tokens that each slot holds at the start."""
    fits = _needed(weights, slots, USUAL_CONTEXT) <= free - _SPARE
    return USUAL_CONTEXT if fits else FIXED_CONTEXT


def longest_for(weights: SpeechWeights, free: int, slots: int) -> int:
    """The most tokens that slots can grow to. Old and new tensors coexist while they are copied."""
    longest = capacity_for(weights, free, slots)
    while longest < weights.architecture.context and (
        _needed(weights, slots, 3 * longest) <= free - _SPARE
    ):
        longest *= 2
    return longest


def _needed(weights: SpeechWeights, slots: int, tokens: int) -> int:
    """Bytes for the KV cache of all slots, and for the intermediate tensors of a step."""
    sizes, width = weights.architecture, weights.dtype.itemsize
    work = 64 * sizes.hop * sizes.decoder.widths[-1] * width
    return KVCache.size(sizes, 2 * slots, tokens) * width + slots * work
