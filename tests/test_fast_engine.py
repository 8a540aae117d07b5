"""The fast runtime behind the engine wall, held against the reference on the paced checkpoint."""

import functools
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.base import End, Frame, Options, Plan, PlannedChunk, Samples, Speech, Turn
from engines.vibevoice.engine import VibeVoiceEngine
from engines.vibevoice.fast.batch import Batch
from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT, GraphShape
from engines.vibevoice.fast.runtime import FastRuntime
from engines.vibevoice.fast.sequence import halves
from request.errors import Cancelled, EngineError, EngineLost
from tests import vibevoice_fixtures as vibevoice
from tests.engine_contract import EngineContract, by_chunk, in_threads
from tests.vibevoice_fixtures import TEXT, plan, samples, voice
from text.chunks import spoken
from voices.catalogue import NO_VOICE

torch = vibevoice.torch
pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)

TWO = (voice(), voice(200))


def new_engine(slots: int | None = None, *, graphs: bool = True) -> VibeVoiceEngine:
    return VibeVoiceEngine(
        str(vibevoice.checkpoint()),
        volume=vibevoice.volume(),
        device="cpu",
        slots=slots,
        graphs=graphs,
    )


@functools.cache
def engine() -> VibeVoiceEngine:
    return vibevoice.engine("fast")


def batch_of(engine: VibeVoiceEngine) -> Batch:
    runtime = engine._loaded()
    assert isinstance(runtime, FastRuntime)
    return runtime.batch


@pytest.fixture
def own() -> Iterator[VibeVoiceEngine]:
    """An engine that a test may break."""
    made = new_engine()
    made.load()
    yield made
    made.close()


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
            TWO,
            Options(steps=1),
        )


class TestContractOfMixedShapes(TestContract):
    """Chunks whose seed nobody asked for run in whatever graph shape is cheapest."""

    deterministic = False

    def make_plan(self) -> Plan:
        usual = super().make_plan()
        return Plan(usual.chunks, usual.voices, Options(steps=1, repeatable=False))


def assert_close(one: Samples, other: Samples, bound: float = 1e-4) -> None:
    """Equal lengths, and relative root mean square of the difference below the bound."""
    assert one.shape == other.shape
    assert np.sqrt(np.mean((one - other) ** 2)) < bound * np.sqrt(np.mean(other**2))


def assert_as_reference(request: Plan) -> list[Frame | End]:
    ours, theirs = list(engine().start(request)), list(vibevoice.engine().start(request))
    spoken, wanted = by_chunk(ours), by_chunk(theirs)
    assert spoken.keys() == wanted.keys()
    for chunk, heard in wanted.items():
        if len(heard):
            assert_close(spoken[chunk], heard)
    ends = {event for event in theirs if isinstance(event, End)}
    assert {event for event in ours if isinstance(event, End)} == ends
    return ours


@pytest.mark.parametrize(
    "request_",
    [
        plan(TEXT),
        plan(TEXT, seed=8, attempt=2),
        plan(TEXT, voices=(voice(200, 2.03),), attempt=3),
        plan(TEXT, voices=(NO_VOICE,)),
        plan(TEXT, voices=(NO_VOICE,), attempt=2),
        plan(TEXT, options=Options(steps=10, cfg_scale=2.5)),
        plan(TEXT, options=Options(steps=3, disable_prefill=True)),
        plan(TEXT, options=Options(steps=2, disable_prefill=True), attempt=2),
        plan(TEXT, options=Options(steps=1)),
        plan(TEXT, "More of it.", options=Options(steps=2, frames_per_token=0.1, min_frames=5)),
        plan("One.", TEXT, "", "Four has more to say.", "... !?", "Six."),
        plan(
            (Turn(0, "I have none."), Turn(1, "I have one."), Turn(2, "Nor have I.")),
            voices=(NO_VOICE, voice(), NO_VOICE),
        ),
        plan(
            (Turn(0, "Hello there."), Turn(3, "How are you?"), Turn(1, "I am fine.")),
            (Turn(2, "Today?"), Turn(0, "There."), Turn(2, "Yes.")),
            voices=(voice(90, 0.41), voice(120, 1.1), voice(150, 0.7), voice(200, 0.9)),
        ),
    ],
)
def test_what_comes_is_what_the_reference_makes(request_: Plan) -> None:
    assert_as_reference(request_)


