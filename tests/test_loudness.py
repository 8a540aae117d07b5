"""Loudness, gain and the true-peak limiter, checked with another oversampler than its own."""

import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import butter, resample_poly, sosfilt

from audio.loudness import Level, Limiter, LoudnessMeter, _limiting, gain_to
from audio.pcm import SAMPLE_RATE, Samples, silence
from audio.shaping import Filter

CEILING = 10 ** (-1.5 / 20)
COUNT = 2 * SAMPLE_RATE
T = np.arange(COUNT) / SAMPLE_RATE
RNG = np.random.default_rng(5)
WHITE = RNG.standard_normal(COUNT)


def run(stage: Filter, samples: Samples, cuts: Sequence[int] = ()) -> Samples:
    pieces = [stage.feed(piece) for piece in np.split(samples, cuts)]
    return np.concatenate([*pieces, stage.flush()])


def true_peak(samples: NDArray[Any]) -> float:
    """dBTP, at 8 times the rate."""
    finer = resample_poly(samples.astype(np.float64), 8, 1)
    return float(20 * np.log10(np.abs(finer).max()))


def below(fraction: float) -> NDArray[np.float64]:
    """White noise without what lies above a fraction of the Nyquist frequency."""
    filtered: NDArray[np.float64] = sosfilt(butter(10, fraction, output="sos"), WHITE)
    return filtered


