"""The reference path, upstream's own `generate`: frames per second, load time, peak memory.

python -m bench.vibevoice_reference                             the tiny test model, on the CPU
python -m bench.vibevoice_reference --size 1.5b --device cuda   full size, random weights
python -m bench.vibevoice_reference --size 7b --device cuda

Random weights never decide to end, so a full-size run makes a fixed number of frames at batch 1
behind a prompt like a real one: 30 s of a voice, and some 300 tokens of text.
"""

import argparse
import importlib
import logging
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from bench.prose import prose
from engines.base import SAMPLE_RATE, Options, Plan, PlannedChunk, Samples, Turn, Voice

SIZES = {  # hidden, feed-forward, heads, key-value heads, vocabulary, tied
    "1.5b": (1536, 8960, 12, 2, 151_936, True),
    "7b": (3584, 18_944, 28, 4, 152_064, False),
}
FRAME = 3200
TOKEN = 4  # characters of prose, about


def voice(seconds: float) -> Samples:
    noise = np.random.default_rng(1).standard_normal(int(seconds * SAMPLE_RATE))
    return (0.05 * noise).astype(np.float32)


def chunk(characters: int) -> PlannedChunk:
    return PlannedChunk((Turn(0, prose(characters)),), seed=1)


def tiny(code: Path | None) -> None:
    from engines.vibevoice.engine import VibeVoiceEngine
    from tests.tiny_checkpoint import tiny_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder, "tiny"), code)
        engine = VibeVoiceEngine(str(checkpoint), code=code, device="cpu", runtime="reference")
        start = time.perf_counter()
        engine.load()
        print(f"load {time.perf_counter() - start:.2f} s: {dict(engine.capabilities.details)}")
        plan = Plan((chunk(1000),), (Voice("noise", voice(5)),))
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            frames = sum(1 for _ in engine.start(plan)) - 1
            rates.append(frames / (time.perf_counter() - start))
        engine.close()
    speed = statistics.median(rates)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{frames} frames at batch 1: {speed:.1f} frames/s, {speed * FRAME / SAMPLE_RATE:.1f} x"
        f" real time (all: {', '.join(f'{rate:.1f}' for rate in rates)}); peak {peak:.0f} MB"
    )


def random_network(upstream: Any, size: str, device: str) -> Any:
    """A model of full size with random weights, made where it runs."""
    import torch
    from accelerate import init_empty_weights

    hidden, feed_forward, heads, kv_heads, vocabulary, tied = SIZES[size]
    config = upstream.Config(
        semantic_tokenizer_config={"vae_dim": 128},
        decoder_config={
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": feed_forward,
            "num_hidden_layers": 28,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32_768,
            "rope_theta": 1e6,
            "tie_word_embeddings": tied,
        },
        diffusion_head_config={"hidden_size": hidden, "head_layers": 4, "head_ffn_ratio": 3.0},
        tie_word_embeddings=tied,
    )
    config.torch_dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32

    def make(attention: str) -> Any:
        # Not under `torch.device`: it would put the scheduler's tables on the GPU too.
        with init_empty_weights():
            return upstream.Model._from_config(
                config, torch_dtype=config.torch_dtype, attn_implementation=attention
            )

    try:
        network = make("flash_attention_2" if device.startswith("cuda") else "sdpa")
    except (ImportError, ValueError) as problem:
        print(f"sdpa: {problem}")
        network = make("sdpa")
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            weight = torch.empty(parameter.shape, dtype=config.torch_dtype, device=device)
            if weight.dim() > 1:
                weight.normal_(std=0.02)
            else:
                weight.fill_({"bias": 0.0, "gamma": 1e-6, "ffn_gamma": 1e-6}.get(name, 1.0))
            setattr(module, name, torch.nn.Parameter(weight, requires_grad=False))
    network.tie_weights()
    network.model.speech_scaling_factor.fill_(0.2)
    network.model.speech_bias_factor.fill_(-0.05)
    return network.to(device).eval()


def full(size: str, device: str, frames: int, steps: int, code: Path | None) -> None:
    import torch

    from engines.vibevoice.checkpoint import Checkpoint
    from engines.vibevoice.code import find_code, import_code
    from engines.vibevoice.model import Model
    from tests.tiny_checkpoint import write_tokenizer

    upstream = import_code(find_code(code, None))
    start = time.perf_counter()
    network = random_network(upstream, size, device)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{parameters / 1e9:.3f} B parameters made in {time.perf_counter() - start:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        tokenizer = upstream.Tokenizer.from_pretrained(folder)
    checkpoint = Checkpoint(Path(), parameters, False, 32_768, FRAME, True, "")
    model = Model(network, tokenizer, checkpoint, upstream.AudioNormalizer())
    print(model.details, f"torch {torch.__version__}, {steps} steps")

    marks: list[float] = []
    recordings = model.record([voice(30)])

    def run(count: int) -> None:
        marks[:] = [time.perf_counter()]
        options = Options(steps=steps, frames_per_token=0, min_frames=count)
        reason = model.speak(
            chunk(300 * TOKEN),
            recordings,
            options,
            lambda _: marks.append(time.perf_counter()),
            lambda: False,
        )
        assert (reason, len(marks)) == ("cap", count + 1)  # noqa: S101

    with speaking_on(tokenizer.speech_diffusion_id):
        run(max(2, frames // 10))
        run(frames)
    times = np.diff(marks[1:]) * 1000
    mean = float(times.mean())
    print(f"first frame after {1000 * (marks[1] - marks[0]):.0f} ms (prompt and voice in it)")
    print(f"{frames} frames: mean {mean:.2f} ms, median {np.median(times):.2f}, p99 ", end="")
    print(
        f"{np.percentile(times, 99):.2f}; real-time factor {mean * SAMPLE_RATE / FRAME / 1e3:.4f}"
    )
    if device.startswith("cuda"):
        print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


@contextmanager
def speaking_on(frame_token: int) -> Iterator[None]:
    """Leaves upstream's models no token but a frame's meanwhile."""
    module: Any = importlib.import_module("vibevoice.modular.modeling_vibevoice_inference")
    original = module.VibeVoiceTokenConstraintProcessor
    module.VibeVoiceTokenConstraintProcessor = lambda _, device=None: original(
        [frame_token], device=device
    )
    try:
        yield
    finally:
        module.VibeVoiceTokenConstraintProcessor = original


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["tiny", *SIZES], default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--code", type=Path, help="a clone of VibeVoice; else the package")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if arguments.size == "tiny":
        tiny(arguments.code)
    else:
        full(arguments.size, arguments.device, arguments.frames, arguments.steps, arguments.code)


if __name__ == "__main__":
    main()
