"""VibeVoice-Realtime: our steps against upstream's class, in operations and in CPU time.

    python -m bench.realtime_loop                  operations a frame at full size, on no device
    python -m bench.realtime_loop --code CLONE     and upstream's class: operations, CPU seconds

Weights are random. `narrow` has the real depth (4 and 20 layers, 5 solver steps) and little width;
upstream speaks one text at a time, so eight texts take it eight times as long.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.realtime_model import Voices, config, tensors
from engines.base import Options, PlannedChunk, Turn
from engines.realtime import sequence
from engines.realtime.batch import Batch
from engines.realtime.checkpoint import sizes_of
from engines.realtime.sequence import Text
from engines.realtime.text import TokenFeed
from engines.realtime.weights import load_weights
from engines.vibevoice.fast.graph_shape import TEXT_STEP, GraphShape
from engines.vibevoice.fast.layers.kv_cache import KVCache
from engines.vibevoice.prompt import Prompt

_FRAMES, _ROUNDS, _STEPS = 18, 3, 5
_CPU = torch.device("cpu")
_ALLOCATIONS = ("empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view")


class Count(TorchDispatchMode):
    """Counts operations, but for views and allocations; composite ones by their parts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        name = func._schema.name.split("::")[1]
        self.count += not (func.is_view or name in _ALLOCATIONS)
        return func(*args, **kwargs)


def new_batch(size: str, slots: int) -> Batch:
    sizes = sizes_of(config(size))
    weights = load_weights(tensors(size).__getitem__, sizes, _CPU, torch.float32)
    voices: Any = Voices(size)
    return Batch(weights, sizes, voices, slots=slots, capacity=512, put_offs=1 << 20)


def begin(batch: Batch) -> None:
    """Fills all slots with texts of 60 tokens, and reads the first window."""
    for slot in range(batch.slots):
        feed = TokenFeed(lambda _: list(range(60)), "x")
        turn = sequence.Turn(Prompt((), (), 0, 0), 0, "20 15", feed, 512)
        chunk = PlannedChunk((Turn(0, "x"),), seed=slot)
        text = Text(0, chunk, Options(1.5, _STEPS, min_frames=400), [turn])
        text.slot = slot
        batch.admit(text, batch.lease())
        window = text.begin_window(batch.step.weights.architecture.latent)
        assert window is not None  # noqa: S101
        batch.state.open_window(slot, window.ids, window.count, window.noise, last=False)


def operations(batch: Batch) -> tuple[int, int]:
    """Of a frame, and of a window: five tokens and six frames."""
    shapes = [GraphShape(batch.slots, 128, steps) for steps in (TEXT_STEP, _STEPS)]
    for shape in shapes:
        batch.step(batch.state, shape)  # what is made once is made now
    counts = []
    for shape in shapes:
        with Count() as counted:
            batch.step(batch.state, shape)
        counts.append(counted.count)
    return counts[1], counts[0] + 6 * counts[1]


@torch.inference_mode()
def ours(batch: Batch, frames: int) -> float:
    """CPU seconds of so many frames of all slots, with their windows."""
    begin(batch)
    began = time.process_time()
    for frame in range(frames):
        if frame % 6 == 0:
            batch.state.left.fill_(6)
            batch.state.used.zero_()
            batch.state.unread.fill_(5)
            batch.step(batch.state, GraphShape(batch.slots, 128, TEXT_STEP))
        batch.step(batch.state, GraphShape(batch.slots, 128, _STEPS))
    return time.process_time() - began


def compare(code: Path, counts: list[int]) -> None:
    """Both in turns; the best of each counts."""
    from tests.realtime_upstream import Case, Upstream

    upstream = Upstream(code, "narrow")
    case = Case(0, 60)
    with Count() as few:
        upstream.generate(case, 6)
    with Count() as more:
        upstream.generate(case, 12)
    print(f"upstream: {more.count - few.count:,} operations a window of 6 frames and 5 tokens")
    for slots in counts:
        batch = new_batch("narrow", slots)
        mine, theirs = [], []
        for _ in range(_ROUNDS):
            began = time.process_time()
            upstream.generate(case, _FRAMES)
            theirs.append(time.process_time() - began)
            mine.append(ours(batch, _FRAMES))
        one, each = min(mine), min(theirs)
        print(
            f"{slots} slots: {1000 * one / _FRAMES:.2f} ms CPU a frame of all, upstream"
            f" {1000 * each / _FRAMES:.2f} a text: {slots * each / one:.1f} x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, help="a clone of VibeVoice with the streaming class")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8])
    asked = parser.parse_args()
    batch = new_batch("narrow", 1)
    begin(batch)
    frame, window = operations(batch)
    print(f"ours: {frame:,} operations a frame, {window:,} a window of 6 frames and 5 tokens")
    sizes = sizes_of(config("0.5b"))
    held = KVCache.size(sizes.speech, 2, 4096) * 2
    text = held // 2 * sizes.text_layers // sizes.speech.layers
    print(f"a slot of 4,096 positions in bfloat16: {(held + text) / 2**20:.0f} MiB")
    if asked.code:
        compare(asked.code, asked.slots)


if __name__ == "__main__":
    main()
