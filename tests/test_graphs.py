"""Which frames become graphs and what becomes of the others, with a stand-in for CUDA's own.

It fails as torch 2.8 fails: a capture that CUDA has invalidated leaves its pool recording and the
thread on the capture's stream, and every later `empty_cache` trips the allocator's assertion.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from engines.vibevoice.failures import free_memory
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.graphs import Graphs
from request.errors import EngineLost

GIB = 1 << 30
ONE, OTHER, LARGE = GraphShape(1, 512, 10), GraphShape(2, 512, 10), GraphShape(4, 2048, 10)
BROKEN = torch.AcceleratorError("CUDA error: operation failed due to a previous error")
STUCK = "captures_underway.empty() INTERNAL ASSERT FAILED"


class Stream:
    """Waits for nothing."""

    def wait_stream(self, _: "Stream") -> None:
        """All work is done when it is begun."""


class Cuda:
    """Notes what is asked of it, in order: frames that are made, captured and replayed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.pools: list[int] = []
        self.recording: set[int] = set()
        self.released: list[int] = []
        self.made = 0
        self.free = 8 * GIB
        self.capturing = False
        self.broken: Exception | None = None
        self.invalid = False
        self.usual = self.now = Stream()
        stand_ins = {
            "is_available": lambda: True,
            "graph_pool_handle": self.new_pool,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.did.append("replay")),
            "graph": self.graph,
            "Stream": lambda _: Stream(),
            "stream": self.on,
            "current_stream": lambda _: self.now,
            "synchronize": lambda _: self.did.append("wait"),
            "empty_cache": self.empty_cache,
            "mem_get_info": lambda _: (self.free, 24 * GIB),
        }
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_pool, raising=False)
        patch.setattr(torch._C, "_cuda_releasePool", self.release_pool, raising=False)

    def new_pool(self) -> int:
        self.made += 1
        return self.made

    def empty_cache(self) -> None:
        if self.recording:
            raise RuntimeError(STUCK)

    def end_pool(self, device: int, pool: int) -> None:
        assert device == 0
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def release_pool(self, _: int, pool: int) -> None:
        self.released.append(pool)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(
        self, _: Any, pool: int, stream: Stream, *, capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.empty_cache()
        before, self.now = self.now, stream
        self.pools.append(pool)
        self.recording.add(pool)
        self.capturing = True
        try:
            yield
        except RuntimeError:
            self.invalid = True
            raise
        finally:
            self.capturing = False
            if self.invalid:  # and neither the stream is put back nor the pool ended
                raise BROKEN
            self.recording.remove(pool)
            self.now = before


class Step:
    """Makes nothing, and sees who is active."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.weights = SimpleNamespace(device=torch.device("cuda"))
        self.active: list[list[bool]] = []
        self.impossible: Exception | None = None

    def __call__(self, slots: Any, shape: GraphShape) -> None:
        self.active.append(slots.active.tolist())
        if self.impossible is not None:
            raise self.impossible
        if self.cuda.broken is not None and self.cuda.capturing:
            raise self.cuda.broken
        did = "capture" if self.cuda.capturing else "make"
        self.cuda.did.append(did if shape == ONE else f"{did} {shape}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


@pytest.fixture
def slots() -> Any:
    return SimpleNamespace(count=4, active=torch.tensor([True, False]))


@pytest.fixture
def frame(cuda: Cuda) -> Step:
    return Step(cuda)


@pytest.fixture
def graphs(frame: Any, slots: Any) -> Graphs[Any]:
    return Graphs(frame, slots, GIB)


def test_a_frame_is_captured_once_and_then_replayed(graphs: Graphs[Any], cuda: Cuda) -> None:
    for _ in range(3):
        graphs.run(ONE)
    assert cuda.did == ["make", "capture", "replay", "replay", "replay"]
    assert (len(graphs), graphs.replayed, graphs.eager) == (1, 3, 0)


def test_nobody_is_active_while_a_frame_is_captured(
    graphs: Graphs[Any], frame: Step, slots: Any
) -> None:
    graphs.capture(ONE)
    assert frame.active == [[False, False]] * 2
    assert slots.active.tolist() == [True, False]


def test_graphs_share_their_memory(graphs: Graphs[Any], cuda: Cuda) -> None:
    graphs.capture(ONE)
    graphs.capture(OTHER)
    assert len(set(cuda.pools)) == 1


def test_with_too_little_memory_a_frame_is_made_eagerly(
    graphs: Graphs[Any], cuda: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.free = GIB - 1
    graphs.run(ONE)
    assert cuda.did == ["make"]
    assert (graphs.replayed, graphs.eager) == (0, 1)
    assert "shape 1x512 runs eagerly: 1023 MiB are free" in caplog.text
    assert str(graphs) == "none: 1023 MiB are free"


# Where no seed asks for one shape


def test_a_listener_waits_for_no_capture_where_a_larger_shape_has_a_graph(
    graphs: Graphs[Any], cuda: Cuda
) -> None:
    graphs.capture(GraphShape(4, 4096, 10))
    graphs.capture(LARGE)
    graphs.capture(GraphShape(4, 512, 5))
    cuda.did.clear()
    graphs.run(ONE, exact=False)
    assert cuda.did == ["replay"]
    while graphs.prepare():
        pass
    assert cuda.did == ["replay", "make", "capture"], "it is captured once nobody waits"
    assert not graphs.prepare()


def test_where_none_is_larger_the_one_that_serves_all_is_captured(
    graphs: Graphs[Any], cuda: Cuda
) -> None:
    graphs.run(ONE, exact=False)
    graphs.run(OTHER, exact=False)
    assert cuda.did == ["make 4x2048", "capture 4x2048", "replay", "replay"]
    assert (graphs.prepare(), graphs.prepare(), graphs.prepare()) == (True, True, False)
    assert len(graphs) == 3


def test_a_seed_gets_its_own_shape_whatever_is_captured(graphs: Graphs[Any], cuda: Cuda) -> None:
    graphs.capture(LARGE)
    cuda.did.clear()
    graphs.run(ONE)
    assert cuda.did == ["make", "capture", "replay"]


def test_what_no_larger_shape_may_serve_is_made_eagerly_in_its_own(
    graphs: Graphs[Any], cuda: Cuda
) -> None:
    cuda.free = GIB - 1
    graphs.run(ONE, exact=False)
    assert cuda.did == ["make"]


# Captures that fail


def test_a_failed_capture_costs_a_graph_and_not_the_worker(
    graphs: Graphs[Any],
    cuda: Cuda,
    slots: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(graphs, "_works", lambda: True)
    cuda.broken = BROKEN
    graphs.run(ONE)
    assert slots.active.tolist() == [True, False]
    assert "shape 1x512 runs eagerly: CUDA error: operation failed" in caplog.text
    assert cuda.now is cuda.usual, "the thread goes on on its own stream"
    assert cuda.released == [cuda.pools[0]]
    free_memory()
    cuda.broken, cuda.invalid, cuda.did = None, False, []
    graphs.run(ONE)
    assert cuda.did == ["make"], "it is not tried again"
    graphs.run(OTHER)
    assert cuda.did[1:] == ["make 2x512", "capture 2x512", "replay"]
    assert cuda.pools[0] != cuda.pools[1]
    assert "not all: CUDA error" in str(graphs)


def test_without_what_ends_a_pool_nothing_is_raised_and_memory_stays_taken(
    graphs: Graphs[Any],
    cuda: Cuda,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr(torch._C, "_cuda_endAllocateToPool")
    monkeypatch.setattr(graphs, "_works", lambda: True)
    cuda.broken = BROKEN
    graphs.run(ONE)
    free_memory()
    assert f"memory that is not in use stays taken: {STUCK}" in caplog.text


def test_after_two_failures_in_a_row_no_further_capture_is_tried(
    graphs: Graphs[Any], cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_works", lambda: True)
    graphs.capture(LARGE)
    for shape in (ONE, OTHER):
        cuda.broken = BROKEN
        graphs.capture(shape)
    cuda.broken, cuda.invalid, cuda.did = None, False, []
    graphs.run(GraphShape(2, 1024, 10))
    graphs.run(LARGE)
    assert cuda.did == ["make 2x1024", "replay"]
    assert not graphs.prepare()


def test_failures_that_are_not_in_a_row_do_not_end_it(
    graphs: Graphs[Any], cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_works", lambda: True)
    for slots, fails in enumerate((True, False, True, False), start=1):
        cuda.broken, cuda.invalid = BROKEN if fails else None, False
        graphs.capture(GraphShape(slots, 1024, 10))
    assert len(graphs) == 2


def test_a_frame_that_cannot_be_made_at_all_is_no_failed_capture(
    graphs: Graphs[Any], frame: Step, cuda: Cuda, slots: Any
) -> None:
    frame.impossible = RuntimeError("GET was unable to find an engine to execute this computation")
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        graphs.capture(ONE)
    assert cuda.pools == []
    assert slots.active.tolist() == [True, False]


def test_a_capture_that_breaks_the_device_is_told(
    graphs: Graphs[Any], cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_works", lambda: False)
    cuda.broken = BROKEN
    with pytest.raises(EngineLost, match="has to be replaced"):
        graphs.run(ONE)


def test_off_cuda_every_frame_is_eager(frame: Any, slots: Any, cuda: Cuda) -> None:
    frame.weights.device = torch.device("cpu")
    graphs = Graphs(frame, slots, GIB)
    graphs.run(ONE)
    graphs.run(OTHER, exact=False)
    assert cuda.did == ["make", "make 2x512"]
    assert not graphs.pending
    assert str(graphs) == "none: there is no CUDA device"


def test_turned_off_nothing_is_captured(frame: Any, slots: Any, cuda: Cuda) -> None:
    graphs = Graphs(frame, slots, GIB, off="VIBEVOICE_GRAPHS=off")
    graphs.run(ONE)
    graphs.run(OTHER, exact=False)
    assert cuda.did == ["make", "make 2x512"]
    assert not graphs.prepare()
    assert str(graphs) == "none: VIBEVOICE_GRAPHS=off"


def test_graphs_that_are_forgotten_are_captured_anew(graphs: Graphs[Any], cuda: Cuda) -> None:
    graphs.run(ONE)
    cuda.did.clear()
    graphs.clear()
    assert cuda.did == ["wait"], "the frame that is under way uses one of them"
    assert len(graphs) == 0
    assert graphs.prepare(), "when nobody waits"
    assert cuda.did == ["wait", "make", "capture"]
    assert cuda.pools[0] != cuda.pools[1]


def test_a_capture_is_logged_with_its_memory(
    graphs: Graphs[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = iter([8 * GIB, 8 * GIB - (60 << 20)])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(left), 24 * GIB))
    with caplog.at_level(logging.INFO, "vibevoice"):
        graphs.capture(ONE)
    assert "graph 1x512 captured: 60 MiB" in caplog.text
    assert graphs.used == 60 << 20
    assert str(graphs) == "1 captured, 60 MiB"
