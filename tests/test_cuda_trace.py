"""What the fast runtime asks of a GPU at full size: see `cuda_trace.py`."""

import functools
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from bench.random_model import sequence
from tests.cuda_trace import META, Gpu, Trace, efficient_attention

SIZES = ("1.5b", "7b")
FRAME = {False: 1792, True: 1790}
"""Kernels at least (see `Trace`), with SDPA and with flash attention, for any size and slots."""

ADMISSION = {0: 987, 1: 1414, 4: 2743}
"""By voices that were not heard before, of 30 s each, before 300 tokens of text."""


@functools.cache
def gpu(size: str, slots: int = 32, *, flash: bool = False) -> Gpu:
    return Gpu(size, slots, flash=flash)


def admission(gpu: Gpu, voices: int = 0) -> Trace:
    batch = gpu.batch
    with gpu.trace() as trace:
        lease = batch.lease()
        batch.admit(sequence(batch.slots - 1, voices), lease)
        lease.release()
    batch.voices._known.clear()
    return trace


def without_random_numbers(trace: Trace) -> list[str]:
    """An admission may draw, and a frame may not: a graph would draw the same numbers again."""
    return [fault for fault in trace.faults if not fault.startswith("random")]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slots", [1, 32])
@pytest.mark.parametrize("flash", [False, True], ids=["sdpa", "flash"])
def test_a_frame_is_fit_for_a_graph_and_has_so_many_kernels(
    size: str, slots: int, flash: bool
) -> None:
    trace = gpu(size, slots, flash=flash).frame(512)
    assert not trace.faults
    assert trace.count == FRAME[flash], trace.kernels.most_common()
    assert trace.kernels["_scaled_dot_product_efficient_attention"] == (0 if flash else 28)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("voices", ADMISSION)
def test_an_admission_does_not_wait_for_the_device(size: str, voices: int) -> None:
    trace = admission(gpu(size), voices)
    assert not without_random_numbers(trace)
    assert trace.count == ADMISSION[voices], trace.kernels.most_common()


def test_a_known_voice_costs_an_admission_no_encoder() -> None:
    card = gpu("7b")
    with card.trace() as first:
        lease = card.batch.lease()
        card.batch.admit(sequence(0, 1), lease)
    with card.trace() as again:
        card.batch.admit(sequence(0, 1), lease)
    assert first.kernels["convolution"] > 0
    assert not again.kernels["convolution"]
    assert again.count < first.count


@pytest.mark.parametrize("size", SIZES)
def test_grown_slots_make_the_same_frame(size: str) -> None:
    card = Gpu(size, 32)
    before = card.frame(2048)
    with card.trace() as growth:
        card.batch._make_room(4096)
    assert all(fault.startswith("a copy that waits") for fault in growth.faults)
    assert card.batch.state.capacity == 4096
    behind = card.frame(4096)
    assert not behind.faults
    assert behind.kernels == before.kernels


# The trace itself


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("waits for the device: nonzero", lambda x: (x > 0).nonzero()),
        ("random numbers: normal_", lambda x: x.normal_()),
        ("boolean index: index", lambda x: x[x > 0]),
        ("mixed devices: index", lambda x: x[torch.ones(2, dtype=torch.long)]),
        ("dtypes", lambda x: torch.mm(x[None], x.float()[:, None])),
        ("a copy that waits: tensor", lambda x: torch.tensor([1, 2], device=x.device)),
        ("a copy that waits: copy_", lambda x: x.copy_(torch.ones(2).pin_memory())),
        ("a copy of memory that is not pinned", lambda x: x.copy_(torch.ones(2), True)),
    ],
)
def test_a_trace_sees_what_a_graph_would_not_bear(fault: str, code: Any) -> None:
    x = torch.empty(2, dtype=torch.bfloat16, device=META)
    with gpu("1.5b", 1).trace() as trace, suppress(RuntimeError):  # meta refuses some of it, too
        code(x)
    assert any(each.startswith(fault) for each in trace.faults), trace.faults


def test_a_copy_from_pinned_memory_is_no_fault() -> None:
    card = gpu("1.5b", 1)
    with card.trace() as trace:
        torch.empty(2, device=META).copy_(torch.ones(2).pin_memory(), non_blocking=True)
    assert not trace.faults


def test_the_efficient_kernel_refuses_what_it_refuses_on_a_gpu() -> None:
    q = torch.empty(1, 2, 4, 64, dtype=torch.bfloat16, device=META)
    bias = torch.empty(1, 1, 4, 4, device=META)
    with pytest.raises(AssertionError, match="one dtype"):
        efficient_attention(q, q, q, bias)
    with pytest.raises(AssertionError, match="contiguous"):
        efficient_attention(q, q.transpose(2, 3).contiguous().transpose(2, 3), q, bias.bfloat16())
