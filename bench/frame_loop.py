"""The fast runtime against upstream's `generate`: same weights, same frames, one process.

python -m bench.frame_loop                                        narrow, on the CPU, one thread
python -m bench.frame_loop --device cuda --size 7b --slots 1 8 32
python -m bench.frame_loop --device cuda --size 1.5b --slots 1 8 32
                           --profile                              where a frame's time goes
                           --load                                 load times, from a checkpoint

Weights are random and the models never end by themselves, so every chunk makes the same number of
frames. `narrow` has the real depth (28 layers, codecs of 3-3-3-3-3-3-8 blocks) and little width.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu_card import fill
from bench.vibevoice_reference import FRAME, SIZES, TOKEN, random_network, speaking_on, voice
from engines.base import SAMPLE_RATE, Frame, Options, Plan, PlannedChunk, Turn, Voice
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.code import find_code, import_code
from engines.vibevoice.fast.batch import Batch
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.layers.packer import Shards
from engines.vibevoice.fast.layers.weights import load_weights
from engines.vibevoice.fast.runtime import FastRuntime
from engines.vibevoice.fast.step import Tokens
from engines.vibevoice.model import Model

from bench.prose import prose  # isort: skip
from tests.narrow_model import narrow_network, sizes_of, weights_of  # isort: skip
from tests.tiny_checkpoint import write_tokenizer  # isort: skip

_NARROW = "narrow"
_VOCABULARY = 448
_SMALL: dict[str, dict[str, Any]] = {  # those that upstream's classes build themselves
    _NARROW: {},
    "tiny": {"layers": 2, "filters": 2, "depths": "1-1-1-1-1-1-1", "head_layers": 1},
}


class Subject:
    """One set of weights behind both runtimes."""

    def __init__(self, size: str, device: str, code: Path | None, frames: int, steps: int) -> None:
        self.device, self.frames, self.steps = torch.device(device), frames, steps
        self.upstream = import_code(find_code(code, None))
        narrow = size in _SMALL
        self.network = (
            narrow_network(vocabulary=_VOCABULARY, code=code, **_SMALL[size]).to(device)
            if narrow
            else random_network(self.upstream, size, device)
        )
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder))
            self.tokenizer = self.upstream.Tokenizer.from_pretrained(folder)
        parameters = sum(each.numel() for each in self.network.parameters())
        self.checkpoint = Checkpoint(Path(), parameters, False, 4096, FRAME, True, "")
        # Behind 30 s of a voice and 300 tokens of text, as real chunks are.
        self.seconds, self.characters = (5, 200) if narrow else (30, 300 * TOKEN)
        print(f"{size}: {parameters / 1e6:,.0f} M parameters, {self.network.dtype}, {steps} steps")

    def chunks(self, count: int) -> tuple[PlannedChunk, ...]:
        text = prose(self.characters)
        return tuple(PlannedChunk((Turn(0, text),), seed=1) for _ in range(count))

    def options(self, frames: int) -> Options:
        return Options(steps=self.steps, frames_per_token=0, min_frames=frames, repeatable=False)

    def plan(self, count: int, frames: int, name: str = "a") -> Plan:
        voices = (Voice(name, voice(self.seconds), name),)
        return Plan(self.chunks(count), voices, self.options(frames))

    def fast(self, slots: int) -> FastRuntime:
        """Our runtime on the same weights, with a model that says one frame after the other."""
        tokens = Tokens.of(self.tokenizer)
        batch = Batch(
            weights_of(self.network, tokens),
            self.tokenizer,
            self.upstream.AudioNormalizer(),
            self.checkpoint,
            slots=slots,
            cache_bytes=1 << 30,
        )
        with torch.inference_mode():
            batch.state.preference[:, tokens.choices.index(tokens.diffusion)] = 1e6
        batch.warm_up()
        return FastRuntime(batch, {})


class Upstream:
    """Upstream's `generate` on one chunk."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = Model(
            subject.network,
            subject.tokenizer,
            subject.checkpoint,
            subject.upstream.AudioNormalizer(),
        )
        self.recordings = self.model.record([voice(subject.seconds)])

    def speak(self, frames: int) -> tuple[float, float]:
        """Seconds to the first frame, and seconds for each frame after it."""
        marks = [time.perf_counter()]
        with speaking_on(self.subject.tokenizer.speech_diffusion_id):
            self.model.speak(
                self.subject.chunks(1)[0],
                self.recordings,
                self.subject.options(frames),
                lambda _: marks.append(time.perf_counter()),
                lambda: False,
            )
        return marks[1] - marks[0], (marks[-1] - marks[1]) / (frames - 1)


def speak(runtime: FastRuntime, plan: Plan) -> tuple[float, float]:
    """Seconds to the first frame, and to the last."""
    start = time.perf_counter()
    marks = [time.perf_counter() for event in runtime.start(plan) if isinstance(event, Frame)]
    return marks[0] - start, marks[-1] - start


