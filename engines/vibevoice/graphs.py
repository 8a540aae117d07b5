"""Frames as CUDA graphs, one for each bucket, captured when first needed.

A frame is some thousand small kernels; replayed as one graph they cost the host a single launch. A
bucket that cannot be captured, or for which there is no memory, runs eagerly, with a reason in the
log. So does every bucket off CUDA.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engines.vibevoice.bucket import Bucket
from engines.vibevoice.failures import meaning
from engines.vibevoice.frame import Frame
from engines.vibevoice.slots import Slots
from speech.errors import EngineLost

_WARM_UPS = 2
_MIB = 1 << 20

log = logging.getLogger("vibevoice")


class Graphs:
    """Runs frames of one set of slots. `reserve` is the memory, in bytes, that has to be free on
    the device for another capture; `used` is what the graphs hold."""

    def __init__(self, frame: Frame, slots: Slots, reserve: int) -> None:
        self._frame, self._slots = frame, slots
        self._reserve = reserve
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}
        self._eager: set[Bucket] = set()
        self._device = frame.weights.device
        self._on_cuda = self._device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._on_cuda else None
        self.used = 0

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, bucket: Bucket) -> None:
        """A frame, on the current stream."""
        if self._on_cuda and bucket not in self._graphs and bucket not in self._eager:
            self.capture(bucket)
        graph = self._graphs.get(bucket)
        if graph is None:
            self._frame(self._slots, bucket)
        else:
            graph.replay()

    def clear(self) -> None:
        """Forgets all graphs: their tensors are about to move. Waits for the frame under way."""
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
            self._pool = torch.cuda.graph_pool_handle()  # a pool ends with its last graph
        self._graphs.clear()
        self._eager.clear()
        self.used = 0

    @torch.inference_mode()
    def capture(self, bucket: Bucket) -> None:
        """Captures a bucket. Raises `EngineLost` where the attempt has broken the device."""
        free = self._free()
        if free < self._reserve:
            self._eager.add(bucket)
            log.warning("frame %s runs eagerly: %d MiB are free", bucket, free // _MIB)
            return
        graph = torch.cuda.CUDAGraph()
        failure = None
        try:
            with self._nobody_active():
                stream = torch.cuda.Stream(self._device)
                stream.wait_stream(torch.cuda.current_stream(self._device))
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UPS):
                        self._frame(self._slots, bucket)
                torch.cuda.current_stream(self._device).wait_stream(stream)
                # Other threads may use CUDA meanwhile, if only to pin memory.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    self._frame(self._slots, bucket)
        except RuntimeError as error:
            log.warning("frame %s runs eagerly: %s", bucket, str(error).partition("\n")[0])
            self._eager.add(bucket)
            failure = meaning(error)
            # What broke off may leave its pool recording: no later capture could use that one.
            self._pool = torch.cuda.graph_pool_handle()
        if isinstance(failure, EngineLost) and not self._works():
            raise failure
        if bucket in self._eager:
            return
        self._graphs[bucket] = graph
        held = max(0, free - self._free())
        self.used += held
        log.info("frame %s captured: %d MiB", bucket, held // _MIB)

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

    def _free(self) -> int:
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def _works(self) -> bool:
        """Whether the device still answers: a capture may fail without breaking it."""
        try:
            torch.zeros(1, device=self._device).item()
        except RuntimeError:
            return False
        return True