SENTENCES = (
    "Hello there, how are you today?",
    "I am fine.",
    "The first train leaves at six.",
    "And the second?",
    "Nobody knows.",
    "It was raining: the streets were empty!",
)


def test_thirty_texts_end_where_the_reference_ends_them() -> None:
    """Free-running: every token is our own choice."""
    texts = [
        " ".join(SENTENCES[(start + at) % 6] for at in range(1 + start % 3)) for start in range(30)
    ]
    assert_as_reference(plan(*texts, options=Options(steps=2)))


def test_a_chunk_comes_out_the_same_to_the_bit_whatever_else_runs() -> None:
    alone = by_chunk(list(engine().start(plan(TEXT, "And more of it."))))
    together: dict[int, dict[int, Samples]] = {}

    def speak(number: int) -> None:
        asked = plan(TEXT, "And more of it.") if number == 1 else plan(*[TEXT] * 4, seed=number)
        together[number] = by_chunk(list(engine().start(asked)))

    in_threads(3, speak)
    assert all(np.array_equal(alone[chunk], together[1][chunk]) for chunk in alone)


def test_without_a_seed_of_ones_own_only_rounding_may_differ() -> None:
    loose = Options(steps=2, repeatable=False)
    exact = by_chunk(list(engine().start(plan(TEXT, "More."))))
    ours = by_chunk(list(engine().start(plan(TEXT, "More.", options=loose))))
    for chunk, heard in exact.items():
        assert_close(ours[chunk], heard)


def test_chunks_run_side_by_side_and_each_comes_in_order() -> None:
    own = new_engine(slots=3)
    events = list(own.start(plan(*[TEXT] * 7)))
    first_end = next(at for at, event in enumerate(events) if isinstance(event, End))
    assert {event.chunk for event in events[:first_end]} == {0, 1, 2}
    heard = by_chunk(events)
    assert all(np.array_equal(heard[0], heard[chunk]) for chunk in range(7))
    own.close()


def test_more_slots_change_nothing_but_the_rounding() -> None:
    wanted = by_chunk(list(engine().start(plan(TEXT, "More.", "And more of it."))))
    for slots in (1, 8):
        own = new_engine(slots)
        heard = by_chunk(list(own.start(plan(TEXT, "More.", "And more of it."))))
        own.close()
        for chunk, samples_ in wanted.items():
            assert_close(heard[chunk], samples_)