def compare(subject: Subject, counts: list[int], rounds: int) -> None:
    """Both in turns, so that both meet the same machine; the best of each counts."""
    upstream = Upstream(subject)
    upstream.speak(3)
    real, frames = FRAME / SAMPLE_RATE, subject.frames
    for slots in counts:
        if subject.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        runtime = subject.fast(slots)
        speak(runtime, subject.plan(slots, 2 + frames))  # warms the shapes up
        cold, _ = speak(runtime, subject.plan(1, 2, name="new"))
        theirs, ours, known, whole = [], [], [], []
        for _ in range(rounds):
            theirs.append(upstream.speak(frames))
            # What differs between a short and a long run is frames alone.
            first, short = speak(runtime, subject.plan(slots, 2))
            long = speak(runtime, subject.plan(slots, 2 + frames))[1]
            known.append(first)
            ours.append((long - short) / frames)
            whole.append(speak(runtime, subject.plan(slots, frames))[1])
        runtime.close()
        del runtime
        first, each = (min(times) for times in zip(*theirs, strict=True))
        text = slots * (first + each * (frames - 1))
        print(
            f"{slots} slots: {1000 * min(ours):.2f} ms a frame, real-time factor"
            f" {min(ours) / real:.4f}, {slots * real / min(ours):.1f} s of audio a second;"
            f" upstream {1000 * each:.2f} ms, {each / real:.4f}: {slots * each / min(ours):.1f} x\n"
            f"  {slots} chunks of {frames} frames, prompts and all: {min(whole):.2f} s, upstream"
            f" one by one {text:.2f} s: {text / min(whole):.1f} x\n"
            f"  first frame after {1000 * cold:.0f} ms with a new voice, {1000 * min(known):.0f}"
            f" ms with a known one, upstream {1000 * first:.0f} ms{_memory(subject)}",
            flush=True,
        )


def _memory(subject: Subject) -> str:
    if subject.device.type != "cuda":
        return ""
    theirs = sum(each.nbytes for each in subject.network.parameters())
    peak = torch.cuda.max_memory_allocated() - theirs
    return f"; peak {peak / 2**30:.1f} GiB without upstream's copy"


class _Count(TorchDispatchMode):
    """Counts the operations that are not mere views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@contextmanager
def _frames_of(subject: Subject, slots: int) -> Iterator[Callable[[], None]]:
    """A frame of full slots as the device makes it, without a loop around it."""
    runtime = subject.fast(slots)
    fill(runtime.batch, steps=subject.steps)
    with torch.inference_mode():
        shape = GraphShape(slots, 512, subject.steps)
        frame, state = runtime.batch.step, runtime.batch.state
        frame(state, shape)
        yield lambda: frame(state, shape)
    runtime.close()


def upstream_operations(subject: Subject) -> int:
    upstream = Upstream(subject)
    counts: list[int] = []
    for frames in (3, 4):
        with _Count() as counted:
            upstream.speak(frames)
        counts.append(counted.count)
    return counts[1] - counts[0]


def operations(subject: Subject, slots: int) -> None:
    with _frames_of(subject, slots) as frame, _Count() as counted:
        frame()
    print(f"  {slots} slots: {counted.count:,}")


def profile(subject: Subject, slots: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    on_cuda = subject.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with _frames_of(subject, slots) as frame:
        with record(activities=activities) as recorded:
            for _ in range(3):
                frame()
        key = "self_cuda_time_total" if on_cuda else "self_cpu_time_total"
        print(recorded.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))


def load(subject: Subject) -> None:
    """From a checkpoint on disk, cached by the system, to weights on the device, by both."""
    network, device, dtype = subject.network, subject.device, subject.network.dtype
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder, max_shard_size="5GB")
        sizes, choices = sizes_of(network), Tokens.of(subject.tokenizer).choices
        start = time.perf_counter()
        load_weights(Shards(Path(folder), device), sizes, choices, device, dtype)
        if device.type == "cuda":
            torch.cuda.synchronize()
        ours = time.perf_counter() - start
        start = time.perf_counter()
        subject.upstream.Model.from_pretrained(
            folder, torch_dtype=dtype, device_map=str(device), local_files_only=True
        )
        theirs = time.perf_counter() - start
    print(f"load: {ours:.2f} s, upstream {theirs:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=[*_SMALL, *SIZES], default=_NARROW)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--code", type=Path, help="a clone of VibeVoice; else the package")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--load", action="store_true")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if asked.device == "cpu":
        torch.set_num_threads(1)
    subject = Subject(asked.size, asked.device, asked.code, asked.frames, asked.steps)
    if asked.profile:
        for slots in asked.slots:
            profile(subject, slots)
        return
    if asked.load:
        load(subject)
        return
    compare(subject, asked.slots, asked.rounds)
    print(f"operations a frame: upstream {upstream_operations(subject):,}")
    for slots in asked.slots:
        operations(subject, slots)


if __name__ == "__main__":
    main()
