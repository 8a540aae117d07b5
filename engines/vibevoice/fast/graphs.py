"""Steps as CUDA graphs, one for each shape.

A step launches about a thousand small kernels; a graph's replay is a single launch. A capture stops
all slots for about 0.2 s. So a shape without a graph is replayed by a larger shape's graph, and is
captured once the loop is idle. A repeatable sequence needs its own shape. A shape that cannot be
captured runs eagerly, with the reason in the log. Without CUDA every shape runs eagerly.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from engines.vibevoice.failures import first_line, free_device_memory, meaning
from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT, GraphShape
from engines.vibevoice.fast.layers.weights import SpeechWeights
from request.errors import EngineLost

_MOST_FAILURES = 2  # in a row; each stops all slots for about 0.2 s
_MIB = 1 << 20

log = logging.getLogger("vibevoice")


class Switches(Protocol):
    """Slots in static tensors. Those that are not `active` (slots,) keep their state."""

    count: int
    active: Tensor


S = TypeVar("S", bound=Switches)
S_contra = TypeVar("S_contra", bound=Switches, contravariant=True)


class Steps(Protocol[S_contra]):
    """The networks of a model, called as one step."""

    @property
    def weights(self) -> SpeechWeights: ...

    def __call__(self, slots: S_contra, shape: GraphShape) -> None: ...


class Graphs(Generic[S]):
    """Runs the steps of one set of slots, by replay or eagerly.

    A capture needs `reserve` bytes of free device memory. `used` is the memory of the graphs in
    bytes. `replayed` and `eager` count steps. `off` is the reason why nothing is captured, or None.
    """

    def __init__(
        self,
        step: Steps[S],
        slots: S,
        reserve: int,
        off: str | None = None,
    ) -> None:
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
        """The captured shapes, or why there are none, for the log."""
        if not self._on_cuda:
            return "none: there is no CUDA device"
        held = f"{len(self)} captured, {self.used // _MIB} MiB"
        if self._problem is None:
            return held
        return f"{held}; not all: {self._problem}" if self._graphs else f"none: {self._problem}"

    def run(self, shape: GraphShape, *, exact: bool = True) -> None:
        """Runs a step on the current stream. Unless `exact`, a larger shape's graph may run it."""
        graph = self._graph(shape, exact) if self._on_cuda else None
        if graph is None:
            self.eager += 1
            self._step(self._slots, shape)
        else:
            self.replayed += 1
            graph.replay()

    def _graph(self, shape: GraphShape, exact: bool) -> torch.cuda.CUDAGraph | None:
        """The graph for a shape, or None.

        A graph is captured here only if no existing one serves. Unless `exact`, that is the shape
        of all slots.
        """
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
        """Queues shapes, which `prepare` captures in this order while the loop is idle."""
        self._wanted |= dict.fromkeys(
            each for each in shapes if each not in self._graphs and each not in self._eager
        )

    @property
    def pending(self) -> bool:
        """Whether a queued shape is left for `prepare`."""
        return self._on_cuda and self._off is None and bool(self._wanted)

    def prepare(self) -> bool:
        """Captures the next queued shape. False where there is none.

        Raises `EngineLost` where the capture has broken the device.
        """
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
        """Drops all graphs, because their tensors are about to move, and queues their shapes.

        Waits for the step in flight.
        """
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
            self._pool = torch.cuda.graph_pool_handle()  # a memory pool dies with its last graph
        self._wanted = dict.fromkeys([*self._graphs, *self._eager, *self._wanted])
        self._graphs.clear()
        self._eager.clear()
        self._problem = self._off
        self.used = 0

    @torch.inference_mode()
    def capture(self, shape: GraphShape) -> None:
        """Captures a shape, or records why it cannot be captured.

        Raises what an eager step raises, and `EngineLost` where the capture has broken the device.
        """
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
        """Runs an eager step on the capture's stream.

        It loads kernels and allocates the libraries' workspaces, which a capture does not allow.
        """
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
                # Restores the current stream, which a failed capture does not.
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                # Thread-local, because other threads may use CUDA meanwhile, e.g. to pin memory.
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
        """Ends the recording of a failed capture's memory pool.

        Before torch 2.12 it stays recording, and every later `empty_cache` fails (pytorch#180395).
        Newer versions have ended it already and raise here.
        """
        device = self._device.index or 0
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def _nobody_active(self) -> Iterator[None]:
        """Deactivates all slots for the block, so that a step changes no slot's state.

        It still writes to the KV cache, but only where the next step will write again.
        """
        active = self._slots.active.clone()
        self._slots.active.zero_()
        try:
            yield
        finally:
            self._slots.active.copy_(active)

    def _works(self) -> bool:
        """Whether the device still works after a failed capture."""
        try:
            torch.zeros(1, device=self._device).item()
        except RuntimeError:
            return False
        return True
