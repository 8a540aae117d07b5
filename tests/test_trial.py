"""The short text that is spoken when a model is loaded, and what comes of it if it cannot be."""

import functools
import itertools
import logging
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from tests import vibevoice_fixtures as vibevoice  # skips where torch is missing

from engines.vibevoice.engine import VibeVoiceEngine  # isort: skip
from engines.vibevoice.fast.step import Step  # isort: skip
from engines.vibevoice.fast.trial import make_trial  # isort: skip
from engines.vibevoice.reference import Reference  # isort: skip
from request.errors import EngineError, EngineLost  # isort: skip
from tests.emulated_graphs import EmulatedGraphs  # isort: skip
from tests.test_fast_engine import assert_close, batch_of, engine, new_engine  # isort: skip
from engines.base import Options  # isort: skip
from engines.vibevoice.fast.graph_shape import GraphShape  # isort: skip
from engines.vibevoice.fast.layers import kernels  # isort: skip
from tests.vibevoice_fixtures import TEXT, plan, samples  # isort: skip

torch = vibevoice.torch
pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)


@pytest.fixture
def own() -> Iterator[VibeVoiceEngine]:
    made = new_engine()
    yield made
    made.close()


def failing(patch: pytest.MonkeyPatch, error: Exception, calls: int = 0) -> None:
    """Frames raise from a call on, counted from 0."""
    make, seen = Step.__call__, iter(range(10**6))

    def called(frame: Step, slots: Any, shape: Any) -> None:
        if next(seen) >= calls:
            raise error
        make(frame, slots, shape)

    patch.setattr(Step, "__call__", called)


def test_a_trial_leaves_nothing_behind(own: VibeVoiceEngine) -> None:
    own.load()
    batch = batch_of(own)
    make_trial(batch)
    state = batch.state
    assert not state.active.any()
    assert not state.preference.any()
    assert not any(part.any() for part in (state.cache.tensor, state.x, state.past, state.new))
    assert batch.voices.used == 0
    assert np.array_equal(samples(own.start(plan(TEXT))), samples(engine().start(plan(TEXT))))


@pytest.mark.parametrize("part", ["decoder", "language model"])
def test_a_trial_notices_what_is_no_number(own: VibeVoiceEngine, part: str) -> None:
    own.load()
    batch = batch_of(own)
    weights = batch.step.weights
    damaged = {"decoder": weights.decoder.head[1], "language model": weights.norm}[part]
    with torch.inference_mode():
        damaged.fill_(float("nan"))
    with pytest.raises(EngineError, match="samples that are no numbers"):
        make_trial(batch)


