"""Which frames become graphs and what becomes of the others, with a stand-in for CUDA's own."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from engines.vibevoice.bucket import Bucket
from engines.vibevoice.graphs import Graphs
from speech.errors import EngineLost

GIB = 1 << 30
ONE, OTHER = Bucket(1, 512, 10), Bucket(2, 512, 10)
BROKEN = torch.AcceleratorError("CUDA error: operation failed due to a previous error")


class Cuda:
    """Notes what is asked of it, in order: frames that are made, captured and replayed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.pools: list[int] = []
        self.made = 0
        self.free = 8 * GIB
        self.capturing = False
        self.broken: Exception | None = None
        stream = SimpleNamespace(wait_stream=lambda _: None)
        stand_ins = {
            "graph_pool_handle": self.new_pool,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.did.append("replay")),
            "graph": self.graph,
            "Stream": lambda _: stream,
            "stream": lambda _: nullcontext(),
            "current_stream": lambda _: stream,
            "synchronize": lambda _: self.did.append("wait"),
            "empty_cache": lambda: None,
            "mem_get_info": lambda _: (self.free, 24 * GIB),
        }
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)

    def new_pool(self) -> int:
        self.made += 1
        return self.made

    @contextmanager
    def graph(self, _: Any, *, pool: int, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False


class Frame:
    """Makes nothing, and sees who is active."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.weights = SimpleNamespace(device=torch.device("cuda"))
        self.active: list[list[bool]] = []

    def __call__(self, slots: Any, _: Bucket) -> None:
        self.active.append(slots.active.tolist())
        if self.cuda.broken is not None and self.cuda.capturing:
            raise self.cuda.broken
        self.cuda.did.append("capture" if self.cuda.capturing else "make")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


@pytest.fixture
def slots() -> Any:
    return SimpleNamespace(active=torch.tensor([True, False]))


@pytest.fixture
def frame(cuda: Cuda) -> Frame:
    return Frame(cuda)


@pytest.fixture
def graphs(frame: Any, slots: Any) -> Graphs:
    return Graphs(frame, slots, 2 * GIB)


def test_a_frame_is_captured_once_and_then_replayed(graphs: Graphs, cuda: Cuda) -> None:
    for _ in range(3):
        graphs.run(ONE)
    assert cuda.did == ["make", "make", "capture", "replay", "replay", "replay"]
    assert len(graphs) == 1


def test_nobody_is_active_while_a_frame_is_captured(
    graphs: Graphs, frame: Frame, slots: Any
) -> None:
    graphs.capture(ONE)
    assert frame.active == [[False, False]] * 3
    assert slots.active.tolist() == [True, False]


def test_graphs_share_their_memory(graphs: Graphs, cuda: Cuda) -> None:
    graphs.capture(ONE)
    graphs.capture(OTHER)
    assert len(set(cuda.pools)) == 1


def test_with_too_little_memory_a_frame_is_made_eagerly(
    graphs: Graphs, cuda: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.free = 2 * GIB - 1
    graphs.run(ONE)
    assert cuda.did == ["make"]
    assert "frame 1x512 runs eagerly: 2047 MiB are free" in caplog.text


def test_what_cannot_be_captured_is_made_eagerly_and_the_next_one_has_its_own_memory(
    graphs: Graphs,
    cuda: Cuda,
    slots: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(graphs, "_works", lambda: True)
    cuda.broken = BROKEN
    graphs.run(ONE)
    assert slots.active.tolist() == [True, False]
    assert "frame 1x512 runs eagerly: CUDA error: operation failed" in caplog.text
    cuda.broken, cuda.did = None, []
    graphs.run(ONE)
    assert cuda.did == ["make"], "it is not tried again"
    graphs.run(OTHER)
    assert cuda.did[1:] == ["make", "make", "capture", "replay"]
    assert cuda.pools[0] != cuda.pools[1]


def test_a_capture_that_breaks_the_device_is_told(
    graphs: Graphs, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_works", lambda: False)
    cuda.broken = BROKEN
    with pytest.raises(EngineLost, match="has to be replaced"):
        graphs.run(ONE)


def test_graphs_that_are_forgotten_are_captured_anew(graphs: Graphs, cuda: Cuda) -> None:
    graphs.run(ONE)
    cuda.did.clear()
    graphs.clear()
    assert cuda.did == ["wait"], "the frame that is under way uses one of them"
    assert len(graphs) == 0
    graphs.run(ONE)
    assert cuda.did[-2:] == ["capture", "replay"]
    assert cuda.pools[0] != cuda.pools[1]


def test_a_capture_is_logged_with_its_memory(
    graphs: Graphs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = iter([8 * GIB, 8 * GIB - (60 << 20)])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(left), 24 * GIB))
    with caplog.at_level(logging.INFO, "vibevoice"):
        graphs.capture(ONE)
    assert "frame 1x512 captured: 60 MiB" in caplog.text
    assert graphs.used == 60 << 20
