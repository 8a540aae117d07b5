"""VibeVoice's reference engine, with upstream's real code and tiny weights."""

import functools
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from engines.base import End, Frame, Options, Samples, Turn, Voice
from engines.vibevoice.engine import VibeVoiceEngine
from request.errors import EngineError
from tests import vibevoice_fixtures as vibevoice
from tests.vibevoice_fixtures import TEXT, engine, plan, samples, voice
from voices.catalogue import NO_VOICE, VoiceMapper

pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)


@functools.cache
def usual() -> Samples:
    return samples(engine().start(plan(TEXT)))


def network() -> Any:
    return vibevoice.model().network


class Calls:
    """What a method of upstream's gave, call by call, and the seed that was set then."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.results: list[Any] = []
        self.seeds: list[int] = []
        original = getattr(owner, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            self.seeds.append(vibevoice.torch.initial_seed())
            self.results.append(original(*args, **kwargs))
            return self.results[-1]

        patch.setattr(owner, name, called)


def test_two_sentences_come_frame_by_frame_and_end_by_themselves() -> None:
    events = list(engine().start(plan(TEXT)))
    frames = [event for event in events if isinstance(event, Frame)]
    assert events[-1] == End(0, "eos", 7)
    assert len(frames) == len(events) - 1 > 10
    assert all(frame.samples.shape == (3200,) for frame in frames)
    assert all(frame.samples.dtype == np.float32 for frame in frames)
    assert 0.05 < np.concatenate([frame.samples for frame in frames]).std() < 0.5


def test_longer_texts_take_more_frames() -> None:
    longer = samples(engine().start(plan(f"{TEXT} {TEXT}")))
    assert len(longer) > len(usual()) + 3200 * 2


def test_the_same_plan_gives_the_same_samples_whatever_ran_before() -> None:
    first = usual()
    samples(engine().start(plan("Something else.", voices=(voice(200),), seed=1)))
    vibevoice.torch.randn(17)
    assert np.array_equal(first, samples(engine().start(plan(TEXT))))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"voices": (voice(200),)},
        {"voices": (NO_VOICE,)},
        {"options": Options(steps=3)},
        {"options": Options(steps=2, cfg_scale=2.5)},
        {"options": Options(steps=2, disable_prefill=True)},
        {"attempt": 2},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_option_reaches_the_model(change: dict[str, Any]) -> None:
    heard = samples(engine().start(plan(TEXT, **change)))
    length = min(len(usual()), len(heard))
    assert length > 10 * 3200
    assert not np.array_equal(usual()[:length], heard[:length])


def test_a_few_words_are_guided_more_unless_the_job_names_a_guidance() -> None:
    def ok(scale: float, *, cfg_is_default: bool) -> Samples:
        options = Options(scale, steps=2, cfg_is_default=cfg_is_default)
        return samples(engine().start(plan("OK", options=options)))

    assert np.array_equal(ok(1.3, cfg_is_default=True), ok(3, cfg_is_default=False))
    assert not np.array_equal(ok(1.3, cfg_is_default=True), ok(1.3, cfg_is_default=False))


def test_all_chunks_of_a_request_get_the_same_voices_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampled = Calls(monkeypatch, network(), "_process_speech_inputs")
    request = plan(
        (Turn(0, "The first one."),),
        (Turn(1, "The second one."), Turn(0, "And more.")),
        (Turn(1, "The third."),),
        voices=(voice(), voice(200)),
    )
    ends = [event for event in engine().start(request) if isinstance(event, End)]
    assert [end.reason for end in ends] == ["eos"] * 3
    (features, embedded), *others = sampled.results
    assert len(others) == 2
    for other_features, other_embedded in others:
        assert vibevoice.torch.equal(features, other_features)
        assert vibevoice.torch.equal(embedded, other_embedded)
    assert sampled.seeds == [7, 7, 7]


def test_a_chunk_comes_out_the_same_alone_as_among_others() -> None:
    events = list(engine().start(plan("One.", TEXT, "Three.")))
    second = [event.samples for event in events if isinstance(event, Frame) and event.chunk == 1]
    assert np.array_equal(np.concatenate(second), usual())


def test_another_attempt_keeps_the_voices_sample_and_changes_the_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampled = Calls(monkeypatch, network(), "_process_speech_inputs")
    latents = Calls(monkeypatch, network(), "sample_speech_tokens")
    spoken = []
    starts = []
    for attempt in (1, 2, 3, 2):
        starts.append(len(latents.results))
        spoken.append(samples(engine().start(plan(TEXT, attempt=attempt))))
    first = sampled.results[0][1]
    assert all(vibevoice.torch.equal(first, embedded) for _, embedded in sampled.results)
    noises = [latents.results[start] for start in starts]
    assert not any(vibevoice.torch.equal(noises[0], noise) for noise in noises[1:])
    assert not vibevoice.torch.equal(noises[1], noises[2])
    assert np.array_equal(spoken[1], spoken[3])


@pytest.mark.parametrize(
    ("voices", "options"),
    [((NO_VOICE,), Options(steps=2)), ((voice(),), Options(steps=2, disable_prefill=True))],
    ids=["no voice", "no prefill"],
)
def test_another_attempt_without_a_voices_sample_changes_the_noise(
    voices: tuple[Voice, ...], options: Options
) -> None:
    first, second, again = (
        samples(engine().start(plan(TEXT, voices=voices, options=options, attempt=attempt)))
        for attempt in (1, 2, 2)
    )
    assert np.array_equal(second, again)
    assert not np.array_equal(first[:3200], second[:3200])


def test_four_speakers_each_have_their_voice_and_no_line_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = Calls(monkeypatch, network(), "generate")
    turns = tuple(Turn(who, f"This is line {place}") for place, who in enumerate((0, 3, 1, 2)))
    voices = tuple(voice(pitch) for pitch in (90, 120, 150, 200))
    events = list(engine().start(plan(turns, voices=voices)))
    assert events[-1] == End(0, "eos", 7)
    text = vibevoice.model().tokenizer.decode(prompts.results[0].sequences[0])
    script = text.split(" Text input:\n")[1].split(" Speech output:")[0]
    assert script == (
        " Speaker 0: This is line 0.\n Speaker 3: This is line 1.\n"
        " Speaker 1: This is line 2.\n Speaker 2: This is line 3.\n"
    )
    assert text.count("<|vision_pad|>") == 4 * 12 + len(events) - 1


def test_speakers_with_and_without_a_voice_go_together() -> None:
    voices = (NO_VOICE, voice(), NO_VOICE)
    turns = (Turn(0, "I have none."), Turn(1, "I have one."), Turn(2, "Nor have I."))
    assert list(engine().start(plan(turns, voices=voices)))[-1] == End(0, "eos", 7)


def test_a_stereo_mp3_at_44100_hertz_is_a_voice(tmp_path: Path) -> None:
    time = np.arange(3 * 44_100) / 44_100
    wave = 0.3 * np.sin(2 * np.pi * 140 * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2
    stereo = np.stack([wave, 0.5 * wave], axis=1)
    soundfile.write(tmp_path / "en-Mary_woman.mp3", stereo, 44_100, format="MP3")
    mary, _ = VoiceMapper(tmp_path, default="Mary").resolve("Mary")
    assert mary.samples is not None
    heard = samples(engine().start(plan(TEXT, voices=(mary,))))
    assert not np.array_equal(heard[:3200], usual()[:3200])


@pytest.mark.parametrize("words", ["", "   \n ", "... !?", "«»"])
def test_a_text_without_words_is_empty(words: str) -> None:
    assert list(engine().start(plan(words))) == [End(0, "empty", 7)]


def test_a_chunk_of_which_nothing_comes_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = network().lm_head.weight
    silent = vibevoice.torch.zeros_like(weight)
    silent[vibevoice.model().tokenizer.eos_token_id, 0] = 1
    monkeypatch.setattr(weight, "data", silent)
    assert list(engine().start(plan(TEXT))) == [End(0, "empty", 7)]


def test_a_chunk_that_hits_its_limit_says_so() -> None:
    options = Options(steps=2, frames_per_token=0.1, min_frames=5)
    events = list(engine().start(plan(TEXT, "More of it.", options=options)))
    assert [event for event in events if isinstance(event, End)] == [
        End(0, "cap", 7),
        End(1, "cap", 7),
    ]
    assert sum(isinstance(event, Frame) for event in events) == 10


def test_the_limit_grows_with_the_text_and_is_ours_not_upstreams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = []
    original = network().generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        limits.append((kwargs["max_new_tokens"], kwargs["input_ids"].shape[1]))
        return original(*args, **kwargs)

    monkeypatch.setattr(network(), "generate", generate)
    long = "Word " * 30
    usual = Options(steps=1, frames_per_token=4.0)
    for text, options in ((TEXT, Options(steps=1)), (long, usual)):
        samples(engine().start(plan(text, voices=(NO_VOICE,), options=options)))
    script = vibevoice.model().tokenizer.encode(f" Speaker 0: {long.strip()}.\n")
    assert limits[1][0] == 4 * len(script)
    assert limits[1][0] > 2 * limits[1][1]
    assert limits[0][0] >= 64


def test_a_prompt_that_fills_the_context_is_refused_and_the_next_one_served() -> None:
    with pytest.raises(EngineError, match=r"context of 8192 tokens.*MAX_CHUNK_CHARS"):
        samples(engine().start(plan("word " * 9000)))
    assert len(samples(engine().start(plan(TEXT))))


def test_samples_that_are_no_numbers_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = next(network().model.acoustic_tokenizer.decoder.head.parameters())
    monkeypatch.setattr(weight, "data", vibevoice.torch.full_like(weight, float("nan")))
    with pytest.raises(EngineError, match="weights are damaged"):
        samples(engine().start(plan(TEXT)))


def test_details_say_what_speaks() -> None:
    commit = vibevoice.git(vibevoice.volume() / "vibevoice", "rev-parse", "HEAD")
    details = engine().capabilities.details
    assert details["code"] == f"clone {commit[:12]}"
    assert details["model"] == "tiny"
    assert re.fullmatch(r"1\.\d million parameters", details["weights"])
    assert (details["device"], details["dtype"], details["attention"]) == ("cpu", "float32", "sdpa")
    assert engine().capabilities.cloning
    assert not any(str(vibevoice.volume()) in value for value in details.values())


def test_without_flash_attention_it_falls_back_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fallen = VibeVoiceEngine(
        str(vibevoice.checkpoint()),
        volume=vibevoice.volume(),
        runtime="reference",
        attention="flash",
    )
    with caplog.at_level(logging.WARNING, "vibevoice"):
        fallen.load()
    assert fallen.capabilities.details["attention"] == "sdpa"
    assert "flash_attn seems to be not installed" in caplog.text
    assert np.array_equal(samples(fallen.start(plan(TEXT))), usual())


def test_no_word_of_a_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        samples(engine().start(plan("Zanzibar is\nsecret", "<|vision_pad|> Zanzibar")))
    assert "Zanzibar" not in caplog.text
