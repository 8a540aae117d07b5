"""The fast runtime of a Realtime model: many texts side by side, each from its first words on."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from engines import base
from engines.base import End, Frame, Plan
from engines.realtime.batch import Batch
from engines.realtime.checkpoint import load_sizes
from engines.realtime.presets import Presets
from engines.realtime.sequence import Text, Turn
from engines.realtime.text import TokenFeed, merged
from engines.realtime.weights import load_weights
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.code import Upstream
from engines.vibevoice.failures import free_memory, loaded
from engines.vibevoice.fast.capacity import slots_for
from engines.vibevoice.fast.graph_shape import CPU_SLOTS, GraphShape
from engines.vibevoice.fast.layers.kernels import FLASH, SDPA, choose_attention, choose_convolutions
from engines.vibevoice.fast.layers.norm import WAY as NORM
from engines.vibevoice.fast.layers.packer import Shards
from engines.vibevoice.fast.loop import Loop
from engines.vibevoice.fast.runtime import Choices
from engines.vibevoice.fast.sequence import SequenceGroup
from engines.vibevoice.frames import Frames
from engines.vibevoice.loader import check_room, dtype_for
from engines.vibevoice.prompt import Prompt, encode
from request.errors import Cancelled, EngineError, EngineLost

CAPACITY = 4096
"""Positions of a slot. A text takes a position for each token and for each frame, and its voice
some 300: that leaves room for 1,200 tokens of English, about 5,000 characters."""

_NO_PROMPT = Prompt((), (), 0, 0)

log = logging.getLogger("vibevoice")


class Runtime:
    """A loaded model and its loop."""

    def __init__(self, batch: Batch, tokenizer: Any, details: Mapping[str, str]) -> None:
        self.batch = batch
        self._details = dict(details)
        self.lost: EngineLost | None = None
        self._loop = Loop(batch, self._lose)
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()  # the tokenizer has state and is not thread-safe
        if batch.graphs.pending:
            self._loop.start()

    @property
    def details(self) -> dict[str, str]:
        return {**self._details, "graphs": str(self.batch.graphs)}

    @property
    def figures(self) -> dict[str, float]:
        graphs = self.batch.graphs
        return {
            "frames_replayed": graphs.replayed,
            "frames_eager": graphs.eager,
            "frame_seconds": round(self._loop.meter.frame_seconds, 6),
            "ends_put_off": self.batch.ends_put_off,
        }

    def _lose(self, error: EngineLost) -> None:
        self.lost = error

    def encode(self, text: str) -> list[int]:
        with self._tokenizing:
            return encode(self._tokenizer, text)

    def start(self, plan: Plan) -> "RealtimeSpeech":
        return RealtimeSpeech(self._loop, self.encode, plan, self.batch.state.capacity)

    def close(self) -> None:
        self._loop.close()


class RealtimeSpeech:
    """See `engines.base.GrowingSpeech`. It is submitted once it is read and has something to say.

    The voices of `plan` exist. `capacity` is a slot's, in positions.
    """

    def __init__(
        self, loop: Loop, encode: Callable[[str], list[int]], plan: Plan, capacity: int
    ) -> None:
        self._loop, self._plan = loop, plan
        self._encode, self._capacity = encode, capacity
        self._frames = Frames()
        self._group = SequenceGroup(self._frames)
        self._submitting = threading.Lock()
        self._is_read = self._is_submitted = False
        self._growing = self._turn(plan.chunks[0].turns[0]) if plan.grows else None

    def _turn(self, turn: base.Turn) -> Turn:
        feed = TokenFeed(self._encode, turn.text, grows=self._plan.grows)
        voice = self._plan.voices[turn.speaker].name
        return Turn(_NO_PROMPT, 0, voice, feed, self._capacity)

    def cancel(self) -> None:
        self._loop.cancel(self._group)

    def feed(self, text: str) -> None:
        if self._growing is not None:
            self._growing.feed.feed(text)
            self._go_on()

    def finish(self) -> None:
        if self._growing is not None:
            self._growing.feed.finish()
            self._go_on()

    def _go_on(self) -> None:
        if self._is_read:
            self._submit()
            self._loop.wake()

    def __iter__(self) -> Iterator[Frame | End]:
        try:
            if self._group.cancelled.is_set():
                raise Cancelled
            self._is_read = True
            self._submit()
            yield from self._frames
        finally:
            self.cancel()

    def _submit(self) -> None:
        """Submits the texts once. One that grows needs words before, or its end."""
        growing = self._growing.feed if self._growing else None
        with self._submitting:
            waits = growing is not None and not (growing.has_words or growing.finished)
            if self._is_submitted or waits:
                return
            self._is_submitted = True
        texts = self._texts()
        if not texts:
            self._frames.finish()
            return
        self._group.add(texts)
        try:
            self._loop.submit(self._group)
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            self._frames.finish(error)

    def _texts(self) -> list[Text]:
        """A text for each chunk that has words; the others end at once."""
        texts = []
        for index, chunk in enumerate(self._plan.chunks):
            if self._growing is not None:
                turns = [self._growing]
            else:
                turns = [self._turn(turn) for turn in merged(chunk.turns)]
            turns = [turn for turn in turns if turn.feed.has_words]
            if turns:
                texts.append(Text(index, chunk, self._plan.options, turns))
            else:
                self._frames.put(End(index, "empty", chunk.seed))
        return texts


def load_fast(
    upstream: Upstream,
    checkpoint: Checkpoint,
    tokenizer_folder: str,
    device: torch.device,
    choices: Choices,
    presets: Path,
    put_offs: int = 1,
) -> Runtime:
    """Loads a checkpoint and, on a GPU, generates a few frames as a trial.

    Raises `Unsupported` where only upstream's own classes can run the model, `EngineError` for any
    other problem.
    """
    check_room(checkpoint, device)
    tokenizer = upstream.Tokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a new plan for every length

    def load() -> Runtime:
        began = time.monotonic()
        batch, details = _batch(checkpoint, device, choices, presets, put_offs)
        if len(tokenizer) > batch.step.weights.architecture.vocabulary:
            raise EngineError("REALTIME_MODEL_PATH: the tokenizer is not the model's")
        log.info("ready after %.1f s", time.monotonic() - began)
        return Runtime(batch, tokenizer, details)

    return loaded(load)


def _batch(
    checkpoint: Checkpoint, device: torch.device, choices: Choices, presets: Path, put_offs: int
) -> tuple[Batch, dict[str, str]]:
    sizes, dtype = load_sizes(checkpoint.folder), dtype_for(device)
    weights = load_weights(Shards(checkpoint.folder, device), sizes, device, dtype)
    free_memory()
    on_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_cuda else 0
    slots = choices.slots or (slots_for(weights, free) if on_cuda else CPU_SLOTS)
    attention = {"sdpa": SDPA, "flash": FLASH, None: SDPA}[choices.attention]
    if on_cuda and choices.attention is None:
        attention = choose_attention(weights, slots)
    capacity = min(CAPACITY, sizes.speech.context)
    batch = Batch(
        weights,
        sizes,
        Presets(presets, sizes, device, dtype),
        slots=slots,
        capacity=capacity,
        put_offs=put_offs,
        flash=attention == FLASH,
        graphs_off=None if choices.graphs else "VIBEVOICE_GRAPHS=off",
    )
    details = {
        "device": torch.cuda.get_device_name(device) if on_cuda else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "attention": attention,
        "runtime": "fast",
        "graph_shape": str(GraphShape(slots, capacity, 0)),
    }
    if on_cuda:
        details["norm"] = NORM
        codecs = {"decoder": batch.step.decoder}
        details["convolutions"] = choose_convolutions(codecs, weights, slots)
        free_memory()
    batch.warm_up()
    return batch, details