@pytest.mark.parametrize(
    "refusal",
    [
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_a_frame_that_a_card_has_no_way_for_is_left_to_the_reference(
    own: VibeVoiceEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refusal: str,
) -> None:
    EmulatedGraphs().install(monkeypatch)
    failing(monkeypatch, RuntimeError(refusal))
    with caplog.at_level(logging.WARNING, "vibevoice"):
        own.load()
    details = own.capabilities.details
    assert details["runtime"] == "reference"
    assert details["fallback"] == f"the GPU cannot take a step of the model ({refusal})"
    assert "the reference runtime is used: the GPU cannot" in caplog.text
    assert len(samples(own.start(plan(TEXT))))


def test_what_is_said_of_a_model_is_of_this_load_and_of_none_before_it(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        EmulatedGraphs().install(patch)
        failing(patch, RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"))
        own.load()
        assert "fallback" in own.capabilities.details
        own.close()
    own.load()
    details = own.capabilities.details
    assert details["runtime"] == "fast"
    assert "fallback" not in details


@pytest.mark.parametrize(
    ("error", "kind", "wanted"),
    [
        ("CUDA error: no kernel image is available for execution", EngineError, "no kernels for"),
        ("CUDA out of memory. Tried to allocate", EngineError, "while it was loaded: set fewer"),
        ("CUDA error: an illegal memory access", EngineLost, "has to be replaced"),
    ],
)
def test_a_frame_that_cannot_be_made_at_all_fails_the_start(
    own: VibeVoiceEngine,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    kind: type[EngineError],
    wanted: str,
) -> None:
    EmulatedGraphs().install(monkeypatch)
    failing(monkeypatch, RuntimeError(error))
    with pytest.raises(kind, match=wanted) as caught:
        own.load()
    assert type(caught.value) is kind
    assert not own.ready


def test_the_reference_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = vibevoice.engine()._loaded()
    assert isinstance(reference, Reference)
    reference.make_trial()

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")

    monkeypatch.setattr(vibevoice.model().network, "generate", refuse)
    with pytest.raises(EngineError, match="cannot take a step of the model"):
        reference.make_trial()
    monkeypatch.setattr("engines.vibevoice.loader.load_model", lambda *_: reference.model)
    made, unused = VibeVoiceEngine("model", runtime="reference"), cast("Any", None)
    with pytest.raises(EngineError, match="cannot take a step of the model"):
        made._load_runtime(unused, unused, "", torch.device("cuda"))


def test_a_step_that_is_not_supported_fails_its_job_and_not_the_worker(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.load()
    with monkeypatch.context() as patch:
        failing(patch, RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), calls=1)
        with pytest.raises(EngineError, match="CUDNN_STATUS_NOT_SUPPORTED") as caught:
            samples(own.start(plan(TEXT)))
    assert not isinstance(caught.value, EngineLost)
    assert np.array_equal(samples(own.start(plan(TEXT))), samples(engine().start(plan(TEXT))))


def test_frames_are_captured_before_there_is_a_job(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = EmulatedGraphs()
    graphs.install(monkeypatch)
    monkeypatch.setattr("engines.vibevoice.fast.runtime.FIXED_CONTEXT", 4096)  # what slots hold
    own.load()
    shapes = 3 * 3 + 1  # 1, 2 and 4 slots by 512, 1,024 and 2,048 tokens; all of them by 4,096
    for _ in range(3000):
        if own.capabilities.details["graphs"].startswith(f"{shapes} captured"):
            break
        threading.Event().wait(0.01)
    assert own.capabilities.details["graphs"] == f"{shapes} captured, 0 MiB"
    assert graphs.captures == shapes
    assert GraphShape(4, 4096, 10) in batch_of(own).graphs._graphs


def test_a_load_on_a_gpu_finds_out_what_nobody_asked_for(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it on a CPU, with a card's memory and name, and a clock that likes products."""
    EmulatedGraphs().install(monkeypatch)
    monkeypatch.setattr("engines.vibevoice.fast.runtime._is_gpu", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    times = itertools.cycle((3, 2, 1))
    clocks = {"choose_attention": lambda _: 3.0, "choose_convolutions": lambda _: next(times)}
    for name, clock in clocks.items():
        choose = functools.partial(getattr(kernels, name), clock=clock)
        monkeypatch.setattr(f"engines.vibevoice.fast.runtime.{name}", choose)
    with caplog.at_level(logging.INFO, "vibevoice"):
        own.load()
    details = own.capabilities.details
    assert details["device"] == "NVIDIA H100 80GB HBM3"
    assert (details["attention"], details["convolutions"]) == ("sdpa", "products 19")
    assert details["norm"] == "layer_norm, 2 kernels; codecs 4"
    assert details["graph_shape"] == "32x2048"
    assert (batch_of(own).slots, batch_of(own).state.capacity) == (32, 4096)
    assert "attention of 64 rows: sdpa (sdpa 3000000 us)" in caplog.text
    assert "attention: flash-attn has no kernel for KV caches" in caplog.text
    loose = Options(steps=2, repeatable=False)
    heard = samples(own.start(plan(TEXT, options=loose)))
    assert_close(heard, samples(engine().start(plan(TEXT, options=loose))))


def test_without_graphs_every_frame_is_eager_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = EmulatedGraphs()
    graphs.install(monkeypatch)
    made = new_engine(graphs=False)
    heard = samples(made.start(plan(TEXT)))
    assert made.capabilities.details["graphs"] == "none: VIBEVOICE_GRAPHS=off"
    figures = made.inspect().figures
    made.close()
    assert graphs.captures == 0
    assert figures["frames_replayed"] == 0
    assert figures["frames_eager"] >= len(heard) / 3200
    assert figures["frame_seconds"] > 0
