"""The fast runtime: many chunks side by side in our own frame loop. See docs/frame-loop.md."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from engines.base import End, Frame, Plan
from engines.vibevoice.architecture import Architecture, architecture
from engines.vibevoice.batch import Batch, slots_for
from engines.vibevoice.bucket import CPU_SLOTS, FIXED_CONTEXT, Bucket
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.code import Upstream
from engines.vibevoice.failures import free_memory, loaded
from engines.vibevoice.frame import Tokens
from engines.vibevoice.frames import Frames
from engines.vibevoice.loader import check_room, check_tokens, dtype_for
from engines.vibevoice.loop import Loop, SpeechJob
from engines.vibevoice.memory import free_host_memory
from engines.vibevoice.packer import Shards
from engines.vibevoice.weights import load_weights
from speech.errors import Cancelled, EngineError, EngineLost

_CACHE = 1 << 30  # bytes for voices: a prefix of the 7B model takes 17 MB

log = logging.getLogger("vibevoice")


class FastRuntime:
    """A loaded model and its loop."""

    def __init__(self, batch: Batch, details: Mapping[str, str]) -> None:
        self.batch = batch
        self.details = dict(details)
        self.lost: EngineLost | None = None
        self._loop = Loop(batch, self._lose)

    def _lose(self, error: EngineLost) -> None:
        self.lost = error

    def start(self, plan: Plan) -> "FastSpeech":
        return FastSpeech(self.batch, self._loop, plan)

    def close(self) -> None:
        self._loop.close()


class FastSpeech:
    """See `engines.base.Speech`. Its chunks wait for slots from the first read on."""

    def __init__(self, batch: Batch, loop: Loop, plan: Plan) -> None:
        self._batch, self._loop, self._plan = batch, loop, plan
        self._frames = Frames()
        self._job = SpeechJob((), self._frames)

    def cancel(self) -> None:
        self._loop.cancel(self._job)

    def __iter__(self) -> Iterator[Frame | End]:
        try:
            self._submit()
            yield from self._frames
        finally:
            self.cancel()

    def _submit(self) -> None:
        if self._job.cancelled.is_set():
            raise Cancelled
        scripts = self._batch.scripts.prepare(self._plan)
        for index, script in enumerate(scripts):
            if script is None:
                self._frames.put(End(index, "empty", self._plan.chunks[index].seed))
        self._job.waiting.extend(script for script in scripts if script is not None)
        if self._job.waiting:
            self._loop.submit(self._job)
        else:
            self._frames.finish()


def load_fast(
    upstream: Upstream,
    checkpoint: Checkpoint,
    tokenizer_folder: str,
    device: torch.device,
    *,
    slots: int | None = None,
    flash: bool = False,
) -> FastRuntime:
    """Loads a checkpoint. Without `slots` there are as many as memory allows, on a CPU four.

    Raises `Unsupported` where only upstream's own classes can run the model, `EngineError` for any
    other problem.
    """
    sizes = architecture(json.loads((checkpoint.folder / "config.json").read_bytes()))
    check_room(checkpoint, device)
    tokenizer = upstream.Tokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    check_tokens(tokenizer, sizes.vocabulary)
    return loaded(lambda: _load(upstream, checkpoint, tokenizer, sizes, device, slots, flash))


def _load(
    upstream: Upstream,
    checkpoint: Checkpoint,
    tokenizer: Any,
    sizes: Architecture,
    device: torch.device,
    slots: int | None,
    flash: bool,
) -> FastRuntime:
    # cuDNN's attention, which newer torch prefers, is planned anew for every length of a prompt.
    torch.backends.cuda.enable_cudnn_sdp(False)
    began = time.monotonic()
    on_cuda = device.type == "cuda"
    choices = Tokens.of(tokenizer).choices
    source = Shards(checkpoint.folder, device)
    weights = load_weights(source, sizes, choices, device, dtype_for(device))
    if not (math.isfinite(weights.scale) and math.isfinite(weights.bias)):
        raise EngineError("MODEL_PATH: the model's scaling factors are not numbers")
    loaded = time.monotonic() - began
    free_memory()  # what the way into the packed places took counts as free
    free = torch.cuda.mem_get_info(device)[0] if on_cuda else free_host_memory() or 0
    batch = Batch(
        weights,
        tokenizer,
        upstream.AudioNormalizer(),
        checkpoint,
        slots=slots or (slots_for(weights, free) if on_cuda else CPU_SLOTS),
        cache_bytes=min(_CACHE, free // 20),
        flash=flash,
    )
    batch.warm_up()
    details = {
        "device": torch.cuda.get_device_name(device) if on_cuda else "cpu",
        "dtype": str(weights.dtype).removeprefix("torch."),
        "attention": "flash_attn_with_kvcache" if flash else "sdpa",
        "runtime": "fast",
        "bucket": str(Bucket(batch.slots, FIXED_CONTEXT, 0)),
    }
    log.info("weights in %.1f s, ready after %.1f s", loaded, time.monotonic() - began)
    return FastRuntime(batch, details)
