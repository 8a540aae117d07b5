"""Steps as CUDA graphs, one for each shape.

A step is some thousand small kernels; replayed as one graph they cost the host a single launch. A
capture stops all slots for some 0.2 s. So a shape without a graph is replayed in a larger one's,
unless a seed needs its own shape, and is captured once nobody waits. What cannot be captured runs
eagerly, with the reason in the log. So does every shape off CUDA.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from engines.vibevoice.failures import first_line, free_device_memory, meaning
from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT, GraphShape
from engines.vibevoice.fast.slots import Slots
from engines.vibevoice.fast.step import Step
from request.errors import EngineLost

_MOST_FAILURES = 2  # in a row; each costs all speakers some 0.2 s
_MIB = 1 << 20

log = logging.getLogger("vibevoice")


class Graphs:
    """Runs steps of one set of slots. `reserve` is the memory, in bytes, that has to be free on
    the device for another capture; `used` is what the graphs hold. `replayed` and `eager` count
    frames. `off` is why nothing is captured, if so."""

    def __init__(self, step: Step, slots: Slots, reserve: int, off: str | None = None) -> None:
        self._step, self._slots = step, slots
        self._reserve = reserve
        self._graphs: dict[GraphShape, torch.cuda.CUDAGraph] = {}
        self._eager: set[GraphShape] = set()
        self._wanted: dict[GraphShape, None] = {}
        self._device = step.weights.device
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

    def run(self, shape: GraphShape, *, exact: bool = True) -> None:
        """A step, on the current stream. Where it need not be `exact`, a larger shape will do."""
        graph = self._graph(shape, exact) if self._on_cuda else None
        if graph is None:
            self.eager += 1
            self._step(self._slots, shape)
        else:
            self.replayed += 1
            graph.replay()

    def _graph(self, shape: GraphShape, exact: bool) -> torch.cuda.CUDAGraph | None:
        """The graph that serves a shape. Captured here only where no other would do, and then the
        one that serves all slots."""
        if shape in self._graphs:
            return self._graphs[shape]
        if exact:
            return self._made(shape)
        self.want(shape)
        larger = [each for each in self._graphs if each.serves(shape)]
        if larger:
            return self._graphs[min(larger, key=lambda each: (each.slots, each.context))]
        context = max(shape.context, FIXED_CONTEXT)
        return self._made(GraphShape(self._slots.count, context, shape.steps))

    def _made(self, shape: GraphShape) -> torch.cuda.CUDAGraph | None:
        if shape not in self._eager:
            self.capture(shape)
        return self._graphs.get(shape)

    def want(self, *shapes: GraphShape) -> None:
        """To be captured when nobody waits, in this order."""
        self._wanted |= dict.fromkeys(
            each for each in shapes if each not in self._graphs and each not in self._eager
        )

    @property
    def pending(self) -> bool:
        """Whether there is something to `prepare`."""
        return self._on_cuda and self._off is None and bool(self._wanted)

    def prepare(self) -> bool:
        """Captures the next shape that is wanted. False where there is none. Raises `EngineLost`
        where that has broken the device."""
        if not self.pending:
            return False
        shape = next(iter(self._wanted))
        try:
            self.capture(shape)
        except RuntimeError as error:
            failure, reason = meaning(error), first_line(error)
        else:
            return True
        if isinstance(failure, EngineLost):
            raise failure
        self._run_eagerly(shape, reason)
        return True

    def clear(self) -> None:
        """Forgets all graphs: their tensors are about to move. Waits for the step under way. They
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
    def capture(self, shape: GraphShape) -> None:
        """Captures a shape, or notes why that cannot be. Raises what an eager step raises, and
        `EngineLost` where the attempt has broken the device."""
        self._wanted.pop(shape, None)
        if self._off is not None:
            return
        free = free_device_memory(self._device)
        if free < self._reserve:
            self._run_eagerly(shape, f"{free // _MIB} MiB are free")
            return
        with self._nobody_active():
            self._make_once(shape)
            graph = self._captured(shape)
        if graph is None:
            return
        self._graphs[shape] = graph
        self._failures = 0
        held = max(0, free - free_device_memory(self._device))
        self.used += held
        log.info("graph %s captured: %d MiB", shape, held // _MIB)

    def _make_once(self, shape: GraphShape) -> None:
        """An eager step, which loads kernels and gives the libraries their working memory: on the
        stream of the capture, where that could not be had."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._step(self._slots, shape)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _captured(self, shape: GraphShape) -> torch.cuda.CUDAGraph | None:
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
                self._step(self._slots, shape)
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
        self._run_eagerly(shape, reason)
        return None

    def _run_eagerly(self, shape: GraphShape, reason: str) -> None:
        log.warning("shape %s runs eagerly: %s", shape, reason)
        self._eager.add(shape)
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
        """A step in which no slot is active leaves every slot as it was: what it writes to the
        cache lies where the next one will write."""
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
