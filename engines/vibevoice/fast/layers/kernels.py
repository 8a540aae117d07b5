"""Autotuning: measures the kernels for a piece of work on this GPU, when the model is loaded.

The fastest kernel whose result is right is chosen. The default stays unless another takes a tenth
less time. So workers on the same kind of GPU make the same choice. With other kernels a seed would
give other bits.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from engines.vibevoice.architecture import Unsupported
from engines.vibevoice.failures import first_line, meaning
from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT
from engines.vibevoice.fast.layers.codec import Codec
from engines.vibevoice.fast.layers.depthwise import WAYS
from engines.vibevoice.fast.layers.kv_cache import KVCache
from engines.vibevoice.fast.layers.language import LanguageModel
from engines.vibevoice.fast.layers.weights import SpeechWeights
from request.errors import EngineLost

SDPA, FLASH = "sdpa", "flash_attn_with_kvcache"
_WRONG = 0.02  # relative root mean square error; bfloat16 rounds by 0.002
_CLEARLY = 0.9
_RUNS = 5
_BUSY_CYCLES = 1_000_000  # half a millisecond; eight launches take a tenth of one
_VOICE_SEC = 3

log = logging.getLogger("vibevoice")

Call = Callable[[], Tensor]
Clock = Callable[[Call], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A kernel's measurement: its relative error, and its seconds if the error is small enough.

    `problem` is why it cannot be used.
    """

    error: float | None = None
    seconds: float | None = None
    problem: str | None = None

    def __str__(self) -> str:
        return self.problem or f"{1e6 * (self.seconds or 0):.0f} us"


def try_ways(ways: Mapping[str, Call], exact: Tensor, clock: Clock) -> dict[str, Outcome]:
    """Compares each kernel's result with the exact one, and times those that are right."""
    return {name: _try(call, exact, clock) for name, call in ways.items()}


def _try(call: Call, exact: Tensor, clock: Clock) -> Outcome:
    try:
        error = _error(call(), exact)
        if error < _WRONG:
            return Outcome(error, clock(call))
    except RuntimeError as refusal:
        meant = meaning(refusal)
        if isinstance(meant, EngineLost):
            raise
        # flash-attn raises its own errors for what its build or this GPU does not support.
        return Outcome(problem=first_line(meant or refusal))
    return Outcome(error, problem=f"off by {error:.1%}")


def fastest(what: str, ways: Mapping[str, Call], exact: Tensor, clock: Clock) -> str:
    """The name of the kernel to use; the first of `ways` is the default.

    Raises `Unsupported` where none is right.
    """
    tried = try_ways(ways, exact, clock)
    said = ", ".join(f"{name} {outcome}" for name, outcome in tried.items())
    times = {name: each.seconds for name, each in tried.items() if each.seconds is not None}
    if not times:
        raise Unsupported(f"{what}: {said}")
    best, usual = min(times, key=times.__getitem__), next(iter(times))
    chosen = best if times[best] < _CLEARLY * times[usual] else usual
    log.info("%s: %s (%s)", what, chosen, said)
    return chosen


def _error(ours: Tensor, exact: Tensor) -> float:
    """The relative root mean square error of the worst row."""
    off = (ours.float() - exact).flatten(1).square().mean(1)
    worst: float = (off / exact.flatten(1).square().mean(1)).max().sqrt().item()
    return worst


def device_seconds(call: Call) -> float:
    """The shortest time of a few runs in seconds, on the current stream.

    The device is kept busy until a whole run is queued, so that launches are not measured. Steps
    are replayed as CUDA graphs, where launches cost nothing.
    """
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: list[float] = []
    for _ in range(_RUNS):
        torch.cuda._sleep(_BUSY_CYCLES)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return min(times)


@torch.inference_mode()
def choose_attention(weights: SpeechWeights, slots: int, clock: Clock = device_seconds) -> str:
    """Chooses the attention kernel of steps: PyTorch's or flash-attn's.

    flash-attn must be installed, and right for rows of different lengths.
    """
    return fastest(f"attention of {2 * slots} rows", *attention_ways(weights, slots), clock)


