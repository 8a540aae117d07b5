"""CUDA graphs on a CPU: a capture records operations, a replay makes them again in their memory.

Whatever a frame works out in Python is baked into such a graph as it is on a GPU, and what a
capture forbids is refused. Pinned buffers, events and frames that are read late are used as on a
GPU. That a GPU works while the host goes on is not emulated.

    python -m pytest -p tests.emulated_graphs tests/test_fast_engine.py
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engines.vibevoice.fast.launcher import Launcher
from tests.cuda_trace import forbidden, tensors

_RECORDING = (
    "captures_underway.empty() INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp, please report a"
    " bug to PyTorch."
)


Pool = tuple[int, int]


class CUDAGraph:
    """The operations of a capture, with their tensors."""

    def __init__(self, device: "EmulatedGraphs") -> None:
        self._device = device
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def replay(self) -> None:
        assert self._device.current is self._device.default, "a failed capture left its stream"
        self._device.replays += 1
        with torch.inference_mode():
            for func, args, kwargs, outs in self.steps:
                made = tensors(func(*args, **kwargs))
                for out, new in zip(outs, made, strict=True):
                    if out.data_ptr() != new.data_ptr():
                        out.copy_(new)


def _shares(args: Any, out: Any) -> bool:
    """Whether it is a view in fact: it stays what it is, since all tensors are kept. A change of
    type is called a view too, and copies."""
    kept = {each.untyped_storage().data_ptr() for each in tensors(args)}
    return all(each.untyped_storage().data_ptr() in kept for each in tensors(out))


class _Capture(TorchDispatchMode):
    def __init__(self, graph: CUDAGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if fault := forbidden(name, args):
            raise RuntimeError(f"CUDA error: not permitted when stream is capturing: {fault}")
        out = func(*args, **kwargs)
        if not (func.is_view and _shares(args, out)):
            self._graph.steps.append((func, args, kwargs, tensors(out)))
        return out


class _Event:
    def __init__(self, device: "EmulatedGraphs") -> None:
        self._device, self._at = device, 0.0

    def record(self, *_: Any) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        self._device.synchronize()
        self._device.waits += 1

    def elapsed_time(self, end: "_Event") -> float:
        """Milliseconds."""
        return 1000 * (end._at - self._at)


class EmulatedGraphs:
    """Counts what is done. The capture number `failing`, from 1, fails as torch 2.8 fails one that
    CUDA has invalidated: the stream stays the capture's, and the allocator goes on recording, so
    that every `empty_cache` fails until the pool's recording is ended."""

    def __init__(self) -> None:
        self.captures = self.replays = self.waits = 0
        self.failing: frozenset[int] = frozenset()
        self.recording: set[Pool] = set()
        self.pools = 0
        self.default = self.new_stream()
        self._thread = threading.local()

    @property
    def current(self) -> Any:
        """This thread's stream."""
        return getattr(self._thread, "stream", self.default)

    @current.setter
    def current(self, stream: Any) -> None:
        self._thread.stream = stream

    @staticmethod
    def new_stream(*_: Any) -> Any:
        return SimpleNamespace(wait_stream=lambda _: None)

    def new_pool(self) -> Pool:
        self.pools += 1
        return 0, self.pools

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(
        self, graph: CUDAGraph, pool: Pool, stream: Any = None, *, capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local", "other threads pin memory meanwhile"
        self.synchronize()
        self.empty_cache()
        before, self.current = self.current, stream or self.new_stream()
        self.captures += 1
        number = self.captures
        self.recording.add(pool)
        self._thread.captures = True
        try:
            with _Capture(graph):
                yield
        except BaseException as error:
            raise self._invalidated() from error
        finally:
            self._thread.captures = False
        if number in self.failing:
            raise self._invalidated()
        self.recording.discard(pool)
        self.current = before

    @staticmethod
    def _invalidated() -> Exception:
        return torch.AcceleratorError(
            "CUDA error: operation failed due to a previous error during capture"
        )

    def end_recording(self, _: int, pool: Pool) -> None:
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.discard(pool)

    def synchronize(self, *_: Any) -> None:
        if getattr(self._thread, "captures", False):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def empty_cache(self) -> None:
        self.synchronize()
        if self.recording:
            raise RuntimeError(_RECORDING)

    def event(self, **options: Any) -> Any:
        assert options in ({"blocking": True}, {"enable_timing": True}), "it would keep a core busy"
        return _Event(self)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        stand_ins = {
            "CUDAGraph": lambda: CUDAGraph(self),
            "Event": self.event,
            "Stream": self.new_stream,
            "_sleep": lambda _: None,
            "current_stream": lambda *_: self.current,
            "current_device": lambda: 0,
            "empty_cache": self.empty_cache,
            "graph": self.graph,
            "graph_pool_handle": self.new_pool,
            "mem_get_info": lambda *_: (64 << 30, 80 << 30),
            "stream": self.stream,
            "synchronize": self.synchronize,
        }
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_recording, raising=False)
        patch.setattr(torch._C, "_cuda_releasePool", lambda *_: None, raising=False)
        patch.setattr(Tensor, "pin_memory", lambda tensor, *_: tensor.clone())
        make = Launcher.__init__

        def made(batch: Launcher[Any], *args: Any, **kwargs: Any) -> None:
            make(batch, *args, **kwargs)
            batch._on_cuda, batch.lag, batch.context_step = True, 1, None
            batch.graphs._on_cuda, batch.graphs._pool = True, torch.cuda.graph_pool_handle()

        patch.setattr(Launcher, "__init__", made)


# As pytest's plugin: everything runs on the emulation

_EVERYWHERE = EmulatedGraphs()


def pytest_configure(config: pytest.Config) -> None:
    patch = pytest.MonkeyPatch()
    _EVERYWHERE.install(patch)
    config.add_cleanup(patch.undo)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(
        f"{_EVERYWHERE.captures} captures, {_EVERYWHERE.replays} replays, {_EVERYWHERE.waits} waits"
    )
