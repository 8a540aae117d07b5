"""Each format's bytes as OpenAI's wire has them, decoded again by decoders that are not ours."""

import gc
import hashlib
import io
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from audio.codecs import (
    FORMATS,
    Encoder,
    bytes_a_second,
    codec_rate,
    formats_within,
    pcm16,
    wav_header,
)
from audio.pcm import SAMPLE_RATE, Samples
from engines.base import Frame, Plan, PlannedChunk, Turn, Voice
from engines.espeak.engine import EspeakEngine
from request.errors import SpeechError
from tests.need import require_program

LOSSLESS = ("flac", "wav", "pcm")
ODD_RATES = (8_000, 11_025, 12_345, 24_000, 44_100, 48_000)
EVERY_RATE = [
    (name, rate)
    for name, entry in FORMATS.items()
    for rate in (ODD_RATES if isinstance(entry.rates, range) else entry.rates)
]


def tone(seconds: float = 1.0, rate: int = SAMPLE_RATE) -> Samples:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def encode(
    name: str,
    samples: Samples,
    rate: int = SAMPLE_RATE,
    cuts: Sequence[int] = (),
    rewound: bool = False,
) -> bytes:
    encoder = Encoder(name, rate)
    pieces = [encoder.encode(piece) for piece in np.split(samples, cuts)]
    data = b"".join([*pieces, encoder.close()])
    return encoder.head + data[len(encoder.head) :] if rewound else data


@pytest.fixture(scope="module")
def speech() -> Samples:
    text = "The quick brown fox jumps over the lazy dog, and nobody was surprised at all. " * 3
    plan = Plan((PlannedChunk((Turn(0, text),), 1),), (Voice("Alice"),))
    frames = [event.samples for event in EspeakEngine().start(plan) if isinstance(event, Frame)]
    return np.concatenate(frames)


@pytest.mark.parametrize("name", FORMATS)
def test_the_size_of_speech_is_known_before_it_is_encoded(speech: Samples, name: str) -> None:
    expected = bytes_a_second(name, SAMPLE_RATE) * len(speech) / SAMPLE_RATE
    assert len(encode(name, speech)) == pytest.approx(expected, rel=0.15)
    assert bytes_a_second("mp3", 12_000) == 8_000


