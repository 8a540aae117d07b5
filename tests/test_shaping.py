"""Edges, tempo and fades of one chunk: sample-exact, and the same however the input is cut."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.pcm import SAMPLE_RATE, Samples, silence
from audio.shaping import Fade, Filter, Shaper, Stretch, Trim

RATE = 1000  # where a window is 10 samples, and 50, 80 and 500 ms are as many samples
CUTS = st.lists(st.integers(0, 3000), max_size=12).map(sorted)
RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 700)), max_size=5)


def run(stage: Filter, samples: Samples, cuts: Sequence[int] = ()) -> Samples:
    pieces = [stage.feed(piece) for piece in np.split(samples, cuts)]
    return np.concatenate([*pieces, stage.flush()])


def loud(count: int, seed: int = 1) -> Samples:
    return np.random.default_rng(seed).uniform(0.1, 0.5, count).astype(np.float32)


def quiet(count: int, seed: int = 2) -> Samples:
    return (loud(count, seed) * 0.003).astype(np.float32)


def tone(seconds: float, hertz: float = 440.0, rate: int = SAMPLE_RATE) -> Samples:
    t = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def signal(runs: list[tuple[bool, int]]) -> Samples:
    parts = [
        loud(count, i) if is_loud else quiet(count, i) for i, (is_loud, count) in enumerate(runs)
    ]
    return np.concatenate([silence(0), *parts])


def trimmed(samples: Samples) -> Samples:
    """What `Trim` promises at 1000 Hz, said over the whole chunk."""
    windows = [(i, samples[i : i + 10]) for i in range(0, len(samples), 10)]
    loud_ones = [i for i, window in windows if np.sqrt(np.mean(window**2)) >= 10 ** (-54 / 20)]
    if not loud_ones:
        return silence(0)
    end = min(loud_ones[-1] + 10, len(samples))
    return samples[max(0, loud_ones[0] - 50) : max(end + 80, len(samples) - 500)]


def test_edges_are_cut_and_what_is_kept_is_untouched() -> None:
    samples = np.concatenate([quiet(1000), loud(300), quiet(400)])
    assert np.array_equal(run(Trim(RATE), samples), samples[950:1380])


def test_a_pause_inside_speech_stays() -> None:
    samples = np.concatenate([loud(100), quiet(400), loud(100)])
    assert np.array_equal(run(Trim(RATE), samples), samples)


def test_a_chunk_with_nothing_before_or_after_its_speech_stays_whole() -> None:
    assert np.array_equal(run(Trim(RATE), loud(333)), loud(333))


def test_the_last_window_counts_though_it_is_short() -> None:
    samples = np.concatenate([quiet(200), loud(3)])
    assert np.array_equal(run(Trim(RATE), samples), samples[150:])


def test_a_quiet_chunk_gives_nothing() -> None:
    assert len(run(Trim(RATE), quiet(2005))) == 0
    assert len(run(Trim(RATE), silence(0))) == 0


@pytest.mark.parametrize(("dbfs", "kept"), [(-53.9, 500), (-54.1, 0)])
def test_the_threshold_is_absolute_and_of_the_rms(dbfs: float, kept: int) -> None:
    signs = np.where(np.arange(500) % 2, 1, -1)
    samples = (signs * 10 ** (dbfs / 20)).astype(np.float32)
    assert len(run(Trim(RATE), samples)) == kept


def test_no_more_than_500_ms_are_held_and_the_surplus_of_a_long_silence_is_let_go() -> None:
    trim, samples = Trim(RATE), np.concatenate([loud(100), quiet(900)])
    out = 0
    for fed, sample in enumerate(samples, start=1):
        out += len(trim.feed(np.array([sample])))
        assert fed - out <= 500
    assert len(trim.flush()) == 0
    assert out == 500
    assert len(run(Trim(RATE), np.concatenate([samples, loud(10)]))) == 1010


@given(RUNS, CUTS)
def test_trimming_is_as_promised_however_the_chunk_is_cut(
    runs: list[tuple[bool, int]], cuts: list[int]
) -> None:
    samples = signal(runs)
    assert np.array_equal(run(Trim(RATE), samples, cuts), trimmed(samples))


def test_leading_silence_of_any_length_takes_no_memory() -> None:
    trim, piece = Trim(SAMPLE_RATE), silence(SAMPLE_RATE)
    tracemalloc.start()
    for _ in range(300):
        assert len(trim.feed(piece)) == 0
    trim.feed(piece[:1])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50_000
    assert len(trim.feed(tone(0.02))) > 0


def test_fades_are_raised_cosines_of_10_ms() -> None:
    samples = loud(1000)
    faded = run(Fade(RATE), samples)
    rise = np.sin(np.pi / 2 * (np.arange(10) + 0.5) / 10) ** 2
    np.testing.assert_allclose(faded[:10], samples[:10] * rise, rtol=1e-6)
    np.testing.assert_allclose(faded[-10:], samples[-10:] * rise[::-1], rtol=1e-6)
    assert np.array_equal(faded[10:-10], samples[10:-10])


@pytest.mark.parametrize("count", [0, 1, 2, 7, 19])
def test_short_audio_gets_shorter_fades(count: int) -> None:
    faded = run(Fade(RATE), np.ones(count, np.float32))
    assert len(faded) == count
    np.testing.assert_allclose(faded, faded[::-1])
    assert np.all(np.diff(faded[: count // 2]) > 0)
    assert np.all(faded[: count // 2] < 1)


def test_fading_leaves_the_fed_samples_as_they_are() -> None:
    samples = loud(15)
    run(Fade(RATE), samples)
    assert np.array_equal(samples, loud(15))


@given(st.integers(0, 100), CUTS)
def test_fading_does_not_depend_on_the_cuts(count: int, cuts: list[int]) -> None:
    assert np.array_equal(run(Fade(RATE), loud(count), cuts), run(Fade(RATE), loud(count)))


@pytest.mark.parametrize("speed", [0.2499, 4.0001, 8.0, 0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_ffmpeg_cannot_take_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"speed is .*; it must be from 0\.25 to 4\.0"):
        Stretch(SAMPLE_RATE, speed)


def test_speed_one_changes_nothing() -> None:
    samples = loud(1234)
    stretch = Stretch(SAMPLE_RATE, 1.0)
    assert stretch.feed(samples) is samples
    assert len(stretch.flush()) == 0


@pytest.mark.parametrize("speed", [0.25, 0.37, 0.5, 0.9, 0.999, 1.1, 1.5, 2.0, 2.7, 4.0])
@pytest.mark.parametrize("count", [0, 1, 500, 1001, 24_000, 100_003])
def test_the_stretched_length_is_exact(speed: float, count: int) -> None:
    assert len(run(Stretch(SAMPLE_RATE, speed), tone(5)[:count])) == round(count / speed)


@pytest.mark.parametrize("speed", [0.25, 0.8, 1.25, 4.0])
def test_stretching_keeps_pitch_and_loudness_and_moves_events_in_time(speed: float) -> None:
    burst = np.concatenate([silence(2 * SAMPLE_RATE), tone(2), silence(2 * SAMPLE_RATE)])
    stretched = run(Stretch(SAMPLE_RATE, speed), burst)
    first, last = np.flatnonzero(np.abs(stretched) > 0.1)[[0, -1]] / SAMPLE_RATE
    assert abs(first - 2 / speed) < 0.13  # three windows of atempo, which is two of them at 0.25
    assert abs(last - 4 / speed) < 0.13
    middle = stretched[int(2.5 / speed * SAMPLE_RATE) : int(3.5 / speed * SAMPLE_RATE)]
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))))
    assert abs(peak * SAMPLE_RATE / len(middle) - 440) < 5
    assert abs(20 * np.log10(np.std(middle) / np.std(tone(1)))) < 0.5


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.3, 4.0])
def test_stretching_is_never_ahead_and_less_than_half_a_second_behind(speed: float) -> None:
    stretch, made = Stretch(SAMPLE_RATE, speed), 0
    for i in range(100):
        made += len(stretch.feed(loud(3200, i)))
        assert 0 <= (i + 1) * 3200 / speed - made < SAMPLE_RATE / 2
    made += len(stretch.flush())
    assert made == round(320_000 / speed)


@settings(max_examples=40)
@given(st.sampled_from([0.36, 0.99, 1.01, 3.0]), st.integers(0, 5000), CUTS)
def test_stretching_does_not_depend_on_the_cuts(speed: float, count: int, cuts: list[int]) -> None:
    samples = loud(count)
    expected = run(Stretch(SAMPLE_RATE, speed), samples)
    assert np.array_equal(run(Stretch(SAMPLE_RATE, speed), samples, cuts), expected)


def test_a_chunk_is_trimmed_then_stretched_then_faded() -> None:
    samples = np.concatenate([silence(SAMPLE_RATE), tone(1.0), silence(SAMPLE_RATE // 3)])
    kept = samples[SAMPLE_RATE - 1200 : 2 * SAMPLE_RATE + 1920]
    shaper = Shaper(SAMPLE_RATE, 1.25)
    shaped = run(shaper, samples)
    by_hand = run(Fade(SAMPLE_RATE), run(Stretch(SAMPLE_RATE, 1.25), kept))
    assert np.array_equal(shaped, by_hand)
    assert shaper.count == len(shaped) == round(len(kept) / 1.25)


def test_a_quiet_chunk_has_no_shape() -> None:
    shaper = Shaper(SAMPLE_RATE, 0.5)
    assert len(run(shaper, silence(50_000))) == 0
    assert shaper.count == 0


@settings(max_examples=40)
@given(RUNS, CUTS, st.sampled_from([1.0, 1.5]))
def test_shaping_does_not_depend_on_the_cuts(
    runs: list[tuple[bool, int]], cuts: list[int], speed: float
) -> None:
    samples = signal(runs)
    expected = run(Shaper(8000, speed), samples)
    assert np.array_equal(run(Shaper(8000, speed), samples, cuts), expected)
