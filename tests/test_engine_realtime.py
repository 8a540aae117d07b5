"""VibeVoice-Realtime behind the engine wall, on a tiny model that ends its texts by itself."""

import functools
import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from engines.base import (
    End,
    Frame,
    GrowingSpeech,
    Options,
    Plan,
    PlannedChunk,
    Samples,
    Turn,
    Voice,
)
from engines.realtime.engine import RealtimeEngine
from engines.realtime.runtime import Runtime
from engines.realtime.text import TokenFeed
from engines.subprocess import SubprocessEngine
from request.errors import Cancelled, EngineError, VoiceError
from tests import vibevoice_fixtures as vibevoice
from tests.engine_contract import EngineContract, by_chunk, in_threads
from tests.tiny_realtime import PACE, VOICES, tiny_realtime

pytestmark = pytest.mark.realtime

TEXT = "Hello there, how are you today? I am fine, and it is \u2018late\u2019: see you..."
_FOLDER = tempfile.TemporaryDirectory(prefix="realtime-tests-")


@functools.cache
def checkpoint() -> Path:
    return tiny_realtime(Path(_FOLDER.name, "tiny"))


def new_engine(**options: Any) -> RealtimeEngine:
    options.setdefault("presets", checkpoint() / "presets")
    # A process uses one copy of upstream's code: that of the other tests.
    options.setdefault("code", vibevoice.volume() / "vibevoice")
    return RealtimeEngine(str(checkpoint()), device="cpu", **options)


@functools.cache
def engine() -> RealtimeEngine:
    return new_engine()


@pytest.fixture
def own() -> Iterator[RealtimeEngine]:
    made = new_engine()
    made.load()
    yield made
    made.close()


def plan(
    *texts: str, voice: str = VOICES[0], grows: bool = False, options: Options | None = None
) -> Plan:
    chunks = tuple(PlannedChunk((Turn(0, text),), seed=7) for text in texts)
    return Plan(chunks, (Voice(voice),), options or Options(steps=2), grows)


def runtime_of(engine: RealtimeEngine) -> Runtime:
    runtime = engine._loaded()
    assert isinstance(runtime, Runtime)
    return runtime


class TestContract(EngineContract):
    has_model = True

    def make_engine(self) -> RealtimeEngine:
        return new_engine()

    def make_plan(self) -> Plan:
        voices = tuple(map(Voice, VOICES))
        return Plan(
            (
                PlannedChunk((Turn(0, "Short."), Turn(1, "Very.")), seed=11),
                PlannedChunk((Turn(1, "And shorter."),), seed=12),
            ),
            voices,
            Options(steps=1),
        )


# Text that grows


def grown(
    pieces: list[str], engine: RealtimeEngine | None = None, options: Options | None = None
) -> list[Frame | End]:
    """What comes of pieces, all of which are fed before anything is read but the first."""
    first, *rest = pieces or [""]
    speech = growing(first, engine, options)
    for piece in rest:
        speech.feed(piece)
    speech.finish()
    return list(speech)


def growing(
    text: str, engine_: RealtimeEngine | None = None, options: Options | None = None
) -> GrowingSpeech:
    speech = (engine_ or engine()).start(plan(text, grows=True, options=options))
    assert isinstance(speech, GrowingSpeech)
    return speech


def heard(events: list[Frame | End]) -> Samples:
    return by_chunk(events)[0]


@functools.cache
def whole() -> list[Frame | End]:
    return list(engine().start(plan(TEXT)))


def cut_at(places: list[int]) -> list[str]:
    edges = [0, *sorted(places), len(TEXT)]
    return [TEXT[start:end] for start, end in pairwise(edges)]


@settings(max_examples=200)
@given(st.lists(st.integers(0, len(TEXT)), max_size=30))
@example(list(range(len(TEXT))))
def test_the_tokens_of_a_text_do_not_depend_on_how_it_is_split(places: list[int]) -> None:
    encode = runtime_of(engine()).encode
    feed = TokenFeed(encode, grows=True)
    taken: list[int] = []
    for piece in cut_at(places):
        feed.feed(piece)
        while feed.unread >= 5:
            taken += feed.take(5)
    feed.finish()
    taken += feed.take(1000)
    plain = TEXT.translate({0x2018: "'", 0x2019: "'"})
    assert taken == encode(plain + "\n")


@settings(max_examples=200)
@given(st.text(st.sampled_from(" \n\ta.,'7\u00e9\u0301\u4e00!"), max_size=40), st.data())
def test_no_text_has_other_tokens_when_it_is_split(text: str, data: st.DataObject) -> None:
    encode = runtime_of(engine()).encode
    feed = TokenFeed(encode, grows=True)
    at = 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        feed.feed(text[at : at + size])
        at += size
    feed.finish()
    one = TokenFeed(encode, text)
    assert feed.take(1000) == one.take(1000)
    if any(char.isalnum() for char in text):
        assert one._tokens == encode(" ".join(text.split()) + "\n")


