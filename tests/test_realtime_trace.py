"""What Realtime asks of a GPU at full size: see `cuda_trace.py`."""

import functools

import pytest

pytest.importorskip("torch")

import torch

from bench.random_model import RandomTensors
from bench.realtime_model import config, shapes
from engines.base import Options, PlannedChunk, Turn
from engines.realtime import sequence
from engines.realtime.batch import Batch
from engines.realtime.checkpoint import sizes_of
from engines.realtime.presets import Preset
from engines.realtime.sequence import Text
from engines.realtime.text import TokenFeed
from engines.realtime.weights import load_weights
from engines.vibevoice.fast.graph_shape import TEXT_STEP, GraphShape
from engines.vibevoice.prompt import Prompt
from tests.cuda_trace import META, Gpu, Trace

pytestmark = pytest.mark.realtime

SIZES = sizes_of(config("0.5b"))
FRAME = {False: 1022, True: 1020}
"""Kernels at least, with SDPA and with flash attention, for any number of slots."""

TEXT = 414
"""Of a step that reads five tokens of all slots, which is never by flash attention."""

WINDOW = 14
"""Of what a text costs when its window begins, besides the steps."""


class Voices:
    """A voice of 100 tokens and 150 frames, without values."""

    @staticmethod
    def get(_name: str) -> Preset:
        speech = SIZES.speech

        def pairs(layers: int, tokens: int) -> torch.Tensor:
            shape = (layers, tokens, 2, speech.kv_heads, speech.head_dim)
            return torch.empty(shape, dtype=torch.bfloat16, device=META)

        hidden = torch.empty(speech.hidden, dtype=torch.bfloat16, device=META)
        return Preset(
            pairs(SIZES.text_layers, 100),
            pairs(speech.layers, 250),
            pairs(speech.layers, 1),
            hidden,
        )


class RealtimeGpu(Gpu):
    def __init__(self, slots: int, *, flash: bool = False) -> None:
        self.pinned = {}
        with self.on():
            source = RandomTensors(shapes(SIZES), META)
            weights = load_weights(source, SIZES, META, torch.bfloat16)
            voices: object = Voices
            self.batch: Batch = Batch(  # type: ignore[assignment]
                weights,
                SIZES,
                voices,  # type: ignore[arg-type]
                slots=slots,
                capacity=4096,
                flash=flash,
            )
            self.batch._on_cuda, self.batch.lag, self.batch.context_step = True, 1, None
            self.batch.graphs._on_cuda = True


@functools.cache
def gpu(slots: int, *, flash: bool = False) -> RealtimeGpu:
    return RealtimeGpu(slots, flash=flash)


@pytest.mark.parametrize("slots", [1, 32])
@pytest.mark.parametrize("flash", [False, True], ids=["sdpa", "flash"])
def test_a_frame_is_fit_for_a_graph_and_has_so_many_kernels(slots: int, flash: bool) -> None:
    trace = gpu(slots, flash=flash).frame(512, steps=5)
    assert not trace.faults
    assert trace.count == FRAME[flash], trace.kernels.most_common()


@pytest.mark.parametrize("slots", [1, 32])
def test_a_text_step_is_fit_for_a_graph_and_has_so_many_kernels(slots: int) -> None:
    trace = gpu(slots).frame(512, steps=TEXT_STEP)
    assert not trace.faults
    assert trace.count == TEXT, trace.kernels.most_common()


def begin(card: RealtimeGpu) -> tuple[Text, Trace]:
    feed = TokenFeed(lambda _: list(range(7)), "x")
    turn = sequence.Turn(Prompt((), (), 0, 0), 0, "v", feed, 4096)
    text = Text(0, PlannedChunk((Turn(0, "x"),), 1), Options(1.5, 5), [turn])
    text.slot = card.batch.slots - 1
    with card.trace() as trace:
        card.batch.admit(text, card.batch.lease())
    return text, trace


def test_neither_a_text_nor_its_windows_wait_for_the_device() -> None:
    card = gpu(32)
    text, admission = begin(card)
    assert not admission.faults
    with card.trace() as trace:
        window = text.begin_window(64)
        assert window is not None
        ids, noise = window.ids.pin_memory(), window.noise.bfloat16().pin_memory()
        card.batch.state.open_window(text.slot, ids, window.count, noise, last=False)
    assert not trace.faults
    assert trace.count < WINDOW


def test_the_published_sizes_are_the_models() -> None:
    parameters = sum(torch.Size(shape).numel() for shape in shapes(SIZES).values())
    assert (SIZES.text_layers, SIZES.speech.layers, SIZES.speech.hop) == (4, 20, 3200)
    assert 0.8e9 < parameters < 1.1e9
    shape = GraphShape(1, 512, TEXT_STEP)
    assert shape.serves(GraphShape(1, 512, 0))