@torch.inference_mode()
def attention_ways(weights: SpeechWeights, slots: int) -> tuple[dict[str, Call], Tensor]:
    """The installed kernels, and the exact result, for random rows of increasing length."""
    sizes, rows = weights.architecture, 2 * slots
    draw = torch.Generator(weights.device).manual_seed(0)
    query = _random(draw, weights, rows, sizes.heads * sizes.head_dim)
    cache = KVCache(sizes, rows, FIXED_CONTEXT, weights.device, weights.dtype, layers=1)
    cache.tensor.normal_(generator=draw)
    ((_, keys, values),) = cache.views(rows, FIXED_CONTEXT)
    positions = torch.linspace(0, FIXED_CONTEXT - 1, rows, device=weights.device).long()
    ways: dict[str, Call] = {}
    for name, flash in ((SDPA, False), (FLASH, True)):
        try:
            model = LanguageModel(weights, FIXED_CONTEXT, flash=flash)
        except Unsupported as reason:
            log.info("attention: %s", reason)
            continue
        attend = model.attention(positions, FIXED_CONTEXT, weights.dtype)
        ways[name] = partial(attend, query, keys, values)
    return ways, _attended(query, keys, values, positions)


def _attended(query: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """Exact attention, row by row in float32: (rows, groups, key heads, width)."""
    out = []
    for row, held in enumerate((positions + 1).tolist()):
        heads = query[row].float().view(-1, keys.shape[1], keys.shape[3]).transpose(0, 1)
        k, v = (part[row, :, :held].float() for part in (keys, values))
        out.append(functional.softmax(heads @ k.mT / keys.shape[3] ** 0.5, -1) @ v)
    return torch.stack(out).transpose(1, 2)


@torch.inference_mode()
def choose_convolutions(
    codecs: Mapping[str, Codec], weights: SpeechWeights, slots: int, clock: Clock = device_seconds
) -> str:
    """Chooses the kernel of each stage of the codecs, and gives the counts as a text for the log.

    The `listener` encodes a recording of one voice. Other codecs work on a frame of all slots.
    """
    chosen: Counter[str] = Counter()
    for name, stage, rows, moments in stages(codecs, weights, slots):
        ways = convolution_ways(codecs[name], stage, rows, moments)
        way = fastest(f"{name}, stage {stage}", *ways, clock)
        codecs[name].ways[stage] = way
        chosen[way] += 1
    return ", ".join(f"{name} {count}" for name, count in chosen.most_common())


def stages(
    codecs: Mapping[str, Codec], weights: SpeechWeights, slots: int
) -> Iterator[tuple[str, int, int, int]]:
    """The codec, stage, rows and time steps of every convolution over more than one time step.

    A convolution over one time step is a sum of seven products with every kernel.
    """
    for name, codec in codecs.items():
        hears = name == "listener"
        samples = _VOICE_SEC * 24_000 if hears else weights.architecture.hop
        for stage, moments in enumerate(codec.moments(samples)):
            if moments > 1:
                yield name, stage, 1 if hears else slots, moments


@torch.inference_mode()
def convolution_ways(
    codec: Codec, stage: int, rows: int, moments: int
) -> tuple[dict[str, Call], Tensor]:
    """All kernels, and the exact result, for a random input of `rows` and `moments` time steps."""
    by = codec.filters[stage][0]
    shape = rows, moments + len(by.taps) - 1, by.taps.shape[1]
    draw = torch.Generator(by.kernel.device).manual_seed(0)
    full = torch.randn(shape, generator=draw, device=by.kernel.device).to(by.kernel.dtype)
    windows = full.float().unfold(1, len(by.taps), 1)
    exact = (windows * by.taps.t()).sum(-1) + by.exact_bias
    return {name: partial(way, full, by) for name, way in WAYS.items()}, exact


def _random(draw: torch.Generator, weights: SpeechWeights, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw, device=weights.device).to(weights.dtype)
