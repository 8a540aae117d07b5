"""Many jobs on one VibeVoice engine: turns, cancelling, loading, failures."""

import importlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.base import End, Frame, Options, Plan, PlannedChunk, Speech, Turn
from engines.vibevoice.engine import VibeVoiceEngine
from engines.vibevoice.reference import Reference
from request.errors import Cancelled, EngineError, EngineLost
from tests import vibevoice_fixtures as vibevoice
from tests.engine_contract import EngineContract
from tests.vibevoice_fixtures import TEXT, engine, plan, samples, voice

pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)


def new_engine() -> VibeVoiceEngine:
    return VibeVoiceEngine(
        str(vibevoice.checkpoint()),
        volume=vibevoice.volume(),
        device="cpu",
        runtime="reference",
    )


class TestContract(EngineContract):
    has_model = True

    def make_engine(self) -> VibeVoiceEngine:
        return new_engine()

    def make_plan(self) -> Plan:
        return Plan(
            (
                PlannedChunk((Turn(0, "Short."), Turn(1, "Very.")), seed=11),
                PlannedChunk((Turn(1, "And shorter."),), seed=12),
            ),
            (voice(), voice(200)),
            Options(steps=1),
        )


def speakers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vibevoice"]


def test_nothing_runs_before_a_speech_is_iterated_or_after() -> None:
    speech = engine().start(plan(TEXT))
    assert not speakers()
    for event in speech:
        assert isinstance(event, Frame)
        assert len(speakers()) == 1
        break
    assert not speakers()