@functools.cache
def one_slot() -> RealtimeEngine:
    return new_engine(slots=1)


SHORT = Options(steps=1, frames_per_token=0, min_frames=7, repeatable=False)


def assert_as_whole(places: list[int]) -> None:
    known = heard(list(one_slot().start(plan(TEXT, options=SHORT))))
    assert np.array_equal(heard(grown(cut_at(places), one_slot(), SHORT)), known)


@settings(max_examples=40)
@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_speech_of_a_text_that_comes_in_pieces_is_that_of_the_whole_to_the_bit(
    places: list[int],
) -> None:
    assert_as_whole(places)


@pytest.mark.soak
@settings(max_examples=200)
@given(st.lists(st.integers(0, len(TEXT)), max_size=30))
def test_two_hundred_splits_are_spoken_as_the_whole(places: list[int]) -> None:
    assert_as_whole(places)


def test_text_that_comes_while_it_is_spoken_changes_no_bit() -> None:
    speech = growing("")
    words = [f"{word} " for word in TEXT.split(" ")]

    def write() -> None:
        for word in words:
            speech.feed(word)
            threading.Event().wait(0.03)
        speech.finish()

    writer = threading.Thread(target=write)
    writer.start()
    events = list(speech)
    writer.join()
    assert np.array_equal(heard(events), heard(whole()))


def test_sound_begins_with_five_tokens_and_a_text_that_starves_is_not_sampled(
    own: RealtimeEngine,
) -> None:
    runtime = runtime_of(own)
    steps = runtime.batch.graphs
    speech = growing("a b ", own)
    reader = iter(speech)
    first: list[Frame | End] = []
    reading = threading.Thread(target=lambda: first.append(next(reader)))
    reading.start()
    reading.join(0.3)
    assert reading.is_alive(), "two words are too few"
    assert steps.eager == 0
    speech.feed("c d e f ")
    reading.join(60)
    assert len(first) == 1
    windows = len(runtime.encode("a b c d e f")) // 5
    for _ in range(1000):
        if steps.eager == windows * (1 + 6):
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.1)
    assert steps.eager == windows * (1 + 6), "a step of text and six frames a window, and no more"
    assert len(heard(list(own.start(plan("Others speak meanwhile.")))))
    speech.finish()
    rest = list(reader)
    assert np.array_equal(heard([*first, *rest]), heard(list(own.start(plan("a b c d e f")))))


def test_a_text_that_starves_holds_no_slot_that_another_needs() -> None:
    asked = plan("Others speak meanwhile.")
    short, known = (heard(list(one_slot().start(each))) for each in (asked, plan(TEXT)))
    speech, beside = growing(TEXT[:30], one_slot()), growing(TEXT[:30], one_slot())
    reader, other = iter(speech), iter(beside)
    first = [next(reader) for _ in range(6)]
    others = [next(other) for _ in range(6)]  # the first has left the only slot
    assert np.array_equal(heard(list(one_slot().start(asked))), short)
    speech.feed(TEXT[30:])
    speech.finish()
    assert np.array_equal(heard([*first, *reader]), known)
    beside.cancel()
    with pytest.raises(Cancelled):
        others += list(other)
    assert np.array_equal(heard(list(one_slot().start(plan(TEXT)))), known)


def test_a_text_without_words_is_empty_however_it_comes() -> None:
    end = End(0, "empty", 7)
    assert list(engine().start(plan("... !?"))) == [end]
    assert grown(["..", ". ", "!", "?"]) == [end]
    assert grown([]) == [end]


