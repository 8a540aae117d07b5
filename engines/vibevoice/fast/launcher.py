"""Launches steps of all slots, and copies their outputs to the host.

Not for two threads at once.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from engines.memory import keep_freed_memory
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.graphs import Graphs
from engines.vibevoice.fast.sequence import InFlight, Sequence, StepOutput

_CPU_CONTEXT_STEP = 128


class Outputs(Protocol):
    """Slots with a step's outputs: `audio` (slots, samples) and `chosen` (slots,)."""

    count: int
    active: Tensor
    audio: Tensor
    chosen: Tensor

    def release(self, slot: int, *, wipe: bool = False) -> None: ...


S = TypeVar("S", bound=Outputs)


class Launcher(Generic[S]):
    """Runs the steps of `state` by `graphs`; what a step has made of a sequence, `outputs` says.

    See `loop.Runner` for `slots`, `lag` and `context_step`.
    """

    def __init__(self, graphs: Graphs[S], state: S) -> None:
        self.graphs, self.state = graphs, state
        self.slots = state.count
        self._on_cuda = state.audio.device.type == "cuda"
        if not self._on_cuda:
            keep_freed_memory()
        self.lag = 1 if self._on_cuda else 0
        self.context_step = None if self._on_cuda else _CPU_CONTEXT_STEP
        self._spare: list[tuple[Tensor, Tensor]] = []

    def __str__(self) -> str:
        graphs = self.graphs
        return f"graphs {graphs}; {graphs.replayed} frames replayed, {graphs.eager} eager so far"

    def prepare(self) -> bool:
        """Captures one wanted graph shape, while the loop is idle. False where none is left."""
        return self.graphs.prepare()

    def release(self, sequence: Sequence, *, wipe: bool = False) -> None:
        self.state.release(sequence.slot, wipe=wipe)

    def suspend(self, sequence: Sequence) -> None:
        """Releases a sequence that waits for text, so that `admit` goes on where it was."""
        raise NotImplementedError

    def launch(self, shape: GraphShape, sequences: Mapping[int, Sequence]) -> InFlight:
        """Launches a step for `sequences`, by slot. Asynchronous on a GPU."""
        exact = any(each.repeatable for each in sequences.values())
        self.graphs.run(shape, exact=exact)
        if not self._on_cuda:
            # A step of another shape may overwrite the state before this one is read.
            state = self.state
            return InFlight(sequences, state.chosen.clone(), state.audio.clone(), None)
        chosen, audio = self._host_buffers()
        chosen.copy_(self.state.chosen, non_blocking=True)
        audio.copy_(self.state.audio, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # without `blocking` the wait would spin a core
        done.record()
        return InFlight(sequences, chosen, audio, done)

    def read(self, step: InFlight) -> list[StepOutput]:
        """Waits for a step and gives its outputs, at most one a sequence."""
        if step.done is not None:
            step.done.synchronize()
        outputs = list(self.outputs(step))
        if step.done is not None:
            self._spare.append((step.chosen, step.audio))
        return outputs

    def outputs(self, step: InFlight) -> Iterable[StepOutput]:
        raise NotImplementedError

    def _host_buffers(self) -> tuple[Tensor, Tensor]:
        """Host buffers for one step: pinned, so that copies to them are asynchronous.

        `read` returns them to the pool.
        """
        if self._spare:
            return self._spare.pop()
        return (
            torch.empty_like(self.state.chosen, device="cpu").pin_memory(),
            torch.empty_like(self.state.audio, device="cpu").pin_memory(),
        )