def test_the_formats_that_fit_go_by_the_size_in_another() -> None:
    minute = 60 * 48_000
    assert formats_within(minute, minute, "wav", SAMPLE_RATE) == list(FORMATS)
    assert formats_within(minute - 1, minute, "wav", SAMPLE_RATE) == ["mp3", "opus", "aac", "flac"]
    assert formats_within(minute // 4, minute, "wav", SAMPLE_RATE) == ["opus", "aac"]
    assert formats_within(minute // 2, minute // 3, "mp3", SAMPLE_RATE) == ["mp3", "opus", "aac"]
    assert formats_within(10, minute, "wav", SAMPLE_RATE) == []


def by_libsndfile(name: str, data: bytes) -> tuple[NDArray[np.float64], int]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.format == {"opus": "OGG"}.get(name, name.upper())
        assert file.channels == 1
        return file.read(), file.samplerate


def by_ffmpeg(data: bytes) -> tuple[NDArray[np.float64], int]:
    with av.open(io.BytesIO(data), "r") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(frames, axis=1)[0]
    full_scale = 32768 if samples.dtype == np.int16 else 1
    return samples.astype(np.float64) / full_scale, rate


def by_faad(data: bytes, folder: Path) -> tuple[NDArray[np.float64], int]:
    program = require_program("faad", "faad")
    (folder / "in.aac").write_bytes(data)
    command = [program, "-q", "-o", str(folder / "out.wav"), str(folder / "in.aac")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    samples, rate = soundfile.read(folder / "out.wav", always_2d=True)
    return samples[:, 0], rate


def loudness(samples: NDArray[np.float64]) -> float:
    """RMS in dB of the middle half."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    return float(10 * np.log10(np.mean(middle**2)))


def check_tone(decoded: NDArray[np.float64], rate: int, expected_rate: int, padding: int) -> None:
    """A second of the tone, its level and its length, but for at most `padding` samples more."""
    assert rate == expected_rate
    assert 0 <= len(decoded) - rate <= padding
    assert abs(loudness(decoded) - 20 * np.log10(0.5 / np.sqrt(2))) < 0.2


def test_the_table_names_what_the_wire_says() -> None:
    assert {entry.name: entry.content_type for entry in FORMATS.values()} == {
        "mp3": "audio/mpeg",
        "opus": "audio/opus",
        "aac": "audio/aac",
        "flac": "audio/flac",
        "wav": "audio/wav",
        "pcm": "audio/pcm",
    }
    for name, entry in FORMATS.items():
        assert entry.extension == entry.name == name
        assert list(entry.rates) == sorted(entry.rates)


@pytest.mark.parametrize(
    ("name", "wanted", "rate"),
    [
        ("mp3", 24_000, 24_000),
        ("mp3", 23_999, 24_000),
        ("mp3", 96_000, 48_000),
        ("opus", 22_050, 24_000),
        ("opus", 44_100, 48_000),
        ("opus", 1, 8_000),
        ("aac", 32_001, 44_100),
        ("wav", 12_345, 12_345),
        ("pcm", 7_000, 8_000),
        ("flac", 192_000, 48_000),
    ],
)
def test_the_codec_rate_is_the_next_one_up(name: str, wanted: int, rate: int) -> None:
    assert codec_rate(name, wanted) == rate


@pytest.mark.parametrize(("name", "rate"), EVERY_RATE)
def test_every_rate_of_the_table_encodes_and_decodes(name: str, rate: int) -> None:
    samples = tone(rate=rate)
    data = encode(name, samples, rate)
    if name == "pcm":
        assert data == pcm16(samples).tobytes()
    elif name == "opus":
        check_tone(*by_libsndfile(name, data), rate, 0)
        check_tone(*by_ffmpeg(data), 48_000, 0)
    elif name == "mp3":  # one frame of delay, the decoder's 529 samples, and the last frame's rest
        frame = 1152 if rate >= 32_000 else 576
        check_tone(*by_libsndfile(name, data), rate, 529 + 3 * frame)
        check_tone(*by_ffmpeg(data), rate, 529 + 3 * frame)
    elif name == "aac":  # a frame of delay and the last frame's rest
        check_tone(*by_ffmpeg(data), rate, 2 * 1024)
    else:
        rewound = encode(name, samples, rate, rewound=True)
        for decoded, decoded_rate in (by_ffmpeg(data), by_libsndfile(name, rewound)):
            assert decoded_rate == rate
            assert np.array_equal(decoded * 32768, pcm16(samples))


@pytest.mark.parametrize("rate", FORMATS["aac"].rates)
def test_aac_decodes_in_a_program_that_is_not_ffmpeg(rate: int, tmp_path: Path) -> None:
    decoded, decoded_rate = by_faad(encode("aac", tone(rate=rate), rate), tmp_path)
    # Up to 24 kHz faad expects that HE-AAC may follow, and gives twice the rate.
    check_tone(decoded, decoded_rate, rate * 2 if rate <= 24_000 else rate, 2 * 1024)


def test_lossless_formats_carry_identical_samples() -> None:
    samples = np.random.default_rng(3).uniform(-1.2, 1.2, 30_000).astype(np.float32)
    expected = pcm16(samples)
    assert np.array_equal(np.frombuffer(encode("pcm", samples), "<i2"), expected)
    assert np.array_equal(np.frombuffer(encode("wav", samples)[44:], "<i2"), expected)
    flac = encode("flac", samples, rewound=True)
    assert np.array_equal(by_libsndfile("flac", flac)[0] * 32768, expected)


def test_conversion_rounds_to_the_nearest_and_clips() -> None:
    lsb = 1 / 32768
    values = np.array([0, 0.49 * lsb, 0.51 * lsb, -0.51 * lsb, 0.99999, 1, 7, -1, -7], np.float32)
    assert pcm16(values).tolist() == [0, 0, 1, -1, 32767, 32767, 32767, -32768, -32768]


def test_16_bit_audio_returns_as_it_was() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(pcm16(every.astype(np.float32) / np.float32(32768)), every)


def test_mp3_is_cbr_frames_and_nothing_else() -> None:
    data = encode("mp3", tone(5.0))
    assert len(data) % 384 == 0  # 72 * 128000 / 24000 bytes a frame
    assert {data[i : i + 4] for i in range(0, len(data), 384)} == {bytes.fromhex("fff3c4c4")}
    assert not any(mark in data for mark in (b"ID3", b"Xing", b"Info", b"TAG"))


@pytest.mark.parametrize(
    ("rate", "kbits"), [(8_000, 64), (12_000, 64), (16_000, 128), (48_000, 128)]
)
def test_mp3_has_128_kbits_where_mpeg_allows_them(rate: int, kbits: int) -> None:
    assert len(encode("mp3", tone(5.0, rate), rate)) * 8 / 5000 == pytest.approx(kbits, rel=0.05)


def ogg_pages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(flags, granule position, body) of each page."""
    while data:
        magic, version, flags, granule = struct.unpack_from("<4sBBq", data)
        assert (magic, version) == (b"OggS", 0)
        lacing = data[27 : 27 + data[26]]
        start = 27 + len(lacing)
        yield flags, granule, data[start : start + sum(lacing)]
        data = data[start + sum(lacing) :]


def test_opus_is_ogg_pages_of_100_ms_with_the_rate_in_its_head() -> None:
    pages = list(ogg_pages(encode("opus", tone(3.0))))
    assert pages[0][2] == struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, 312, 24_000, 0, 0)
    assert pages[1][2].startswith(b"OpusTags")
    assert pages[-1][0] & 4  # end of stream
    granules = [granule for _, granule, _ in pages[2:]]
    assert granules[-1] == 312 + 3 * 48_000
    assert max(np.diff([0, *granules])) <= 4800


def test_aac_is_adts_with_a_low_complexity_mono_profile() -> None:
    data, frames = encode("aac", tone(5.0)), 0
    assert len(data) * 8 / 5000 < 90
    while data:
        assert data[:2] == b"\xff\xf1"  # MPEG-4, no CRC
        assert data[2] >> 6 == 1  # LC
        assert (data[2] >> 2) & 15 == 6  # 24 kHz
        assert ((data[2] & 1) << 2) | (data[3] >> 6) == 1  # one channel
        data = data[((data[3] & 3) << 11) | (data[4] << 3) | (data[5] >> 5) :]
        frames += 1
    assert frames in (118, 119, 120)


def test_flac_says_that_its_length_is_unknown() -> None:
    data = encode("flac", tone())
    assert data[:8] == b"fLaC\x00\x00\x00\x22"
    fields = int.from_bytes(data[18:26], "big")
    assert fields >> 44 == SAMPLE_RATE
    assert (fields >> 41) & 7 == 0  # one channel
    assert (fields >> 36) & 31 == 15  # 16 bits
    assert fields & (2**36 - 1) == 0
    assert data[26:42] == bytes(16)
    assert data.index(b"\xff\xf8") < 128  # no padding before the first frame


def test_flac_that_is_rewound_has_an_exact_header() -> None:
    known, unknown = encode("flac", tone(), rewound=True), encode("flac", tone())
    assert int.from_bytes(known[18:26], "big") & (2**36 - 1) == SAMPLE_RATE
    assert known[:12] + known[18:21] + known[42:] == unknown[:12] + unknown[18:21] + unknown[42:]
    smallest, largest = (int.from_bytes(known[at : at + 3], "big") for at in (12, 15))
    assert 0 < smallest <= largest < 24_000
    # soundfile.read() allocates by the header: of unknown length it cannot be read there.
    samples, _ = soundfile.read(io.BytesIO(known), dtype="int16")
    assert len(samples) == SAMPLE_RATE
    assert known[26:42] == hashlib.md5(samples.astype("<i2").tobytes()).digest()  # noqa: S324


def test_wav_that_is_rewound_has_true_sizes() -> None:
    data = encode("wav", tone()[:100], 16_000, rewound=True)
    fields = struct.unpack("<4sI4s4sIHHIIHH4sI", data[:44])
    assert fields == (
        *(b"RIFF", 236, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", 200),
    )
    assert len(data) == 244
    assert by_libsndfile("wav", data)[1] == 16_000


def test_wav_of_unknown_length_says_so_and_never_zero() -> None:
    data = encode("wav", tone())
    assert data[4:8] == data[40:44] == b"\xff\xff\xff\xff"
    assert len(by_libsndfile("wav", data)[0]) == SAMPLE_RATE


@pytest.mark.parametrize("samples", [2**31 - 18, 2**31, 2**40])
def test_wav_over_4_gib_is_of_unknown_length(samples: int) -> None:
    header = wav_header(SAMPLE_RATE, samples)
    assert header[4:8] == header[40:44] == b"\xff\xff\xff\xff"
    largest = wav_header(SAMPLE_RATE, 2**31 - 19)
    assert struct.unpack_from("<I", largest, 4) == (2**32 - 2,)
    assert struct.unpack_from("<I", largest, 40) == (2**32 - 38,)


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_is_known_once_a_file_is_closed(name: str) -> None:
    encoder = Encoder(name, SAMPLE_RATE)
    first = encoder.encode(tone()[:100])
    assert encoder.head == b""
    encoder.close()
    assert len(encoder.head) == {"wav": 44, "flac": 42}.get(name, 0)
    assert encoder.head[:4] == first[: min(4, len(encoder.head))]


@pytest.mark.parametrize("name", FORMATS)
def test_no_audio_at_all_is_an_error(name: str) -> None:
    encoder = Encoder(name, SAMPLE_RATE)
    encoder.encode(tone()[:0])
    with pytest.raises(SpeechError, match="there is no audio to encode"):
        encoder.close()


@pytest.mark.parametrize("name", FORMATS)
def test_one_sample_is_enough(name: str) -> None:
    data = encode(name, tone()[1:2])
    if name != "pcm":
        assert len(by_ffmpeg(data)[0]) >= 1


@pytest.mark.parametrize("name", FORMATS)
def test_closing_twice_gives_nothing_and_encoding_after_it_is_refused(name: str) -> None:
    encoder = Encoder(name, SAMPLE_RATE)
    encoder.encode(tone())
    encoder.close()
    assert encoder.close() == b""
    with pytest.raises(ValueError, match="closed"):
        encoder.encode(tone())


@pytest.mark.parametrize(("name", "rate"), [("opus", 44_100), ("mp3", 23_999), ("pcm", 7_999)])
def test_a_rate_that_the_format_lacks_is_refused(name: str, rate: int) -> None:
    with pytest.raises(ValueError, match=f"{name} has no rate of {rate} Hz"):
        Encoder(name, rate)


@settings(max_examples=30)
@given(
    st.sampled_from(list(FORMATS)),
    st.integers(1, 9000),
    st.lists(st.integers(0, 9000), max_size=8).map(sorted),
)
def test_bytes_do_not_depend_on_the_cuts(name: str, count: int, cuts: list[int]) -> None:
    samples = tone()[:count]
    assert encode(name, samples, cuts=cuts) == encode(name, samples)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
def test_a_tone_in_pieces_decodes_without_a_hole(name: str) -> None:
    cuts = np.random.default_rng(8).integers(0, 2 * SAMPLE_RATE, 25)
    data = encode(name, tone(2.0), cuts=np.sort(cuts).tolist())
    assert data == encode(name, tone(2.0))
    decoded, rate = by_ffmpeg(data)
    heard = decoded[rate // 10 : 2 * rate - rate // 10]
    windows = heard[: len(heard) // 100 * 100].reshape(-1, 100)
    assert np.sqrt(np.mean(windows**2, axis=1)).min() > 0.2


@pytest.mark.parametrize("name", FORMATS)
def test_every_frame_of_speech_brings_bytes(name: str) -> None:
    """133 ms at a time, as VibeVoice makes it: after the second frame none goes without."""
    encoder = Encoder(name, SAMPLE_RATE)
    noise = np.random.default_rng(1).uniform(-0.1, 0.1, 60 * 3200).astype(np.float32)
    sizes = [len(encoder.encode(frame)) for frame in np.split(noise, 60)]
    assert all(sizes[2:])
    assert sum(sizes) > 0.9 * (sum(sizes) + len(encoder.close()))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def footprint() -> dict[str, int]:
    """Threads (FFmpeg's too) and open files of this process."""
    return {name: len(list(Path("/proc/self", name).iterdir())) for name in ("task", "fd")}


def settled(most: dict[str, int]) -> bool:
    """True once no more than these are left.

    A joined thread stays in /proc until the kernel has buried it, which is after the join.
    """
    end = time.monotonic() + 20
    while any(count > most[name] for name, count in footprint().items()):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("until", ["opened", "fed", "closed"])
def test_a_hundred_encoders_leave_nothing_behind(until: str) -> None:
    def use(name: str) -> None:
        encoder = Encoder(name, SAMPLE_RATE)
        if until != "opened":
            encoder.encode(tone(0.2))
        if until == "closed":
            encoder.close()

    for name in FORMATS:
        use(name)
    before, memory = footprint(), resident()
    gc.disable()  # what waits for it would be counted
    try:
        for _ in range(25):  # of each of the four that FFmpeg makes
            for name in FORMATS:
                use(name)
    finally:
        gc.enable()
    assert settled(before), (before, footprint())
    assert resident() - memory < 8 * 2**20
