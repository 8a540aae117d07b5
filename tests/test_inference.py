"""From a request to a file, with an engine whose every sample is known."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audio.pcm import Samples
from config import Settings
from request.errors import EngineError, RequestError
from request.model import SpeechRequest, parse_request
from synthesis.file import SpeechFile
from synthesis.inference import VibeVoiceInference
from synthesis.result import Result
from tests.fake_engine import FakeEngine, FakeSpeech


class Spoken:
    """A finished request: its file, and through its attributes what is said about it."""

    def __init__(self, path: Path, result: Result) -> None:
        self.path, self.result = path, result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.result, name)


async def filed(inference: VibeVoiceInference, request: SpeechRequest, folder: Path) -> SpeechFile:
    async with inference.plan(request) as planned:
        return await inference.generate(planned, folder)


Speak = Callable[..., Spoken]
FADE = 240  # 10 ms
HALF = 1 / 2


def steady(count: int, value: float = HALF) -> Samples:
    return np.full(count, value, np.float32)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(audio=lambda chunk: steady(24_000 + 1000 * chunk))


@pytest.fixture
def make(tmp_path: Path, engine: FakeEngine) -> Iterator[Callable[..., VibeVoiceInference]]:
    made = []

    def make(**env: str) -> VibeVoiceInference:
        settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path / "volume"), **env})
        made.append(VibeVoiceInference(settings, engine))
        return made[-1]

    yield make
    for inference in made:
        inference.close()


@pytest.fixture
def speak(make: Callable[..., VibeVoiceInference], tmp_path: Path) -> Speak:
    def speak(text: str, env: dict[str, str] | None = None, **fields: Any) -> Spoken:
        inference = make(**(env or {}))
        fields = {"output_format": "wav", "loudness": None, "seed": 1, **fields}
        request, _ = parse_request({"text": text, **fields}, inference.defaults)
        file = asyncio.run(filed(inference, request, tmp_path))
        return Spoken(file.path, file.result)

    return speak


def samples_of(result: Spoken) -> Samples:
    samples, rate = soundfile.read(result.path, dtype="float32")
    assert rate == result.sample_rate
    assert len(samples) / rate == result.duration_sec
    found: Samples = samples
    return found


def test_chunks_are_joined_to_the_sample_with_the_asked_silence(speak: Speak) -> None:
    result = speak("[pause:100ms] One. [pause:250ms] Two. [pause:1s] Three. [pause:500ms]")
    samples = samples_of(result)
    at = 0
    for silence, length in ((2400, 24_000), (6000, 25_000), (24_000, 26_000)):
        assert not samples[at : at + silence].any()
        speech = samples[at + silence : at + silence + length]
        assert (speech[FADE:-FADE] == HALF).all()
        rise = speech[:FADE]
        assert (np.diff(rise) >= 0).all()
        assert rise[0] < 0.001
        assert np.array_equal(speech[-FADE:], rise[::-1])
        at += silence + length
    assert len(samples) == at + 12_000
    assert not samples[at:].any()
    assert [(chunk.start_sec, chunk.end_sec) for chunk in result.chunks] == [
        (0.1, 1.1),
        (1.35, round(1.35 + 25 / 24, 6)),
        (round(2.35 + 25 / 24, 6), round(2.35 + 51 / 24, 6)),
    ]


def test_the_silences_of_chunks_and_paragraphs_are_the_settings(speak: Speak) -> None:
    sentence = "This sentence has exactly fifty characters, I say. "
    env = {"MAX_CHUNK_CHARS": "200", "MIN_LAST_CHUNK_CHARS": "40", "CHUNK_SILENCE_MS": "70"}
    result = speak(f"{sentence * 6}\n\n{sentence}", env)
    gaps = [
        round(after.start_sec - before.end_sec, 6)
        for before, after in zip(result.chunks, result.chunks[1:], strict=False)
    ]
    assert gaps == [0.07, 0.6]


@pytest.mark.parametrize("frame", [1, 777, 3200, 10**6])
def test_interleaved_chunks_come_out_in_order(speak: Speak, engine: FakeEngine, frame: int) -> None:
    engine.audio = lambda chunk: steady(4800, (chunk + 1) / 8)
    engine.frame = frame
    text = "One. [pause:0ms] Two. [pause:0ms] Three. [pause:0ms] Four."
    plain = samples_of(speak(text))
    engine.interleave = True
    assert np.array_equal(samples_of(speak(text)), plain)
    assert [plain[4800 * chunk + 2400] for chunk in range(4)] == [1 / 8, 2 / 8, 3 / 8, 4 / 8]


def test_speed_scales_speech_and_silence_alike(speak: Speak) -> None:
    plain = speak("One. [pause:400ms] Two.")
    for speed in (0.5, 1.25, 3):
        fast = speak("One. [pause:400ms] Two.", speed=speed)
        assert fast.duration_sec == pytest.approx(plain.duration_sec / speed, rel=0.01)
        gap = fast.chunks[1].start_sec - fast.chunks[0].end_sec
        assert gap == pytest.approx(0.4 / speed, abs=1e-3)


@pytest.mark.parametrize(
    ("rate", "output_format", "made"),
    [
        (48_000, "wav", 48_000),
        (8_000, "wav", 8_000),
        (44_100, "opus", 48_000),
        (10_000, "mp3", 11_025),
    ],
)
def test_the_answer_has_the_set_rate_or_the_codecs_next(
    speak: Speak, rate: int, output_format: str, made: int
) -> None:
    result = speak("One.", {"DEFAULT_SAMPLE_RATE": str(rate)}, output_format=output_format)
    assert result.sample_rate == made
    assert result.duration_sec == pytest.approx(1.0, abs=1e-3)


def test_one_constant_gain_keeps_chunks_in_proportion(speak: Speak, engine: FakeEngine) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 24_000).astype(np.float32)
    engine.audio = [tone * np.float32(0.02), tone * np.float32(0.01)]
    result = speak("Loud. [pause:10ms] Quiet.", loudness=-23)
    samples = samples_of(result)
    loud, quiet = np.abs(samples[1000:47_000]).max(), np.abs(samples[49_240:95_000]).max()
    assert loud / quiet == pytest.approx(2, rel=1e-2)
    assert result.gain_db is not None
    assert loud == pytest.approx(0.02 * 10 ** (result.gain_db / 20), rel=1e-2)
    assert result.warnings == ()


def test_true_peaks_stay_below_the_ceiling_when_the_level_is_raised(
    speak: Speak, engine: FakeEngine
) -> None:
    import soxr

    click = np.zeros(48_000, np.float32)
    click[::4800] = 0.5
    click += np.random.default_rng(0).normal(0, 0.01, len(click)).astype(np.float32)
    engine.audio = [click]
    samples = samples_of(speak("Loud.", loudness=-12))
    assert np.abs(soxr.resample(samples, 24_000, 192_000)).max() < 10 ** (-1.4 / 20)


def test_a_level_that_cannot_be_measured_is_left_and_reported(
    speak: Speak, engine: FakeEngine
) -> None:
    engine.audio = [steady(4800)]
    result = speak("Hm.", loudness=-16)
    assert result.gain_db is None
    assert result.warnings == ("loudness: could not be measured, so the level is left as is",)
    assert samples_of(result)[2400] == HALF


def test_a_gain_that_would_only_raise_noise_is_bounded_and_reported(
    speak: Speak, engine: FakeEngine
) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 24_000) * 0.004
    engine.audio = [tone.astype(np.float32)]
    result = speak("Far away.", loudness=-16)
    assert result.gain_db == 30
    (warning,) = result.warnings
    assert re.fullmatch(r"loudness: -\d\d\.\d LUFS were reached", warning)


def test_a_chunk_without_sound_is_reported_and_the_rest_is_spoken(
    speak: Speak, engine: FakeEngine
) -> None:
    engine.audio = [steady(0), steady(4800), steady(4800, 0.0)]
    result = speak("One. [pause:1s] Two. [pause:2s] Three.")
    assert result.warnings == (
        "chunks[0]: came out without a sound",
        "chunks[2]: came out without a sound",
    )
    assert [chunk.index for chunk in result.chunks] == [0, 1, 2]
    assert (result.chunks[1].start_sec, result.chunks[1].end_sec) == (0.0, 0.2)


def test_no_sound_at_all_is_an_error(speak: Speak, engine: FakeEngine) -> None:
    engine.audio = [steady(0)]
    with pytest.raises(EngineError, match="made no sound"):
        speak("One.")


def test_an_engine_that_fails_fails_the_request(speak: Speak, engine: FakeEngine) -> None:
    engine.fail_at = 3
    with pytest.raises(EngineError, match="as it was told to"):
        speak("One.")
    assert engine.speeches[0].cancelled


def test_an_engine_that_stops_early_is_never_a_clean_end(
    speak: Speak, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeSpeech._events
    monkeypatch.setattr(FakeSpeech, "_events", lambda self: list(whole(self))[:-1])
    with pytest.raises(EngineError, match="stopped before the end"):
        speak("One. [pause] Two.")


def test_every_chunk_gets_the_same_seed_and_the_options(speak: Speak, engine: FakeEngine) -> None:
    result = speak("One. [pause] Two.", seed=7, cfg_scale=2, steps=5, disable_prefill=True)
    (plan,) = engine.plans
    assert [chunk.seed for chunk in plan.chunks] == [7, 7]
    assert result.seed == 7
    options = plan.options
    assert (options.cfg_scale, options.steps, options.disable_prefill) == (2, 5, True)
    assert not options.cfg_is_default
    seeds = {speak("One.", seed=None).seed for _ in range(3)}
    assert engine.plans[-1].options.cfg_is_default
    assert len(seeds) == 3


TWO_PARAGRAPHS = "The first paragraph is of some length, so that it gets a chunk.\n\n" * 2


def test_an_answer_says_what_it_took_of_the_gpu_with_every_attempt(
    speak: Speak, engine: FakeEngine
) -> None:
    engine.capabilities = replace(engine.capabilities, varies=True, gpu=True)
    engine.device_sec, engine.reasons = 1.25, {0: "cap"}
    price = {"GPU_USD_PER_SECOND": "0.0004", "PACE_TOLERANCE": "100"}
    spoken = speak(TWO_PARAGRAPHS, price, loudness=-16)
    assert [chunk.attempts for chunk in spoken.chunks] == [2, 1]
    assert spoken.timings["gpu_sec"] == 3 * 1.25
    assert spoken.cost_usd == 0.0015
    assert spoken.cost == {"gpu_sec": 3.75, "cost_usd": 0.0015}
    assert speak(TWO_PARAGRAPHS, {"PACE_TOLERANCE": "100"}).cost == {"gpu_sec": 3.75}


def test_without_a_gpu_nothing_costs_anything(speak: Speak, engine: FakeEngine) -> None:
    engine.device_sec = 1.25  # of a CPU
    spoken = speak("One.", {"GPU_USD_PER_SECOND": "0.0004"})
    assert "gpu_sec" not in spoken.timings
    assert (spoken.cost_usd, spoken.cost) == (None, {})


def names(engine: FakeEngine) -> list[str]:
    return [voice.name for voice in engine.plans[-1].voices]


def test_speakers_get_the_voices_they_were_given(speak: Speak, engine: FakeEngine) -> None:
    script = "Speaker 2: Hi.\nSpeaker 5: Ho.\nSpeaker 2: Hm."
    result = speak(script, speakers={"5": "Alice", "2": "Frank"})
    assert names(engine) == ["Frank", "Alice"]
    assert [turn.speaker for turn in engine.plans[-1].chunks[0].turns] == [0, 1, 0]
    assert result.speakers == (2, 5)
    speak(script, speakers=["Alice", "Frank"])
    assert names(engine) == ["Alice", "Frank"]


def test_speakers_without_a_name_get_voices_of_their_own(speak: Speak, engine: FakeEngine) -> None:
    script = "Speaker 1: Hi.\nSpeaker 2: Ho."
    speak(script, speaker_name="Frank")
    assert names(engine) == ["Frank", "Alice"]
    speak(script)
    assert names(engine) == ["Alice", "Frank"]
    speak(script, speakers={"2": "Alice"})
    assert names(engine) == ["Frank", "Alice"]
    result = speak("Speaker 1: A.\nSpeaker 2: B.\nSpeaker 3: C.", speakers={"3": "Frank"})
    assert names(engine) == ["Alice", "Alice", "Frank"]
    assert result.warnings == ("speakers: there are too few voices, so Speaker 2 shares one",)


def test_speakers_that_the_text_has_not_are_warned_about(speak: Speak) -> None:
    assert speak("No script.", speakers=["Alice"]).warnings == (
        "speakers: ignored, since the text has no `Speaker N:` lines",
    )
    assert speak("Speaker 1: Hi.", speakers={"1": "Alice", "3": "Frank"}).warnings == (
        "speakers: the text has no lines of Speaker 3",
    )


def test_a_recording_reaches_the_engine(speak: Speak, engine: FakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "volume" / "demo" / "voices"
    folder.mkdir(parents=True)
    tone = np.sin(2 * np.pi * 200 * np.arange(4 * 24_000) / 24_000) * 0.3
    soundfile.write(folder / "en-Zoe_woman.wav", tone, 24_000)
    speak("Hi.", speaker_name="zoe")
    (voice,) = engine.plans[-1].voices
    assert voice.name == "en-Zoe_woman"
    assert voice.samples is not None
    assert len(voice.samples) == 4 * 24_000


def test_cancelling_the_task_stops_the_engine_and_waits_for_it(
    make: Callable[..., VibeVoiceInference], engine: FakeEngine
) -> None:
    engine.delay = 0.02
    engine.audio = lambda _: steady(3200 * 1000)
    inference = make()
    request, _ = parse_request({"text": "Long."}, inference.defaults)
    threads = set(threading.enumerate())

    async def main() -> None:
        with inference.workspace() as folder:
            task = asyncio.create_task(filed(inference, request, Path(folder)))
            while not engine.speeches:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert engine.speeches[0].cancelled
            assert list(Path(folder).iterdir()) == []

    asyncio.run(main())
    inference.close()
    assert set(threading.enumerate()) <= threads


def test_a_file_is_encoded_again_from_the_same_takes_where_the_request_allows_it(
    make: Callable[..., VibeVoiceInference], engine: FakeEngine
) -> None:
    inference = make()
    fields = {"text": "Hi.", "output_format": "wav", "loudness": None, "seed": 4}
    plain, _ = parse_request(fields, inference.defaults)
    may, _ = parse_request({**fields, "allow_recompress": True}, inference.defaults)

    async def main(folder: Path) -> tuple[SpeechFile, SpeechFile]:
        large = await filed(inference, may, folder)
        return large, await inference.shrink(large)

    with inference.workspace() as folder:
        assert not asyncio.run(filed(inference, plain, Path(folder))).may_shrink
        large, small = asyncio.run(main(Path(folder)))
        assert large.path.name == "speech.wav" and large.path.exists()
        assert (large.may_shrink, small.may_shrink) == (True, False)
        assert small.path.read_bytes()[:4] == b"OggS"
    assert (large.result.format, small.result.format) == ("wav", "opus")
    assert (large.result.chunks, large.result.seed) == (small.result.chunks, small.result.seed)
    assert list(large.result.warnings) == []
    assert list(small.result.warnings) == [
        "output_format: wav would have had 0.0 MB, so it is opus"
    ]
    assert small.result.timings["encode_sec"] >= large.result.timings["encode_sec"]
    assert len(engine.speeches) == 2


def test_close_leaves_no_temporary_folder(make: Callable[..., VibeVoiceInference]) -> None:
    inference = make()
    with inference.workspace() as folder:
        parent = Path(folder).parent
    inference.close()
    assert not parent.exists()


def test_a_language_reaches_the_engine_by_the_engines_own_tag(
    speak: Speak, engine: FakeEngine
) -> None:
    engine.capabilities = replace(engine.capabilities, languages=("en", "de"))
    speak(text="Guten Tag.", language="de-AT")
    speak(text="Hello.")
    assert [plan.options.language for plan in engine.plans] == ["de", None]


def test_a_language_that_the_model_does_not_speak_is_refused(
    speak: Speak, engine: FakeEngine
) -> None:
    with pytest.raises(RequestError) as error:
        speak(text="Bonjour.", language="fr")
    (problem,) = error.value.problems
    assert problem.told({}) == "language: 'fr' is no language of the model fake (allowed: en, zh)"
    assert not engine.plans
