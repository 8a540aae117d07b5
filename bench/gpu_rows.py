"""The parts of `gpu_check`, each a few rows. See `gpu_check.py`."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from bench import gpu_prices
from bench.gpu_card import GIB, STEPS, Card, fill, rewind
from bench.gpu_row import Figure, Row, failed, not_here, ok
from bench.random_model import sequence
from engines.base import SAMPLE_RATE
from engines.vibevoice.fast.batch import Batch
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.layers.kernels import (
    FLASH,
    SDPA,
    Outcome,
    attention_ways,
    convolution_ways,
    stages,
    try_ways,
)
from engines.vibevoice.loader import check_card
from request.errors import EngineError

_SLOTS, _CONTEXTS = (1, 8, 32), (512, 2048)
_FRAMES, _ROUNDS = 10, 3
_MANY = 500
_MIB = 1 << 20
_NO_CUDA = "there is no CUDA device"


def machine(card: Card) -> Iterator[Row]:
    yield ok("card", card.name)
    if card.on_cuda:
        major, minor = torch.cuda.get_device_capability(card.device)
        try:
            check_card(card.device)
        except EngineError as refusal:
            yield failed("compute capability", str(refusal))
        else:
            yield ok("compute capability", f"{major}.{minor}", capability=f"{major}.{minor}")
        yield _driver()
        yield ok("cuDNN", str(torch.backends.cudnn.version()))
        free, total = torch.cuda.mem_get_info(card.device)
        yield ok("free memory", f"{free / GIB:.1f} of {total / GIB:.1f} GiB", free_bytes=free)
    else:
        for name in ("compute capability", "driver", "cuDNN", "free memory"):
            yield not_here(name, _NO_CUDA)
    yield ok("torch", f"{torch.__version__}, CUDA {torch.version.cuda}")


def _driver() -> Row:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as problem:
        return not_here("driver", f"nvidia-smi: {problem}")
    return ok("driver", ran.stdout.split("\n")[0])


def weights(card: Card) -> Iterator[Row]:
    took = card.seconds(lambda: card.model)
    held = torch.cuda.memory_allocated(card.device) / GIB if card.on_cuda else None
    size = f", {held:.2f} GiB" if held is not None else ""
    yield ok("weights", f"{card.size}, random, {took:.1f} s{size}", seconds=took, gib=held)
    yield ok("slots", str(card.slots), slots=card.slots)


def bits(card: Card) -> Iterator[Row]:
    """The same frames eagerly and as a graph."""
    name = "eager = captured"
    if not card.on_cuda:
        yield not_here(name, _NO_CUDA)
        return
    batch = card.batch()
    for slots in sorted({1, card.slots}):
        shape = GraphShape(slots, 512, STEPS)
        if not _captured(card, batch, shape):
            yield failed(name, f"{shape}: {batch.graphs}")
            continue
        eager = _state_after(card, batch, partial(batch.step, batch.state, shape))
        graph = _state_after(card, batch, partial(batch.graphs.run, shape))
        same = [torch.equal(one, other) for one, other in zip(eager, graph, strict=True)]
        say = ok if all(same) else failed
        yield say(name, f"{shape}: {sum(same)} of {len(same)} tensors equal to the bit")


def _state_after(card: Card, batch: Batch, run: Callable[[], None]) -> list[Tensor]:
    fill(batch)
    for _ in range(3):
        run()
    card.wait()
    state = batch.state
    return [t.clone() for t in (state.audio, state.x, state.lengths, state.past, state.chosen)]


def _captured(card: Card, batch: Batch, shape: GraphShape) -> bool:
    """Whether there is a graph, captured now if it has to be; what that took is kept."""
    if shape not in batch.graphs._graphs:
        held = batch.graphs.used
        took = card.seconds(lambda: batch.graphs.capture(shape))
        card.captures.setdefault(shape, (took, batch.graphs.used - held))
    return shape in batch.graphs._graphs


@torch.inference_mode()
def attention(card: Card) -> Iterator[Row]:
    for slots in sorted({1, card.slots}):
        tried = try_ways(*attention_ways(card.model[0], slots), card.clock)
        yield _tried(f"attention of {2 * slots} rows", tried)
    card.flash = FLASH in tried and tried[FLASH].error is not None
    if FLASH not in tried:
        yield not_here("flash against SDPA", "flash-attn is not installed")


def _tried(name: str, tried: dict[str, Outcome]) -> Row:
    """Failed where a way is wrong, or none is right. What a card has not is no failure."""
    said = ", ".join(f"{way} {outcome}" for way, outcome in tried.items())
    figures: dict[str, Figure] = {}
    for way, outcome in tried.items():
        if outcome.seconds is not None:
            figures |= {f"{way}_us": 1e6 * outcome.seconds, f"{way}_error": outcome.error}
    wrong = any(each.error is not None and each.problem for each in tried.values())
    worst = max((each.error or 0.0 for each in tried.values()), default=0.0)
    return (failed if wrong or not figures else ok)(
        name, f"{said}; error up to {worst:.4f}", **figures
    )


@torch.inference_mode()
def convolutions(card: Card) -> Iterator[Row]:
    batch = card.batch()
    for name, stage, rows, moments in stages(batch.codecs, card.model[0], card.slots):
        ways = convolution_ways(batch.codecs[name], stage, rows, moments)
        yield _tried(f"{name}, stage {stage}", try_ways(*ways, card.clock))


def frames(card: Card) -> Iterator[Row]:
    """Milliseconds a frame, by slots and context: eagerly, captured, with both attentions."""
    fitting = [
        (slots, context)
        for slots in sorted({card.slots, *(each for each in _SLOTS if each < card.slots)})
        for context in _CONTEXTS
    ]
    times: dict[tuple[int, int], dict[str, float]] = {shape: {} for shape in fitting}
    _time_frames(card, times, flash=False)
    if card.flash:  # else the row of the attention says why not
        _time_frames(card, times, flash=True)
    for (slots, context), ways in times.items():
        card.frames_ms[slots, context] = min(ways.values())
        said = ", ".join(f"{way} {ms:.2f}" for way, ms in ways.items())
        figures = {way.replace(", ", "_") + "_ms": ms for way, ms in ways.items()}
        captured = not card.on_cuda or f"captured, {SDPA}" in ways
        yield (ok if captured else failed)(f"frame {slots}x{context}", f"{said} ms", **figures)
    for slots in _SLOTS:
        if slots > card.slots:
            yield not_here(f"frame {slots}", f"{card.slots} slots fit into the memory")


def _time_frames(
    card: Card, times: Mapping[tuple[int, int], dict[str, float]], *, flash: bool
) -> None:
    batch = card.batch(flash=flash)
    for shape, ways in times.items():
        for way, took in _frame_ways(card, batch, GraphShape(*shape, STEPS)):
            ways[f"{way}, {FLASH if flash else SDPA}"] = 1000 * took


def _frame_ways(card: Card, batch: Batch, shape: GraphShape) -> Iterator[tuple[str, float]]:
    fill(batch, shape.context)
    yield "eager", _frame_seconds(card, batch, shape, partial(batch.step, batch.state, shape))
    if card.on_cuda and _captured(card, batch, shape):
        run = partial(batch.graphs.run, shape)
        yield "captured", _frame_seconds(card, batch, shape, run)


def _frame_seconds(card: Card, batch: Batch, shape: GraphShape, run: Callable[[], None]) -> float:
    run()
    times = []
    for _ in range(_ROUNDS):
        rewind(batch, shape.context)
        times.append(card.seconds(run, _FRAMES))
    return min(times)


def captures(card: Card) -> Iterator[Row]:
    if not card.on_cuda:
        yield not_here("capture", _NO_CUDA)
    for shape, (took, held) in card.captures.items():
        yield ok(
            f"capture {shape}", f"{took:.2f} s, {held / _MIB:.0f} MiB", seconds=took, bytes=held
        )


def admissions(card: Card) -> Iterator[Row]:
    """A prompt of 300 tokens behind a voice of 30 s, into a slot. The first of a length costs
    cuDNN its plans."""
    batch = card.batch()
    hop = card.model[0].architecture.hop
    for name, said in (("a", "first"), ("b", "new"), ("b", "known")):
        someone = sequence(0, 1, name=name, hop=hop)
        lease = batch.lease()
        took = 1000 * card.seconds(partial(batch.admit, someone, lease))
        lease.release()
        batch.release(someone, wipe=True)
        yield ok(f"admission, {said} voice", f"{took:.1f} ms", ms=took)
    batch.voices.forget()


@torch.inference_mode()
def many_frames(card: Card) -> Iterator[Row]:
    """Through the worker's own way: launched, copied to the host, read."""
    batch, shape = card.batch(), GraphShape(min(8, card.slots), 512, STEPS)
    fill(batch)
    batch.read(batch.launch(shape, {}))
    before = _memory(card)
    finite = True
    for count in range(_MANY):
        if not count % 100:
            rewind(batch, shape.context)
        step = batch.launch(shape, {})
        batch.read(step)
        finite &= bool(step.audio[: shape.slots].isfinite().all())
    say = ok if finite else failed
    yield say(f"{_MANY} frames", "all samples are finite" if finite else "not all are numbers")
    if not card.on_cuda:
        yield not_here("memory", _NO_CUDA)
        return
    grown = [now - then for now, then in zip(_memory(card), before, strict=True)]
    say = ok if grown[0] <= 0 and grown[1] <= _MIB else failed
    yield say("memory", f"{grown[0]:+} bytes by torch, {grown[1]:+} by the driver")


def _memory(card: Card) -> tuple[int, int]:
    """Bytes in use, as torch and as the driver count them."""
    if not card.on_cuda:
        return 0, 0
    card.wait()
    free, total = torch.cuda.mem_get_info(card.device)
    return torch.cuda.memory_allocated(card.device), total - free


def speed(card: Card) -> Iterator[Row]:
    """Of frames alone, in the shape that every job with a seed runs in."""
    slots, context = max(shape for shape in card.frames_ms if shape[1] == max(_CONTEXTS))
    second = card.model[0].architecture.hop / SAMPLE_RATE
    pace = 1000 * slots * second / card.frames_ms[slots, context]
    yield ok("audio a second", f"{pace:.1f} s, {slots}x{context}", audio_sec=pace, slots=slots)
    name, dollars = "cost of an audio hour", gpu_prices.price(card.name)
    if dollars is None:
        yield not_here(name, "no RunPod price is known for this card")
        return
    cost = 3600 / pace * dollars
    yield ok(
        name,
        f"${cost:.4f} at ${dollars:.5f} a second ({gpu_prices.DATE}), without starts and pauses",
        usd=cost,
        usd_per_second=dollars,
    )