def test_a_text_that_waits_is_cancelled_at_once() -> None:
    speech = growing("a b c d e f ")
    reader = iter(speech)
    for _ in range(6 * (len(runtime_of(engine()).encode("a b c d e f")) // 5)):
        next(reader)
    threading.Timer(0.1, speech.cancel).start()
    with pytest.raises(Cancelled):
        next(reader)
    assert np.array_equal(heard(grown([TEXT])), heard(whole()))


def test_in_a_process_of_its_own_text_grows_as_well(tmp_path: Path) -> None:
    from config import Settings

    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "presets").symlink_to(checkpoint() / "presets")
    env = {"REALTIME_MODEL_PATH": str(checkpoint()), "VIBEVOICE_VOLUME": str(volume)}
    other = SubprocessEngine("realtime", Settings.from_env(env).engine_settings)
    try:
        speech = other.start(plan("", grows=True))
        assert isinstance(speech, GrowingSpeech)
        speech.feed(TEXT[:7])
        threading.Timer(0.2, speech.feed, [TEXT[7:]]).start()
        threading.Timer(1.0, speech.finish).start()
        assert np.array_equal(heard(list(speech)), heard(whole()))
        assert other.capabilities.streaming_text
    finally:
        other.close()


# The end


def test_a_text_ends_by_its_pace() -> None:
    events = whole()
    assert events[-1] == End(0, "eos", 7)
    tokens = len(runtime_of(engine()).encode(TEXT + "\n"))
    assert 6 * tokens / 5 < len(events) - 1 < 2 * PACE * tokens, "behind all of its text"


def ends_at(engine: RealtimeEngine, frames: set[int], patch: pytest.MonkeyPatch) -> None:
    """Lets the classifier say an end after these frames, from 1, and none before the last."""
    step = runtime_of(engine).batch.step
    classifier, calls = step.weights.classifier, iter(range(1, 10**6))

    def says(_: Any, hidden: Any) -> Any:
        return (classifier.first[0, 0] == classifier.first[0, 0]).repeat(len(hidden)) & (
            next(calls) in frames
        )

    patch.setattr(type(classifier), "__call__", says)


@pytest.mark.parametrize(
    ("frames", "put_offs", "made", "reason"),
    [
        ({3}, 0, 3, "early"),
        ({3}, 1, 60, "eos"),
        ({3, 4, 5, 60}, 1, 60, "eos"),
        ({3, 9}, 1, 9, "early"),
        ({3, 9}, 2, 60, "eos"),
    ],
)
def test_an_end_before_the_text_is_put_off_as_often_as_it_may(
    monkeypatch: pytest.MonkeyPatch, frames: set[int], put_offs: int, made: int, reason: str
) -> None:
    own = new_engine(put_offs=put_offs)
    ends_at(own, frames | {60}, monkeypatch)
    events = list(own.start(plan("a b c d e f g h i j k l m n o p q r s t u v w x y z")))
    own.close()
    assert (len(events) - 1, events[-1]) == (made, End(0, reason, 7))  # type: ignore[arg-type]


def test_ends_that_were_put_off_are_counted(
    own: RealtimeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_at(own, {2, 60}, monkeypatch)
    list(own.start(plan("a b c d e f g h i j k l m")))
    assert own.capabilities.figures["ends_put_off"] == 1


def test_a_limit_cuts_a_text() -> None:
    few = Options(steps=1, frames_per_token=0, min_frames=3)
    events = list(engine().start(plan(TEXT, options=few)))
    assert (len(events) - 1, events[-1]) == (3, End(0, "cap", 7))


# Voices


def test_the_presets_are_the_voices_and_two_of_them_differ() -> None:
    capabilities = engine().capabilities
    assert capabilities.voices == VOICES
    assert not capabilities.cloning
    one, other = (heard(list(engine().start(plan(TEXT, voice=name)))) for name in VOICES)
    assert len(one) != len(other) or not np.array_equal(one, other)


def test_a_voice_that_nobody_knows_is_told_with_those_that_are_there() -> None:
    with pytest.raises(VoiceError, match=r"no voice 'Nobody'.*en-Carter_man, en-Emma_woman"):
        list(engine().start(plan(TEXT, voice="Nobody")))


def test_a_recording_is_refused_with_the_reason() -> None:
    recording = Voice("mine", np.zeros(24_000, np.float32), "sha")
    with pytest.raises(VoiceError, match=r"without the encoder.*a model that clones"):
        list(engine().start(replace(plan(TEXT), voices=(recording,))))


def test_a_damaged_preset_is_told_and_the_next_text_is_spoken(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    (tmp_path / "broken.json").write_text("{}")
    for name in VOICES:
        for suffix in (".safetensors", ".json"):
            (tmp_path / f"{name}{suffix}").symlink_to(checkpoint() / "presets" / f"{name}{suffix}")
    own = new_engine(presets=tmp_path)
    with pytest.raises(EngineError, match="broken cannot be read: convert it again"):
        list(own.start(plan(TEXT, voice="broken")))
    assert np.array_equal(heard(list(own.start(plan(TEXT)))), heard(whole()))
    own.close()


# The checkpoint


def refused(folder: Path, words: str, **changes: Any) -> None:
    config = json.loads((checkpoint() / "config.json").read_text())
    folder.mkdir()
    for file in checkpoint().iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(EngineError, match=words):
        RealtimeEngine(str(folder), device="cpu").check()


def test_another_model_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    refused(
        tmp_path / "one", "this is no VibeVoice-Realtime but 'vibevoice'", model_type="vibevoice"
    )
    decoder = json.loads((checkpoint() / "config.json").read_text())["decoder_config"]
    wide = {**decoder, "intermediate_size": 96}
    refused(tmp_path / "two", "are not of one model", decoder_config=wide)
    deep = {**decoder, "num_hidden_layers": 9}
    refused(tmp_path / "three", "has no model.language_model.layers.1", decoder_config=deep)


def test_many_speak_side_by_side_and_sound_as_they_do_alone() -> None:
    events: dict[int, Samples] = {}

    def speak(number: int) -> None:
        events[number] = heard(grown([TEXT[:20], TEXT[20:]]))

    in_threads(6, speak)
    assert all(np.array_equal(each, heard(whole())) for each in events.values())