def tone(dbfs: float, seconds: float = 2.0, hertz: float = 997.0) -> Samples:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (10 ** (dbfs / 20) * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


HARD = {
    "between the samples": 1.5 * np.sin(2 * np.pi * 6000 * T + np.pi / 4),
    "bursts": 1.5 * np.sin(2 * np.pi * 6000 * T + np.pi / 4) * (T % 0.5 < 0.05),
    "steps": np.where(T % 0.3 < 0.15, 1.2, -1.2),
    "square wave": np.sign(np.sin(2 * np.pi * 200 * T)),
    "20 dB overload": 10 * np.sin(2 * np.pi * 180 * T),
    "loud noise": 0.5 * below(0.8),
    "20 dB overloaded noise": 5 * below(0.9),
    "swelling noise": 2 * below(0.5) * (0.2 + np.abs(np.sin(2 * np.pi * 3 * T))),
    "clicks": 3.0 * (RNG.random(COUNT) < 0.002),
    "spikes in noise": np.where(RNG.random(COUNT) < 0.001, 4 * WHITE, 0.05 * WHITE),
    "close to Nyquist": 1.3 * np.sin(2 * np.pi * 11_000 * T),
    "chirp": 1.5 * np.sin(2 * np.pi * (50 * T + 2500 * T * T)),
    "beats": 1.5 * (1 + np.sin(2 * np.pi * 7 * T)) * np.sin(2 * np.pi * 3000 * T + 1),
    "first and last sample": np.eye(1, COUNT)[0] * 5 + np.eye(1, COUNT, COUNT - 1)[0] * 5,
}


@pytest.mark.parametrize("name", HARD)
def test_the_true_peak_stays_under_the_ceiling(name: str) -> None:
    samples = HARD[name].astype(np.float32)
    assert true_peak(samples) > -1.4
    limited = run(Limiter(SAMPLE_RATE), samples)
    assert len(limited) == len(samples)
    assert true_peak(limited) <= -1.5
    assert np.abs(limited).max() <= CEILING * (1 + 1e-6)


def test_white_noise_goes_over_by_what_is_documented() -> None:
    assert true_peak(run(Limiter(SAMPLE_RATE), (5 * WHITE).astype(np.float32))) <= -0.5


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("ceiling", [-1.0, -6.0])
def test_every_rate_and_ceiling_holds(rate: int, ceiling: float) -> None:
    t = np.arange(rate) / rate
    samples = (2 * np.sin(2 * np.pi * rate / 4 * t + np.pi / 4)).astype(np.float32)
    peak = true_peak(run(Limiter(rate, ceiling), samples))
    assert ceiling - 0.25 <= peak <= ceiling


@pytest.mark.parametrize("name", ["between the samples", "20 dB overload"])
def test_steady_overload_is_brought_to_the_ceiling_and_no_lower(name: str) -> None:
    limited = run(Limiter(SAMPLE_RATE), HARD[name].astype(np.float32))
    assert true_peak(limited[SAMPLE_RATE:]) >= -1.75


def test_what_lies_below_the_ceiling_leaves_bit_by_bit() -> None:
    samples = (WHITE / np.abs(WHITE).max() * 0.5).astype(np.float32)
    assert np.array_equal(run(Limiter(SAMPLE_RATE), samples), samples)
    full = 10 ** (-1.66 / 20) * np.sin(np.pi * T / T[-1]) * np.sin(2 * np.pi * 6000 * T + np.pi / 4)
    assert true_peak(full) > -1.68
    assert np.array_equal(run(Limiter(SAMPLE_RATE), full.astype(np.float32)), np.float32(full))


@pytest.mark.parametrize("over", [3, 12])
@pytest.mark.parametrize("piece", [100, COUNT])
def test_a_peak_turns_down_its_neighbourhood_and_no_more(over: int, piece: int) -> None:
    samples = tone(-12.0)
    samples[24_000] = CEILING * 10 ** (over / 20)
    limited = run(Limiter(SAMPLE_RATE), samples, range(piece, COUNT, piece))
    changed = np.flatnonzero(limited != samples)
    assert 24_000 - SAMPLE_RATE // 100 <= changed[0] < 24_000
    assert 24_000 < changed[-1] <= 24_000 + SAMPLE_RATE // 10


def test_the_gain_moves_slowly_and_is_never_more_than_one() -> None:
    """The loud half of a low voice's swell: within one pitch period the gain moves by 1 dB."""
    voice = tone(0.0, hertz=100.0) * np.linspace(0.5, 2.0, COUNT, dtype=np.float32)
    limited = run(Limiter(SAMPLE_RATE), voice)
    heard = np.abs(voice) > 0.01
    gain = 20 * np.log10(limited[heard] / voice[heard])
    assert gain.max() <= 1e-5
    period = SAMPLE_RATE // 100
    spans = np.lib.stride_tricks.sliding_window_view(gain, period)[::50]
    assert np.ptp(spans, axis=1).max() < 1.0


@pytest.mark.parametrize("count", [0, 1, 2, 119, 120, 121, 3000, 3001, 40_000])
def test_as_many_samples_come_out_as_go_in(count: int) -> None:
    samples = (2 * WHITE[:count]).astype(np.float32)
    limited = run(Limiter(SAMPLE_RATE), samples, [count // 3])
    assert len(limited) == count
    assert limited.dtype == np.float32


@pytest.mark.parametrize("piece", [1, 240, 3200])
def test_less_than_60_ms_are_held(piece: int) -> None:
    limiter, fed, out = Limiter(SAMPLE_RATE), 0, 0
    for i in range(0, SAMPLE_RATE // 2, piece):
        samples = WHITE[i : i + piece].astype(np.float32)
        fed += len(samples)
        out += len(limiter.feed(samples))
        assert fed - out < 0.06 * SAMPLE_RATE


@settings(max_examples=50)
@given(
    st.integers(0, 8000),
    st.lists(st.integers(0, 8000), max_size=10).map(sorted),
    st.sampled_from(["spikes in noise", "bursts", "swelling noise"]),
)
def test_limiting_does_not_depend_on_the_cuts(count: int, cuts: list[int], name: str) -> None:
    samples = HARD[name][10_000:][:count].astype(np.float32)
    whole = run(Limiter(SAMPLE_RATE), samples)
    np.testing.assert_allclose(run(Limiter(SAMPLE_RATE), samples, cuts), whole, atol=1e-6, rtol=0)


def test_one_sample_at_a_time_is_the_same() -> None:
    samples = HARD["spikes in noise"][:4000].astype(np.float32)
    whole = run(Limiter(SAMPLE_RATE), samples)
    single = run(Limiter(SAMPLE_RATE), samples, range(1, 4000))
    np.testing.assert_allclose(single, whole, atol=1e-6, rtol=0)


def always_filtering() -> Limiter:
    """One whose filter sees every sample."""
    limiter = Limiter(SAMPLE_RATE)
    limiter._graph = _limiting(SAMPLE_RATE, limiter._limit)
    limiter._settled = 10**9
    return limiter


@pytest.mark.parametrize("piece", [100, 3200, COUNT])
@pytest.mark.parametrize("name", HARD)
def test_where_the_filter_is_left_out_no_sample_differs(name: str, piece: int) -> None:
    samples, cuts = HARD[name].astype(np.float32), range(piece, COUNT, piece)
    limited = run(Limiter(SAMPLE_RATE), samples, cuts)
    assert np.array_equal(limited, run(always_filtering(), samples, cuts))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.floats(0.5, 20.0)), min_size=1, max_size=6),
    st.integers(100, 4000),
)
def test_no_peak_is_near_enough_to_another_to_be_left_out(
    peaks: list[tuple[int, float]], piece: int
) -> None:
    samples = tone(-4.0, 1.0)
    for at, height in peaks:
        samples[at] *= np.float32(height)
    cuts = range(piece, len(samples), piece)
    limited = run(Limiter(SAMPLE_RATE), samples, cuts)
    assert np.array_equal(limited, run(always_filtering(), samples, cuts))


def test_the_filter_is_entered_at_a_peak_and_left_after_it() -> None:
    limiter, samples = Limiter(SAMPLE_RATE), tone(-12.0)
    samples[24_000] = 2.0
    filtering = []
    for at in range(0, COUNT, 1200):
        limiter.feed(samples[at : at + 1200])
        filtering.append(limiter._graph is not None)
    assert filtering[:19] == [False] * 19
    assert any(filtering)
    assert filtering[28:] == [False] * 12


def test_a_gain_is_constant_and_then_limited() -> None:
    samples = tone(-20.0)
    assert np.array_equal(run(Level(SAMPLE_RATE, 6.0), samples), samples * np.float32(10**0.3))
    assert np.array_equal(run(Level(SAMPLE_RATE, 0.0), samples), samples)
    louder = run(Level(SAMPLE_RATE, 30.0, ceiling_dbtp=-3.0), samples)
    assert -3.25 < true_peak(louder) <= -3.0


def test_without_a_gain_nothing_is_touched_or_held() -> None:
    level, samples = Level(SAMPLE_RATE, None), tone(12.0)
    assert level.feed(samples) is samples
    assert len(level.flush()) == 0


def test_a_sine_at_full_scale_measures_as_bs1770_says() -> None:
    meter = LoudnessMeter(48_000)
    t = np.arange(48_000 * 3) / 48_000
    meter.add(np.sin(2 * np.pi * 997 * t).astype(np.float32))
    assert meter.integrated() == pytest.approx(-3.01, abs=0.05)


def test_chunks_are_weighted_by_power_and_duration() -> None:
    meter = LoudnessMeter(SAMPLE_RATE)
    loud, soft = tone(-10.0, 6.0), tone(-30.0, 3.0)
    meter.add(loud)
    alone = meter.integrated()
    assert alone is not None
    meter.add(soft)
    expected = alone + 10 * np.log10((6 * 1.0 + 3 * 0.01) / 9)
    assert meter.integrated() == pytest.approx(expected, abs=0.01)


def test_chunks_of_even_speech_measure_like_the_whole() -> None:
    speech = (below(0.3) * (0.05 + 0.1 * np.abs(np.sin(2 * np.pi * 2 * T)))).astype(np.float32)
    meter = LoudnessMeter(SAMPLE_RATE)
    for chunk in np.split(speech, [17_000, 33_000]):
        meter.add(chunk)
    whole = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(speech)
    assert meter.integrated() == pytest.approx(whole, abs=0.5)


def test_what_cannot_be_measured_does_not_count() -> None:
    meter = LoudnessMeter(SAMPLE_RATE)
    for samples in (silence(0), tone(-6.0, 0.39), silence(SAMPLE_RATE), tone(-90.0)):
        meter.add(samples)
        assert meter.integrated() is None
    meter.add(tone(-20.0))
    alone = meter.integrated()
    meter.add(silence(SAMPLE_RATE * 10))
    assert meter.integrated() == alone


def test_a_long_block_is_measured_in_modest_memory() -> None:
    samples = np.tile(tone(-20.0, 60.0), 5)
    meter = LoudnessMeter(SAMPLE_RATE)
    tracemalloc.start()
    meter.add(samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert meter.integrated() == pytest.approx(-23.0, abs=0.1)


def test_the_gain_is_the_distance_to_the_target_within_limits() -> None:
    assert gain_to(-18.0, -24.5) == 6.5
    assert gain_to(-18.0, -10.0) == -8.0
    assert gain_to(-18.0, -69.0) == 30.0
    assert gain_to(-40.0, -5.0) == -30.0
    assert gain_to(-18.0, -69.0, most_db=12.0) == 12.0
    assert gain_to(-18.0, None) == 0.0


def test_levelling_reaches_its_target() -> None:
    samples = (0.02 * below(0.3) * (1 + np.sin(2 * np.pi * 3 * T))).astype(np.float32)
    meter, after = LoudnessMeter(SAMPLE_RATE), LoudnessMeter(SAMPLE_RATE)
    meter.add(samples)
    after.add(run(Level(SAMPLE_RATE, gain_to(-20.0, meter.integrated())), samples))
    assert after.integrated() == pytest.approx(-20.0, abs=0.1)


def test_importing_brings_no_scipy() -> None:
    code = "import sys, audio.loudness; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
