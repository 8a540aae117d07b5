"""Frames as CUDA graphs, one for each bucket.

A frame is some thousand small kernels; replayed as one graph they cost the host a single launch. A
capture stops all slots for some 0.2 s. So a bucket without a graph is replayed in a larger one's,
unless a seed needs its own shape, and is captured once nobody waits. What cannot be captured runs
eagerly, with the reason in the log. So does every bucket off CUDA.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from engines.vibevoice.bucket import FIXED_CONTEXT, Bucket
from engines.vibevoice.failures import first_line, free_device_memory, meaning
from engines.vibevoice.frame import Frame
from engines.vibevoice.slots import Slots
from speech.errors import EngineLost

_MOST_FAILURES = 2  # in a row; each costs all speakers some 0.2 s
_MIB = 1 << 20

log = logging.getLogger("vibevoice")


class Graphs:
    """Runs frames of one set of slots. `reserve` is the memory, in bytes, that has to be free on
    the device for another capture; `used` is what the graphs hold. `replayed` and `eager` count
    frames. `off` is why nothing is captured, if so."""

    def __init__(self, frame: Frame, slots: Slots, reserve: int, off: str | None = None) -> None:
        self._frame, self._slots = frame, slots
        self._reserve = reserve
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}
        self._eager: set[Bucket] = set()
        self._wanted: dict[Bucket, None] = {}
        self._device = frame.weights.device
        self._on_cuda = self._device.type == "cuda"
        self._pool: Any = torch.cuda.graph_pool_handle() if self._on_cuda else None
        self._stream: torch.cuda.Stream | None = None
        self._off, self._problem = off, off
        self._failures = 0
        self.used = self.replayed = self.eager = 0

    def __len__(self) -> int:
        return len(self._graphs)

    def __str__(self) -> str:
        """What is captured, or why nothing is."""
        if not self._on_cuda:
            return "none: there is no CUDA device"
        held = f"{len(self)} captured, {self.used // _MIB} MiB"
        if self._problem is None:
            return held
        return f"{held}; not all: {self._problem}" if self._graphs else f"none: {self._problem}"

    def run(self, bucket: Bucket, *, exact: bool = True) -> None:
        """A frame, on the current stream. Where it need not be `exact`, a larger bucket will do."""
        graph = self._graph(bucket, exact) if self._on_cuda else None
        if graph is None:
            self.eager += 1
            self._frame(self._slots, bucket)
        else:
            self.replayed += 1
            graph.replay()

    def _graph(self, bucket: Bucket, exact: bool) -> torch.cuda.CUDAGraph | None:
        """The graph that serves a bucket. Captured here only where no other would do, and then the
        one that serves all slots."""
        if bucket in self._graphs:
            return self._graphs[bucket]
        if exact:
            return self._made(bucket)
        self.want(bucket)
        larger = [each for each in self._graphs if each.serves(bucket)]
        if larger:
            return self._graphs[min(larger, key=lambda each: (each.slots, each.context))]
        context = max(bucket.context, FIXED_CONTEXT)
        return self._made(Bucket(self._slots.count, context, bucket.steps))

    def _made(self, bucket: Bucket) -> torch.cuda.CUDAGraph | None:
        if bucket not in self._eager:
            self.capture(bucket)
        return self._graphs.get(bucket)

    def want(self, *buckets: Bucket) -> None:
        """To be captured when nobody waits, in this order."""
        self._wanted |= dict.fromkeys(
            each for each in buckets if each not in self._graphs and each not in self._eager
        )

    @property
    def pending(self) -> bool:
        """Whether there is something to `prepare`."""
        return self._on_cuda and self._off is None and bool(self._wanted)

    def prepare(self) -> bool:
        """Captures the next bucket that is wanted. False where there is none. Raises `EngineLost`
        where that has broken the device."""
        if not self.pending:
            return False
        bucket = next(iter(self._wanted))
        try:
            self.capture(bucket)
        except RuntimeError as error:
            failure, reason = meaning(error), first_line(error)
        else:
            return True
        if isinstance(failure, EngineLost):
            raise failure
        self._run_eagerly(bucket, reason)
        return True

    def clear(self) -> None:
        """Forgets all graphs: their tensors are about to move. Waits for the frame under way. They
        are wanted again."""
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
            self._pool = torch.cuda.graph_pool_handle()  # a pool ends with its last graph
        self._wanted = dict.fromkeys([*self._graphs, *self._eager, *self._wanted])
        self._graphs.clear()
        self._eager.clear()
        self._problem = self._off
        self.used = 0

    @torch.inference_mode()
    def capture(self, bucket: Bucket) -> None:
        """Captures a bucket, or notes why that cannot be. Raises what an eager frame raises, and
        `EngineLost` where the attempt has broken the device."""
        self._wanted.pop(bucket, None)
        if self._off is not None:
            return
        free = free_device_memory(self._device)
        if free < self._reserve:
            self._run_eagerly(bucket, f"{free // _MIB} MiB are free")
            return
        with self._nobody_active():
            self._make_once(bucket)
            graph = self._captured(bucket)
        if graph is None:
            return
        self._graphs[bucket] = graph
        self._failures = 0
        held = max(0, free - free_device_memory(self._device))
        self.used += held
        log.info("frame %s captured: %d MiB", bucket, held // _MIB)

    def _make_once(self, bucket: Bucket) -> None:
        """An eager frame, which loads kernels and gives the libraries their working memory: on the
        stream of the capture, where that could not be had."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._frame(self._slots, bucket)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _captured(self, bucket: Bucket) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                # Puts the stream back, which a capture that fails does not.
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                # Other threads may use CUDA meanwhile, if only to pin memory.
                torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ),
            ):
                self._frame(self._slots, bucket)
        except RuntimeError as error:
            failure, reason = meaning(error), first_line(error)
        else:
            return graph
        self._abandon_pool()
        if isinstance(failure, EngineLost) and not self._works():
            raise failure
        self._failures += 1
        if self._failures == _MOST_FAILURES:
            self._off = reason
        self._run_eagerly(bucket, reason)
        return None

    def _run_eagerly(self, bucket: Bucket, reason: str) -> None:
        log.warning("frame %s runs eagerly: %s", bucket, reason)
        self._eager.add(bucket)
        self._problem = reason

    def _abandon_pool(self) -> None:
        """Before torch 2.12 a failed capture leaves its pool recording, and every later call of
        `empty_cache` would fail (pytorch#180395). Newer ones have ended it and say so here."""
        device = self._device.index or 0
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def _nobody_active(self) -> Iterator[None]:
        """A frame in which no slot is active leaves every slot as it was: what it writes to the
        cache lies where the next frame will write."""
        active = self._slots.active.clone()
        self._slots.active.zero_()
        try:
            yield
        finally:
            self._slots.active.copy_(active)

    def _works(self) -> bool:
        """Whether the device still answers: a capture may fail without breaking it."""
        try:
            torch.zeros(1, device=self._device).item()
        except RuntimeError:
            return False
        return True