class Counted:
    """Counts the calls of a method."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.count = 0
        original = getattr(owner, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return original(*args, **kwargs)

        patch.setattr(owner, name, called)


def test_a_known_voice_costs_no_encoder_run_and_sounds_the_same(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(own)
    heard = Counted(monkeypatch, batch.voices, "listen")
    read = Counted(monkeypatch, batch.step.language, "prefill")
    first = samples(own.start(plan(TEXT, voices=TWO)))
    assert (heard.count, read.count) == (2, 2)
    again = samples(own.start(plan(TEXT, voices=TWO)))
    assert (heard.count, read.count) == (2, 3), "only what follows the voices is read"
    assert np.array_equal(first, again)
    samples(own.start(plan(TEXT, voices=TWO, seed=8)))
    assert (heard.count, read.count) == (2, 5), "another seed is another sample of the same voices"
    samples(own.start(plan(TEXT, "More.", "And more.", voices=(TWO[1],))))
    assert (heard.count, read.count) == (2, 9), "chunks of a job share what stands before them"


def test_a_voice_that_was_forgotten_sounds_the_same(own: VibeVoiceEngine) -> None:
    known = batch_of(own).voices
    first = samples(own.start(plan(TEXT)))
    assert known.used > 0
    known._known.clear()
    assert known.used == 0
    assert np.array_equal(samples(own.start(plan(TEXT))), first)


def test_a_cache_without_room_holds_nothing_but_what_is_in_use(own: VibeVoiceEngine) -> None:
    known = batch_of(own).voices
    known._known.most = 0
    assert len(samples(own.start(plan(TEXT, "More.", voices=TWO))))
    assert known.used == 0


@pytest.mark.parametrize("words", ["", "   \n ", "... !?"])
def test_a_text_without_words_is_empty_and_needs_no_slot(words: str) -> None:
    assert list(engine().start(plan(words))) == [End(0, "empty", 7)]


def test_a_chunk_of_which_nothing_comes_is_empty(own: VibeVoiceEngine) -> None:
    batch = batch_of(own)
    ends = batch.tokens.choices.index(batch.tokens.eos)
    with torch.inference_mode():
        batch.state.preference[:, ends] = 1e6
    assert list(own.start(plan(TEXT))) == [End(0, "empty", 7)]


def test_a_prompt_that_fills_the_context_is_refused_and_the_next_one_served() -> None:
    with pytest.raises(EngineError, match=r"context of 8192 tokens.*MAX_CHUNK_CHARS"):
        samples(engine().start(plan("Short.", "word " * 9000)))
    assert len(samples(engine().start(plan(TEXT))))


def test_a_longer_chunk_than_slots_hold_makes_them_hold_it(own: VibeVoiceEngine) -> None:
    batch = batch_of(own)
    before = samples(own.start(plan(TEXT)))
    reading = iter(
        own.start(plan(f"{TEXT} " * 9, seed=3, options=Options(steps=2, repeatable=False)))
    )
    next(reading)
    long = plan("word " * 700, options=Options(steps=1, min_frames=3, frames_per_token=0.001))
    assert batch.state.capacity == 2048
    heard = samples(own.start(long))
    assert batch.state.capacity == 4096
    assert_close(heard, samples(vibevoice.engine().start(long)))
    others = [event.samples for event in reading if isinstance(event, Frame)]
    wanted = samples(vibevoice.engine().start(plan(f"{TEXT} " * 9, seed=3)))
    assert_close(np.concatenate(others), wanted[3200:])
    assert np.array_equal(samples(own.start(plan(TEXT))), before), "in its shape as before"


@pytest.mark.parametrize("where", ["step", "state"])
def test_where_slots_could_not_be_made_longer_the_next_try_makes_all_of_them_longer(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    batch = batch_of(own)
    long = plan("word " * 700, options=Options(steps=1, min_frames=3, frames_per_token=0.001))
    meet(MEMORY, getattr(batch, where), "grow", monkeypatch, after=0)
    with pytest.raises(EngineError, match="ran out of memory"):
        samples(own.start(long))
    assert len(samples(own.start(plan(TEXT))))
    assert_close(samples(own.start(long)), samples(vibevoice.engine().start(long)))
    assert batch.state.capacity == 4096


def test_a_chunk_for_which_there_is_no_room_is_spoken_in_parts(own: VibeVoiceEngine) -> None:
    """As if each part had been a chunk of its own with the same seed."""
    batch = batch_of(own)
    batch.preprocessor._longest = 2048
    short = Options(steps=1, min_frames=3, frames_per_token=0.001)
    long = Turn(0, "word " * 700)
    events = list(own.start(plan((long,), "More.", options=short)))
    assert batch.state.capacity == 2048
    ends = [event for event in events if isinstance(event, End)]
    assert sorted(end.chunk for end in ends) == [0, 1]
    parts = [tuple(part) for part in halves(spoken([long]), 2048)]
    wanted = by_chunk(list(own.start(plan(*parts, options=short))))
    assert np.array_equal(by_chunk(events)[0], np.concatenate([wanted[0], wanted[1]]))


def test_a_step_is_read_from_the_slots_that_it_was_launched_for(own: VibeVoiceEngine) -> None:
    """The next part of a chunk may run elsewhere by then, where somebody else has just spoken."""
    batch = batch_of(own)
    own.close()  # its loop captures graphs while nobody speaks
    (sequence,) = batch.preprocessor.sequences(plan(TEXT))
    assert sequence is not None
    lease = batch.lease()
    sequence.slot = 1
    batch.admit(sequence, lease)
    step = batch.launch(GraphShape(2, FIXED_CONTEXT, sequence.steps), {1: sequence})
    sequence.slot = 0
    assert [output.sequence for output in batch.read(step)] == [sequence]
    sequence.slot = 1
    batch.release(sequence, wipe=True)
    lease.release()


def frames_made(batch: Batch, patch: pytest.MonkeyPatch) -> Counted:
    return Counted(patch, batch.graphs, "run")


def test_a_cancel_is_seen_within_one_frame(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = frames_made(batch_of(own), monkeypatch)
    speech = own.start(plan(f"{TEXT} " * 9))
    reader = iter(speech)
    next(reader)
    speech.cancel()
    seen = made.count
    with pytest.raises(Cancelled):
        next(reader)
    assert len(samples(own.start(plan("More.", options=Options(steps=2)))))
    rest = made.count
    assert rest - seen < 20, "the long one would take many more"


def test_nothing_runs_once_all_is_said(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = frames_made(batch_of(own), monkeypatch)
    samples(own.start(plan(TEXT)))
    seen = made.count
    for _ in range(6000):
        if not batch_of(own).state.active.any():
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    assert made.count == seen
    assert not batch_of(own).state.active.any()


def meet(error: Exception, owner: Any, name: str, patch: pytest.MonkeyPatch, after: int) -> None:
    """Lets a method fail in a later call, once."""
    original = getattr(owner, name)
    calls = iter(range(10**6))

    def called(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == after:
            raise error
        return original(*args, **kwargs)

    patch.setattr(owner, name, called)


MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
BROKEN = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("where", ["frame", "admission"])
def test_out_of_memory_fails_the_job_and_the_next_one_works(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    batch = batch_of(own)
    freed: list[None] = []
    monkeypatch.setattr("engines.vibevoice.fast.loop.free_memory", lambda: freed.append(None))
    owner: Any = batch.graphs if where == "frame" else batch.step.language
    meet(MEMORY, owner, "run" if where == "frame" else "prefill", monkeypatch, after=2)
    with pytest.raises(EngineError, match="ran out of memory: send a shorter text") as caught:
        samples(own.start(plan(TEXT, "More.", "And more.")))
    assert not isinstance(caught.value, EngineLost)
    assert caught.value.__context__ is None, "it would keep the failed call's tensors alive"
    assert own.ready
    wanted = samples(engine().start(plan(TEXT)))
    assert np.array_equal(samples(own.start(plan(TEXT))), wanted)
    assert freed == [None]  # only now: memory is given back after the reader was told


def test_a_poisoned_gpu_asks_for_another_worker(
    own: VibeVoiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet(BROKEN, batch_of(own).graphs, "run", monkeypatch, after=3)
    assert not own.lost
    with pytest.raises(EngineLost, match="the engine has to be replaced"):
        samples(own.start(plan(TEXT)))
    assert (own.ready, own.lost) == (False, True)
    calls: list[Callable[[], object]] = [own.load, lambda: own.start(plan(TEXT))]
    for call in calls:
        with pytest.raises(EngineLost, match="has to be replaced"):
            call()


def test_samples_that_are_no_numbers_fail_their_job_and_leave_the_slot_clean(
    own: VibeVoiceEngine,
) -> None:
    batch = batch_of(own)
    kept = batch.step.weights.decoder.head[1].clone()
    with torch.inference_mode():
        batch.step.weights.decoder.head[1].fill_(float("nan"))
    with pytest.raises(EngineError, match="weights are damaged"):
        samples(own.start(plan(TEXT)))
    with torch.inference_mode():
        batch.step.weights.decoder.head[1].copy_(kept)
    assert np.array_equal(samples(own.start(plan(TEXT))), samples(engine().start(plan(TEXT))))


def test_closing_ends_all_speeches_and_loading_brings_the_model_back(
    own: VibeVoiceEngine,
) -> None:
    before = samples(own.start(plan(TEXT)))
    reader = iter(own.start(plan(f"{TEXT} " * 9)))
    next(reader)
    own.close()
    assert not own.ready
    with pytest.raises(Cancelled):
        list(reader)
    own.load()
    assert np.array_equal(samples(own.start(plan(TEXT))), before)


def test_details_say_what_speaks_and_in_which_graph_shape_a_seed_repeats() -> None:
    details = engine().capabilities.details
    assert (details["runtime"], details["device"], details["dtype"]) == ("fast", "cpu", "float32")
    assert (details["attention"], details["graph_shape"]) == ("sdpa", "4x2048")
    assert re.fullmatch(r"1\.\d million parameters", details["weights"])
    assert "convolutions" not in details, "off CUDA nothing is chosen"


def test_attention_is_never_cudnns_which_is_planned_anew_for_every_prompt() -> None:
    engine()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_the_best_number_of_jobs_is_a_quarter_of_the_slots() -> None:
    assert engine().capabilities.jobs == 2
    assert new_engine(slots=32).capabilities.jobs == 8
    assert vibevoice.engine().capabilities.jobs == 1


def test_what_the_fast_runtime_cannot_run_the_reference_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = VibeVoiceEngine(
        str(vibevoice.checkpoint()), volume=vibevoice.volume(), device="cpu", attention="flash"
    )
    with caplog.at_level(logging.WARNING, "vibevoice"):
        other.load()
    assert "the reference runtime is used: flash-attn has no kernel" in caplog.text
    details = other.capabilities.details
    assert details["runtime"] == "reference"
    assert details["fallback"].startswith("flash-attn has no kernel")
    assert_close(samples(other.start(plan(TEXT))), samples(engine().start(plan(TEXT))))
    other.close()


def test_no_word_of_a_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        samples(engine().start(plan("Zanzibar is\nsecret", "<|vision_pad|> Zanzibar")))
    assert "Zanzibar" not in caplog.text


def test_a_slow_reader_costs_memory_a_bounded_amount_and_others_nothing(
    own: VibeVoiceEngine,
) -> None:
    slow: Speech = own.start(plan(*[f"{TEXT} {TEXT}"] * 20, options=Options(steps=1)))
    reader = iter(slow)
    first = next(reader)
    assert len(samples(own.start(plan(TEXT))))
    frames: Any = slow._frames  # type: ignore[attr-defined]
    while not frames._finished:
        threading.Event().wait(0.01)
    assert len(frames._near) in (255, 256)  # 255 where it was full before the first was read
    assert len(frames._far) > 50
    events = [first, *reader]
    assert sum(isinstance(event, End) for event in events) == 20
    heard = by_chunk(events)
    assert all(np.array_equal(heard[0], heard[chunk]) for chunk in heard)


# What only a GPU does, done on a CPU


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Iterator[VibeVoiceEngine]:
    """As on a GPU: bfloat16, contexts in powers of two, every frame read while the next is made."""
    monkeypatch.setattr("engines.vibevoice.fast.runtime.dtype_for", lambda _: torch.bfloat16)
    monkeypatch.setattr("engines.vibevoice.fast.launcher._CPU_CONTEXT_STEP", None)
    made = new_engine(slots=3)
    made.load()
    batch_of(made).lag = 1
    yield made
    made.close()


def test_half_precision_speaks_through_the_whole_runtime(half: VibeVoiceEngine) -> None:
    events = list(half.start(plan(TEXT, "More.", "And more of it.", voices=TWO)))
    assert [event.reason for event in events if isinstance(event, End)] == ["eos"] * 3
    for heard in by_chunk(events).values():
        assert heard.dtype == np.float32
        assert heard.any()
        rounded = torch.from_numpy(heard).bfloat16().float().numpy()
        assert np.array_equal(heard, rounded), "samples are those that the model made"


def test_a_frame_that_is_read_late_changes_no_bit(half: VibeVoiceEngine) -> None:
    """Chunks end and others take their slots while a frame is under way."""
    short = Options(steps=2, frames_per_token=0.1, min_frames=5)
    requests = [plan(TEXT, "More.", "", TEXT, "One.", TEXT), plan(*[TEXT] * 5, options=short)]
    for request in requests:
        batch_of(half).lag = 0
        at_once = list(half.start(request))
        batch_of(half).lag = 1
        late = list(half.start(request))
        heard, wanted = by_chunk(late), by_chunk(at_once)
        assert heard.keys() == wanted.keys()
        assert all(np.array_equal(heard[chunk], wanted[chunk]) for chunk in wanted)
        ends = {event for event in at_once if isinstance(event, End)}
        assert {event for event in late if isinstance(event, End)} == ends
