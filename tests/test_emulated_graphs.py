"""The fast runtime with CUDA graphs, as far as a CPU can tell: see `emulated_graphs.py`."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from engines.base import Options
from engines.vibevoice.engine import VibeVoiceEngine
from tests import test_fast_engine as fast
from tests.emulated_graphs import CUDAGraph, EmulatedGraphs, Pool
from tests.vibevoice_fixtures import TEXT, plan, samples

pytestmark = fast.pytestmark


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> EmulatedGraphs:
    """From here on every batch believes it is on a GPU."""
    made = EmulatedGraphs()
    made.install(monkeypatch)
    return made


@pytest.fixture
def own(graphs: EmulatedGraphs) -> Iterator[VibeVoiceEngine]:
    assert not graphs.captures
    made = fast.new_engine(slots=2)
    yield made
    made.close()


class TestContractWithGraphs(fast.TestContract):
    def make_engine(self) -> VibeVoiceEngine:
        return fast.new_engine(slots=2)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def emulated(cls) -> Iterator[None]:
        """Before the class's engine is made, until it is closed."""
        with pytest.MonkeyPatch.context() as patch:
            graphs = EmulatedGraphs()
            graphs.install(patch)
            yield
        assert graphs.replays or not graphs.waits, "frames are replayed"


def test_graphs_give_the_bits_of_the_same_frames_made_eagerly() -> None:
    request = plan(TEXT, "More.", "And more of it.", TEXT, "Five.")
    eager = samples(fast.engine().start(request))
    with pytest.MonkeyPatch.context() as patch:
        graphs = EmulatedGraphs()
        graphs.install(patch)
        own = fast.new_engine()
        replayed = samples(own.start(request))
        again = samples(own.start(request))
        own.close()
    assert np.array_equal(eager, replayed)
    assert np.array_equal(eager, again)
    assert graphs.replays == graphs.waits > graphs.captures > 0


@pytest.mark.parametrize("failing", [{1}, {3}, {4}, {1, 2, 3, 4, 5, 6}])
def test_a_capture_that_fails_costs_a_graph_and_not_the_worker(
    graphs: EmulatedGraphs,
    own: VibeVoiceEngine,
    monkeypatch: pytest.MonkeyPatch,
    failing: set[int],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    graphs.failing = frozenset(failing)
    own.load()
    for steps in (10, 3):  # the second needs another graph
        heard = samples(own.start(plan(TEXT, options=Options(steps=steps))))
        assert len(heard)
    assert own.ready
    own.close()
    assert not graphs.recording
    assert graphs.current is graphs.default


def test_memory_that_torch_only_keeps_is_room_to_grow(
    graphs: EmulatedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fast.new_engine(slots=2, graphs=False)
    batch = fast.batch_of(own)
    kept = [8 << 30]
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: ((8 << 30) - sum(kept), 80 << 30))
    batch._make_room(4096)
    own.close()
    assert batch.state.capacity == 4096
    assert not graphs.captures


# The emulation itself


def capture(graphs: EmulatedGraphs, code: Callable[[], object]) -> tuple[CUDAGraph, Pool]:
    made: Any = torch.cuda.CUDAGraph()
    pool: Any = graphs.new_pool()
    with torch.cuda.graph(made, pool=pool, capture_error_mode="thread_local"):
        code()
    return made, pool


def test_a_replay_reads_and_writes_the_memory_of_the_capture(graphs: EmulatedGraphs) -> None:
    x, out = torch.ones(3), torch.zeros(3)
    made, _ = capture(graphs, lambda: out.copy_((x * 2).view(3) + 1))
    x.fill_(5)
    made.replay()
    assert out.tolist() == [11, 11, 11]


@pytest.mark.parametrize(
    "code",
    [
        lambda: torch.ones(1).item(),
        lambda: torch.ones(2).nonzero(),
        lambda: torch.ones(2)[torch.tensor([True, False])],
        lambda: torch.randn(2),
        lambda: torch.zeros(2).normal_(),
        lambda: torch.cuda.synchronize(),
        lambda: torch.cuda.Event(blocking=True).synchronize(),
        lambda: torch.cuda.empty_cache(),
    ],
)
def test_a_capture_refuses_what_cuda_refuses(
    graphs: EmulatedGraphs, code: Callable[[], object]
) -> None:
    with pytest.raises(torch.AcceleratorError, match="previous error during capture"):
        capture(graphs, code)


def test_behind_a_capture_that_failed_no_memory_is_given_back_until_its_pool_is_ended(
    graphs: EmulatedGraphs,
) -> None:
    graphs.failing = frozenset({1})
    with pytest.raises(torch.AcceleratorError):
        capture(graphs, lambda: torch.ones(1))
    assert graphs.current is not graphs.default
    with pytest.raises(RuntimeError, match="captures_underway"):
        torch.cuda.empty_cache()
    with pytest.raises(RuntimeError, match="captures_underway"):
        capture(graphs, lambda: torch.ones(1))
    torch._C._cuda_endAllocateToPool(0, (0, graphs.pools - 1))
    torch.cuda.empty_cache()
    capture(graphs, lambda: torch.ones(1))


@pytest.mark.soak
def test_the_whole_suite_of_the_fast_runtime_passes_with_graphs() -> None:
    suite = Path(fast.__file__)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "tests.emulated_graphs", str(suite)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=suite.parent.parent)
    assert ran.returncode == 0, ran.stdout[-4000:]
    captures, replays = re.findall(r"(\d+) captures, (\d+) replays", ran.stdout)[0]
    assert 100 < int(captures) < int(replays)
