"""The frame on a GPU: graphs, half precision, memory. Skipped where there is none."""

from typing import Any

import numpy as np
import pytest

from engines.base import End, Options
from tests import vibevoice_fixtures as vibevoice  # skips where torch is missing
from tests.engine_contract import by_chunk, in_threads

from bench.gpu_card import fill  # isort: skip
from engines.vibevoice.fast.batch import Batch  # isort: skip
from engines.vibevoice.fast.graph_shape import GraphShape  # isort: skip
from engines.vibevoice.engine import VibeVoiceEngine  # isort: skip
from engines.vibevoice.fast.runtime import FastRuntime  # isort: skip
from tests.test_fast_engine import TestContract as CpuContract  # isort: skip
from tests.vibevoice_fixtures import TEXT, plan, samples  # isort: skip

torch = vibevoice.torch
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)


def new_engine(slots: int | None = 8) -> VibeVoiceEngine:
    return VibeVoiceEngine(
        str(vibevoice.checkpoint()), volume=vibevoice.volume(), device="cuda", slots=slots
    )


@pytest.fixture(scope="module")
def engine() -> Any:
    made = new_engine()
    made.load()
    yield made
    made.close()


def batch_of(engine: VibeVoiceEngine) -> Batch:
    runtime = engine._loaded()
    assert isinstance(runtime, FastRuntime)
    return runtime.batch


class TestContractOnGpu(CpuContract):
    def make_engine(self) -> VibeVoiceEngine:
        return new_engine()


def out(batch: Batch) -> tuple[Any, ...]:
    state = batch.state
    torch.cuda.synchronize()
    return tuple(t.clone() for t in (state.audio, state.x, state.lengths, state.past, state.chosen))


def rest(batch: Batch) -> None:
    with torch.inference_mode():
        batch.state.active.fill_(False)
        batch.state.preference.zero_()
        batch.state.cache.tensor.zero_()
        batch.state.past.zero_()


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_a_graph_gives_the_bits_of_the_same_code_run_eagerly(engine: Any, slots: int) -> None:
    batch, shape = batch_of(engine), GraphShape(slots, 512, 10)
    batch.graphs.capture(shape)
    assert shape in batch.graphs._graphs
    fill(batch)
    for _ in range(3):
        batch.step(batch.state, shape)
    eager = out(batch)
    fill(batch)
    for _ in range(3):
        batch.graphs.run(shape)
    for one, other in zip(eager, out(batch), strict=True):
        assert torch.equal(one, other)
    rest(batch)


def test_capturing_leaves_slots_that_are_at_work_alone(engine: Any) -> None:
    batch = batch_of(engine)
    fill(batch)
    before = out(batch)[1:4]
    batch.graphs.capture(GraphShape(8, 1024, 7))
    assert all(torch.equal(a, b) for a, b in zip(before, out(batch)[1:4], strict=True))
    assert batch.state.active.all()
    rest(batch)


def test_two_thousand_frames_do_not_take_more_memory_than_the_first(engine: Any) -> None:
    batch, shape = batch_of(engine), GraphShape(8, 512, 10)
    fill(batch)
    batch.graphs.run(shape)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    for _ in range(2000):
        with torch.inference_mode():
            batch.state.lengths.clamp_(max=400)
            batch.state.used.zero_()
        batch.graphs.run(shape)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before[0]
    assert torch.cuda.mem_get_info()[0] >= before[1] - (1 << 20)
    rest(batch)


def test_without_memory_for_a_graph_the_frame_runs_eagerly(engine: Any) -> None:
    batch, shape = batch_of(engine), GraphShape(2, 512, 3)
    kept, batch.graphs._reserve = batch.graphs._reserve, 1 << 60
    batch.graphs.run(shape)
    batch.graphs._reserve = kept
    assert shape in batch.graphs._eager


def test_a_seed_repeats_to_the_bit_whatever_else_runs(engine: Any) -> None:
    alone = by_chunk(list(engine.start(plan(TEXT, "And more of it."))))
    together: dict[int, Any] = {}

    def speak(number: int) -> None:
        asked = plan(TEXT, "And more of it.") if number == 1 else plan(*[TEXT] * 4, seed=number)
        together[number] = by_chunk(list(engine.start(asked)))

    in_threads(3, speak)
    assert all(np.array_equal(alone[chunk], together[1][chunk]) for chunk in alone)


def test_texts_end_by_themselves_and_others_come_after_them(engine: Any) -> None:
    request = plan(*[TEXT] * 20, options=Options(steps=10, repeatable=False))
    events = list(engine.start(request))
    ends = [event for event in events if isinstance(event, End)]
    assert [end.reason for end in ends] == ["eos"] * 20
    assert len(samples(engine.start(plan(TEXT)))) > 3200