class Gate:
    """Holds a method up in its first call until it is opened, and counts its calls."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.reached = threading.Event()
        self.opened = threading.Event()
        original = getattr(owner, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(args)
            self.reached.set()
            assert self.opened.wait(60)
            return original(*args, **kwargs)

        patch.setattr(owner, name, called)


class Reader(threading.Thread):
    """Reads a speech to its end in a thread."""

    def __init__(self, read: Callable[[], object]) -> None:
        super().__init__()
        self.read = read
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.read()
        except Exception as error:  # noqa: BLE001 - compared by the test
            self.outcome = error

    def result(self) -> Any:
        self.join(60)
        assert not self.is_alive()
        return self.outcome


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("waited in vain")


def waiting() -> int:
    runtime = engine()._loaded()
    assert isinstance(runtime, Reference)
    return len(runtime.line._waiting)


def test_a_cancel_is_seen_within_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Gate(monkeypatch, vibevoice.model().network, "sample_speech_tokens")
    speech = engine().start(plan(f"{TEXT} " * 9))

    def cancel() -> None:
        assert frame.reached.wait(60)
        speech.cancel()
        frame.opened.set()

    canceller = Reader(cancel)
    with pytest.raises(Cancelled):
        list(speech)
    assert canceller.result() is None
    assert len(frame.calls) == 1
    assert not speakers()


def test_jobs_take_turns_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model, began, turns = vibevoice.model(), threading.Event(), list[int]()
    original = model.speak

    def speak(chunk: PlannedChunk, *rest: Any) -> Any:
        turns.append(chunk.seed)
        began.set()
        if len(turns) < 5:  # the other one is back in line, however slowly its thread runs
            wait_for(lambda: waiting() == 1)
        return original(chunk, *rest)

    monkeypatch.setattr(model, "speak", speak)
    long = Reader(lambda: samples(engine().start(plan("A.", "B.", "C.", seed=1))))
    assert began.wait(60)
    short = Reader(lambda: samples(engine().start(plan("A.", "B.", seed=2))))
    assert len(long.result()) and len(short.result())
    assert turns == [1, 2, 1, 2, 1]


def test_a_waiting_job_is_cancelled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, vibevoice.model(), "speak")
    first = Reader(lambda: samples(engine().start(plan(TEXT))))
    assert gate.reached.wait(60)
    speech = engine().start(plan(TEXT))
    second = Reader(lambda: list(speech))
    wait_for(lambda: waiting() == 1)
    speech.cancel()
    assert isinstance(second.result(), Cancelled)
    assert (len(gate.calls), waiting()) == (1, 0)
    gate.opened.set()
    assert len(first.result())


def test_closing_ends_all_speeches_and_loading_brings_the_model_back() -> None:
    closed = new_engine()
    before = samples(closed.start(plan(TEXT)))
    reader = iter(closed.start(plan(f"{TEXT} " * 9)))
    next(reader)
    closed.close()
    assert not closed.ready
    with pytest.raises(Cancelled):
        list(reader)
    assert not speakers()
    closed.load()
    assert np.array_equal(samples(closed.start(plan(TEXT))), before)


def test_two_threads_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, importlib.import_module("engines.vibevoice.loader"), "load_model")
    loaded = new_engine()
    readers = [Reader(loaded.load) for _ in range(3)]
    assert gate.reached.wait(60)
    assert not loaded.ready
    gate.opened.set()
    assert [reader.result() for reader in readers] == [None] * 3
    assert loaded.ready
    assert len(gate.calls) == 1


def test_a_load_that_fails_fails_for_all_who_wait_and_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, go_on = threading.Event(), threading.Event()
    attempts: list[int] = []

    def fail(*_: object) -> None:
        attempts.append(1)
        started.set()
        assert go_on.wait(60)
        raise EngineError("the disk is on fire")

    loaded = new_engine()
    with monkeypatch.context() as patch:
        patch.setattr("engines.vibevoice.loader.load_model", fail)
        first = Reader(loaded.load)
        assert started.wait(60)
        second = Reader(loaded.load)
        wait_for(lambda: bool(loaded._loading and loaded._loading._condition._waiters))  # type: ignore[attr-defined]
        go_on.set()
        assert str(first.result()) == str(second.result()) == "the disk is on fire"
    assert len(attempts) == 1
    assert not loaded.ready
    loaded.load()
    assert loaded.ready


def speech_that_meets(error: Exception, own: VibeVoiceEngine, patch: pytest.MonkeyPatch) -> Speech:
    """A speech in whose second chunk upstream raises `error`."""
    own.load()
    network = vibevoice.model_of(own).network
    original = network.generate
    calls: list[None] = []

    def generate(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) > 1:
            raise error
        return original(*args, **kwargs)

    patch.setattr(network, "generate", generate)
    return own.start(plan(TEXT, TEXT))


@pytest.mark.parametrize(
    "error",
    [
        vibevoice.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_fails_the_job_and_frees_what_it_had(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    freed: list[None] = []
    monkeypatch.setattr("engines.vibevoice.model.free_memory", lambda: freed.append(None))
    own = new_engine()
    with pytest.raises(EngineError, match="ran out of memory: send a shorter text") as caught:
        samples(speech_that_meets(error, own, monkeypatch))
    assert not isinstance(caught.value, EngineLost)
    assert caught.value.__context__ is None, "it would keep the failed call's tensors alive"
    assert freed == [None]
    monkeypatch.undo()
    assert own.ready
    assert len(samples(own.start(plan(TEXT))))


@pytest.mark.parametrize(
    "error",
    [
        vibevoice.torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_poisoned_gpu_asks_for_another_worker(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    own = new_engine()
    with pytest.raises(EngineLost, match="the engine has to be replaced"):
        samples(speech_that_meets(error, own, monkeypatch))
    monkeypatch.undo()
    assert not own.ready
    with pytest.raises(EngineLost, match="has to be replaced"):
        own.load()
    with pytest.raises(EngineLost, match="has to be replaced"):
        own.start(plan(TEXT))


def test_any_other_error_reaches_the_reader_after_what_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speech = speech_that_meets(RuntimeError("shapes do not match"), new_engine(), monkeypatch)
    reader = iter(speech)
    assert sum(isinstance(event, End) for event in itertools.islice(reader, 15)) == 1
    with pytest.raises(RuntimeError, match="shapes do not match"):
        next(reader)
    assert not speakers()


def test_out_of_memory_while_loading_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise vibevoice.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    own = new_engine()
    with monkeypatch.context() as patch:
        patch.setattr("engines.vibevoice.loader._load_weights", load)
        with pytest.raises(EngineError, match="while it was loaded: set fewer MAX_SLOTS"):
            own.load()
    own.load()
