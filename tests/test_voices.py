"""Voice files: what is found, what a name means, what comes out, and what must never happen."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from audio.pcm import SAMPLE_RATE, Samples
from audio.recording import EXTENSIONS, Unusable, decode
from request.errors import VoiceError
from voices import files as voice_files
from voices.catalogue import NO_VOICE, VoiceMapper

PITCH = 440.0
LEVEL = 0.25 / np.sqrt(2)
LONG_AGO = 1_000_000_000 * 10**9  # in ns: a folder last changed then is settled
BUILTIN = ("Alice", "Frank", "Carter", "Maya")


def tone(seconds: float, rate: int, channels: int = 1, pitch: float = PITCH) -> Samples:
    """Shape (n, channels): the same sine in each."""
    wave = 0.25 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave[:, None], (1, channels)).astype(np.float32)


def by_soundfile(path: Path, rate: int, channels: int, subtype: str, seconds: float = 5) -> None:
    soundfile.write(path, tone(seconds, rate, channels), rate, subtype=subtype)


def by_av(path: Path, rate: int, channels: int, codec: str, seconds: float = 5) -> None:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    form = {".opus": "ogg", ".aac": "adts"}.get(path.suffix)
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        planes = np.ascontiguousarray(tone(seconds, rate, channels).T)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        converted = av.AudioResampler(stream.format, layout, rate).resample(frame)
        for packet in (*(p for f in converted for p in stream.encode(f)), *stream.encode(None)):
            container.mux(packet)


def voice(folder: Path, file: str, seconds: float = 3, pitch: float = PITCH) -> Path:
    path = folder / file
    soundfile.write(path, tone(seconds, 8_000, pitch=pitch), 8_000)
    return path


def settle(folder: Path) -> None:
    """Make the folder look as if nothing had changed in it for long."""
    os.utime(folder, ns=(LONG_AGO, LONG_AGO))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "voices"
    path.mkdir()
    return path


@pytest.fixture
def demo(folder: Path) -> Path:
    """Named like the voices that come with the model."""
    for number, stem in enumerate(
        [
            "en-Alice_woman",
            "en-Carter_man",
            "en-Frank_man",
            "en-Mary_woman_bgm",
            "en-Maya_woman",
            "zh-Anchen_man_bgm",
            "zh-Bowen_man",
        ]
    ):
        voice(folder, f"{stem}.wav", pitch=300 + 10 * number)
    return folder


def mapper(folder: Path, **options: object) -> VoiceMapper:
    return VoiceMapper(folder, **{"default": "Alice", **options})  # type: ignore[arg-type]


def heard(voices: VoiceMapper, name: str) -> Samples:
    found, warnings = voices.resolve(name)
    assert warnings == []
    assert found.samples is not None
    return found.samples


def middle(samples: Samples) -> NDArray[np.float64]:
    return samples[SAMPLE_RATE : 4 * SAMPLE_RATE].astype(np.float64)


def pitch_of(samples: Samples) -> float:
    part = middle(samples)
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(part)


# Decoding


@pytest.mark.parametrize(
    ("file", "rate", "channels", "how", "codec"),
    [
        ("a.wav", 8_000, 1, by_soundfile, "PCM_U8"),
        ("a.wav", 24_000, 1, by_soundfile, "PCM_16"),
        ("a.wav", 44_100, 2, by_soundfile, "PCM_24"),
        ("a.wav", 48_000, 6, by_soundfile, "PCM_16"),
        ("a.wav", 96_000, 1, by_soundfile, "PCM_32"),
        ("a.wav", 192_000, 2, by_soundfile, "FLOAT"),
        ("a.wav", 22_050, 1, by_soundfile, "MS_ADPCM"),
        ("A.FLAC", 44_100, 2, by_soundfile, "PCM_24"),
        ("a.mp3", 44_100, 2, by_av, "mp3"),
        ("a.m4a", 48_000, 1, by_av, "aac"),
        ("a.m4a", 44_100, 2, by_av, "alac"),
        ("a.ogg", 44_100, 1, by_soundfile, "VORBIS"),
        ("a.ogg", 48_000, 2, by_av, "libopus"),
        ("a.webm", 48_000, 2, by_av, "libopus"),
        ("a.aac", 44_100, 2, by_av, "aac"),
        ("a.opus", 48_000, 6, by_av, "libopus"),
    ],
)
def test_every_format_becomes_mono_24_khz_of_the_same_length_level_and_pitch(
    folder: Path,
    file: str,
    rate: int,
    channels: int,
    how: Callable[[Path, int, int, str], None],
    codec: str,
) -> None:
    how(folder / file, rate, channels, codec)
    found, warnings = mapper(folder).resolve("A")
    assert warnings == []
    assert found.name == Path(file).stem
    assert found.samples is not None
    assert found.samples.dtype == np.float32
    assert found.samples.ndim == 1
    lossless = how is by_soundfile and codec != "VORBIS"
    slack = 0 if lossless and codec != "MS_ADPCM" else 0.05 * SAMPLE_RATE
    assert abs(len(found.samples) - 5 * SAMPLE_RATE) <= slack
    level = np.sqrt(np.mean(middle(found.samples) ** 2))
    assert 20 * np.log10(level / LEVEL) == pytest.approx(0, abs=0.02 if lossless else 0.5)
    assert pitch_of(found.samples) == pytest.approx(PITCH, abs=0.5)


def test_samples_are_exact_where_nothing_needs_converting(folder: Path) -> None:
    wave = tone(3, SAMPLE_RATE)
    soundfile.write(folder / "a.wav", wave, SAMPLE_RATE, subtype="PCM_24")
    stored, _ = soundfile.read(folder / "a.wav", dtype="float32")
    found, _ = mapper(folder).resolve("a")
    assert found.samples is not None
    np.testing.assert_array_equal(found.samples, stored)
    assert found.sha256 == hashlib.sha256(found.samples.tobytes()).hexdigest()


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_channels_are_averaged(folder: Path, channels: int) -> None:
    waves = np.hstack([tone(3, SAMPLE_RATE, pitch=300 + 50 * n) for n in range(channels)])
    soundfile.write(folder / "a.wav", waves, SAMPLE_RATE, subtype="FLOAT")
    difference = heard(mapper(folder), "a") - waves.mean(axis=1)
    assert np.abs(difference).max() < 1e-6


def test_a_float_file_beyond_full_scale_is_scaled_not_clipped(folder: Path) -> None:
    soundfile.write(folder / "a.wav", tone(3, SAMPLE_RATE) * 16, SAMPLE_RATE, subtype="FLOAT")
    difference = heard(mapper(folder), "a") - tone(3, SAMPLE_RATE)[:, 0] * 4
    assert np.abs(difference).max() < 1e-6


@pytest.mark.parametrize("seconds", [3, 30])
def test_3_to_30_seconds_are_used_whole(folder: Path, seconds: int) -> None:
    voice(folder, "a.wav", seconds)
    found, warnings = mapper(folder).resolve("a")
    assert warnings == []
    assert found.samples is not None
    assert len(found.samples) == seconds * SAMPLE_RATE


@pytest.mark.parametrize("file", ["a.wav", "a.mp3"])
def test_a_longer_recording_is_trimmed_with_a_warning(folder: Path, file: str) -> None:
    how, codec = (by_av, "mp3") if file == "a.mp3" else (by_soundfile, "PCM_16")
    how(folder / file, 44_100, 1, codec, 45)
    found, warnings = mapper(folder).resolve("a", "speakers[1]")
    assert warnings == ["speakers[1]: voice 'a' is longer than 30 s; its first 30 s are used"]
    assert found.samples is not None
    assert len(found.samples) == 30 * SAMPLE_RATE


def test_what_a_codec_adds_to_30_seconds_is_cut_without_a_warning(folder: Path) -> None:
    by_av(folder / "a.aac", 44_100, 1, "aac", 30)
    found, warnings = mapper(folder).resolve("a")
    assert warnings == []
    assert found.samples is not None
    assert len(found.samples) == 30 * SAMPLE_RATE


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("file", ["Tiny.wav", "Tiny.mp3", "Tiny.webm"])
def test_a_shorter_recording_is_refused_by_name(folder: Path, file: str, strict: bool) -> None:
    if file == "Tiny.wav":
        by_soundfile(folder / file, 48_000, 1, "PCM_16", 1.2)
    else:
        by_av(folder / file, 48_000, 1, "mp3" if file == "Tiny.mp3" else "libopus", 1.2)
    voice(folder, "Other.wav")
    voices = mapper(folder, strict=strict)
    assert voices.names() == ("Other",)
    assert voices.problems() == [f"'{file}' is 1.2 s long; allowed: 3 to 30 s"]
    with pytest.raises(VoiceError) as refused:
        voices.resolve("tiny")
    assert str(refused.value) == "speaker_name: voice 'Tiny' is 1.2 s long; allowed: 3 to 30 s"


def test_a_length_just_under_the_limit_is_not_rounded_up_to_it(folder: Path) -> None:
    voice(folder, "Tiny.wav", 2.999)
    with pytest.raises(VoiceError, match=r"is 2\.99 s long"):
        mapper(folder).resolve("Tiny")


# Names


@pytest.mark.parametrize(
    "name",
    ["Alice", "alice", "en-Alice", "en-Alice_woman", "EN-ALICE_WOMAN", "alice_woman", " Alice "],
)
def test_a_file_answers_to_its_name_with_and_without_prefix_and_suffix(
    demo: Path, name: str
) -> None:
    voices = mapper(demo, default="Frank", strict=True)
    found, warnings = voices.resolve(name)
    assert (found.name, warnings) == ("en-Alice_woman", [])
    assert voices.get_voice_path(name) == demo / "en-Alice_woman.wav"


def test_a_part_of_a_name_finds_it_with_a_warning(demo: Path) -> None:
    voices = mapper(demo, strict=True)
    found, warnings = voices.resolve("Cart")
    assert found.name == "en-Carter_man"
    assert warnings == ["speaker_name: 'Cart' is taken for 'en-Carter_man'"]
    assert voices.get_voice_path("Cart") == demo / "en-Carter_man.wav"


def test_a_single_letter_is_no_part_of_a_name(demo: Path) -> None:
    assert mapper(demo).get_voice_path("e") is None


def test_exact_comes_before_alias_before_part(folder: Path) -> None:
    for stem in ("Al", "en-Al_woman", "Alan"):
        voice(folder, f"{stem}.wav")
    voices = mapper(folder)
    assert voices.resolve("al")[0].name == "Al"
    (folder / "Al.wav").unlink()
    assert voices.resolve("al")[0].name == "en-Al_woman"
    (folder / "en-Al_woman.wav").unlink()
    assert voices.resolve("al")[0].name == "Alan"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("man", "en-Carter_man"),  # a word of its own before a part of "woman"
        ("en-", "en-Alice_woman"),
        ("chen", "zh-Anchen_man_bgm"),
        ("zh", "zh-Bowen_man"),  # music last, though "Anchen" sorts first
        ("an", "en-Alice_woman"),  # and though "Anchen" begins like that
    ],
)
def test_an_ambiguous_part_means_the_same_voice_each_time(
    demo: Path, name: str, expected: str
) -> None:
    assert {mapper(demo).resolve(name)[0].name for _ in range(3)} == {expected}


def test_a_voice_with_music_comes_last_but_can_be_named(demo: Path) -> None:
    voices = mapper(demo)
    assert voices.names()[-2:] == ("en-Mary_woman_bgm", "zh-Anchen_man_bgm")
    assert voices.resolve("Mary")[0].name == "en-Mary_woman_bgm"
    voice(demo, "en-Mary_woman.wav")
    found, warnings = voices.resolve("Mary")
    assert (found.name, warnings) == ("en-Mary_woman", [])


def test_a_name_that_fits_several_voices_says_which_speaks(demo: Path) -> None:
    voice(demo, "in-Maya_woman.wav")
    found, warnings = mapper(demo).resolve("Maya")
    assert found.name == "en-Maya_woman"
    assert warnings == ["speaker_name: 'Maya' also fits in-Maya_woman; 'en-Maya_woman' speaks"]


def test_the_spelling_decides_between_names_that_differ_in_case(folder: Path) -> None:
    voice(folder, "Bob.wav")
    voice(folder, "bob.wav", pitch=300)
    voices = mapper(folder)
    assert (voices.resolve("bob")[0].name, voices.resolve("Bob")[0].name) == ("bob", "Bob")


@pytest.mark.parametrize("stem", ["Zoe\u0308", "Zo\u00eb"])
@pytest.mark.parametrize("name", ["Zoe\u0308", "ZO\u00cb"])
def test_composed_and_decomposed_letters_are_the_same(folder: Path, stem: str, name: str) -> None:
    voice(folder, f"{stem}.wav")
    found, warnings = mapper(folder, strict=True).resolve(name)
    assert (found.name, warnings) == ("Zo\u00eb", [])


def test_letters_that_only_folding_makes_equal_are_the_same(folder: Path) -> None:
    voice(folder, "Stra\u00dfe.wav")
    found, warnings = mapper(folder, strict=True).resolve("STRASSE")
    assert (found.name, warnings) == ("Stra\u00dfe", [])


def test_of_files_with_one_stem_the_wav_counts(folder: Path) -> None:
    by_av(folder / "a.mp3", 44_100, 1, "mp3")
    voice(folder, "a.wav")
    voices = mapper(folder)
    assert voices.setup_voice_presets() == {"a": folder / "a.wav"}
    assert voices.names() == ("a",)
    found, warnings = voices.resolve("a")
    assert warnings == []
    assert found.samples is not None
    assert len(found.samples) == 3 * SAMPLE_RATE


@pytest.mark.parametrize("name", [None, "", "   "])
def test_no_name_means_the_default_voice(demo: Path, name: str | None) -> None:
    found, warnings = mapper(demo, default="Carter", strict=True).resolve(name)
    assert (found.name, warnings) == ("en-Carter_man", [])


def test_without_the_default_voice_the_first_speaks_even_when_strict(demo: Path) -> None:
    found, warnings = mapper(demo, default="Zed", strict=True).resolve(None)
    assert found.name == "en-Alice_woman"
    assert warnings == [
        "speaker_name: no default voice 'Zed'; 'en-Alice_woman' speaks (available: "
        "en-Alice_woman, en-Carter_man, en-Frank_man, en-Maya_woman, zh-Bowen_man, "
        "en-Mary_woman_bgm, zh-Anchen_man_bgm)"
    ]


def test_an_unknown_name_gets_the_first_voice_and_a_warning(demo: Path) -> None:
    found, warnings = mapper(demo, default="Carter").resolve("Zed", "speakers[2]")
    assert found.name == "en-Alice_woman"
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "speakers[2]: no voice 'Zed'; 'en-Alice_woman' speaks (available: en-Alice_woman, en-Ca"
    )


def test_an_unknown_name_is_an_error_when_strict(demo: Path) -> None:
    with pytest.raises(VoiceError, match=r"^speaker_name: no voice 'Zed' \(available: en-Alice_w"):
        mapper(demo, strict=True).resolve("Zed")


def test_a_message_lists_ten_voices_at_most(folder: Path) -> None:
    for number in range(12):
        voice(folder, f"v{number:02}.wav")
    with pytest.raises(VoiceError, match=r"available: v00, .*, v09, \.\.\.\)$"):
        mapper(folder, strict=True).resolve("Zed")


# No files


@pytest.mark.parametrize("there", [False, True])
def test_without_files_the_engines_own_voices_are_listed_and_can_be_named(
    folder: Path, there: bool
) -> None:
    voices = mapper(folder if there else folder / "gone", builtin=BUILTIN, strict=True)
    assert voices.names() == BUILTIN
    assert voices.setup_voice_presets() == {}
    assert voices.get_voice_path("Alice") is None
    found, warnings = voices.resolve("carter")
    assert (found.name, found.samples, found.sha256, warnings) == ("Carter", None, "", [])
    assert voices.resolve(None)[0].name == "Alice"
    assert voices.resolve("Fra")[0].name == "Frank"


def test_beside_files_the_engines_own_voices_stay_but_for_those_that_a_file_answers_to(
    folder: Path,
) -> None:
    voice(folder, "en-Frank_man.wav")
    voice(folder, "Zoe.wav")
    voices = mapper(folder, builtin=BUILTIN)
    assert voices.names() == ("en-Frank_man", "Zoe", *(name for name in BUILTIN if name != "Frank"))
    assert voices.resolve("Frank")[0].name == "en-Frank_man"
    assert voices.resolve("Maya")[0].samples is None
    (folder / "Zoe.wav").unlink()
    (folder / "en-Frank_man.wav").unlink()
    assert voices.names() == BUILTIN


def test_a_new_name_has_a_rival_in_each_voice_that_answers_to_a_part_of_it(folder: Path) -> None:
    voice(folder, "en-Zoe_woman.wav")
    voice(folder, "Ada.wav")
    voices = mapper(folder, builtin=BUILTIN)
    for name, rival in (
        ("Zoe", "en-Zoe_woman"),
        ("fr-Zoe", "en-Zoe_woman"),
        ("zoe_loud", "en-Zoe_woman"),
        ("ALICE", "Alice"),
        ("Alice_2", "Alice"),
        ("Zo", None),
        ("Ada_2", "Ada"),
    ):
        assert voices.rival(name) == rival
    (folder / "Ada.wav").unlink()
    (folder / "Ada.json").write_text('{"consent": "yes"}')
    voice(folder, "Ada.wav", seconds=5)  # an upload has no aliases
    assert voices.rival("Ada_2") is None
    assert voices.rival("ADA") == "Ada"


def test_with_no_voice_at_all_the_models_own_speaks(folder: Path) -> None:
    voices = mapper(folder)
    assert voices.names() == ()
    assert voices.resolve("Zed") == (
        NO_VOICE,
        ["speaker_name: no voice 'Zed'; the model's own speaks (there are no voice files)"],
    )
    assert voices.resolve(None)[0] is NO_VOICE
    with pytest.raises(VoiceError, match=r"no voice 'Zed' \(there are no voice files\)"):
        mapper(folder, strict=True).resolve("Zed")


def test_a_missing_folder_is_an_empty_one_and_seen_when_it_appears(tmp_path: Path) -> None:
    voices = mapper(tmp_path / "later")
    assert (voices.problems(), voices.names()) == ([], ())
    (tmp_path / "later").mkdir()
    assert voices.problems() == []
    voice(tmp_path / "later", "a.wav")
    assert voices.names() == ("a",)


# Broken files


def broken(path: Path, kind: str) -> None:
    match kind:
        case "text":
            path.write_text("no audio " * 100)
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(voice(path.parent, "whole.flac").read_bytes()[:900])
            (path.parent / "whole.flac").unlink()
        case "silent":
            soundfile.write(path, np.zeros(32_000), 8_000)
        case "nan":
            wave = tone(3, 8_000)
            wave[100] = np.nan
            soundfile.write(path, wave, 8_000, subtype="FLOAT")
        case "wide":
            soundfile.write(path, tone(3, 8_000, 9), 8_000)
        case "slow":
            soundfile.write(path, tone(3, 4_000), 4_000)
        case "large":
            with path.open("wb") as file:
                file.truncate(64 * 2**20 + 1)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nowhere.wav")
        case "video":
            with av.open(path, "w") as container:
                stream = container.add_stream("mpeg4", rate=10)
                assert isinstance(stream, av.VideoStream)
                stream.width = stream.height = 32
                stream.pix_fmt = "yuv420p"
                frame = av.VideoFrame(32, 32, "yuv420p")
                for packet in (*stream.encode(frame), *stream.encode(None)):
                    container.mux(packet)
        case _:
            raise AssertionError(kind)


FAULTS = [
    ("bad.wav", "text", "is not readable as audio"),
    ("bad.m4a", "text", "is not readable as audio"),
    ("bad.mp3", "empty", "is not readable as audio"),
    ("bad.flac", "empty", "is not readable as audio"),
    ("bad.flac", "cut", "is not readable as audio"),
    ("bad.wav", "silent", "is silent"),
    ("bad.wav", "nan", "has samples that are not numbers"),
    ("bad.wav", "wide", "has 9 channels; allowed: 1 to 8"),
    ("bad.wav", "slow", "is sampled at 4000 Hz; allowed: 8000 to 192000"),
    ("bad.mp3", "large", "is larger than 64 MiB"),
    ("bad.wav", "folder", "is not a file"),
    ("bad.ogg", "pipe", "is not a file"),
    ("bad.wav", "loop", "is not readable as audio"),
    ("bad.wav", "dangling", "is gone"),
    ("bad.m4a", "video", "has no audio that is understood"),
]


@pytest.mark.parametrize(("file", "kind", "fault"), FAULTS)
def test_a_broken_file_is_named_in_a_warning_and_skipped(
    demo: Path, file: str, kind: str, fault: str
) -> None:
    broken(demo / file, kind)
    voices = mapper(demo)
    assert voices.resolve("Frank")[1] == []  # nobody else hears of it
    found, warnings = voices.resolve("bad")
    assert found.name == "en-Alice_woman"
    assert warnings[0] == f"speaker_name: file '{file}' {fault}"
    assert warnings[1].startswith("speaker_name: no voice 'bad'; 'en-Alice_woman' speaks")
    assert len(warnings) == 2
    assert "bad" not in voices.names()
    assert voices.get_voice_path("bad") is None
    assert voices.problems() == [f"'{file}' {fault}"]
    with pytest.raises(VoiceError) as refused:
        mapper(demo, strict=True).resolve("bad")
    assert str(refused.value) == f"speaker_name: file '{file}' {fault}"


def test_files_that_do_not_even_open_are_never_offered(demo: Path) -> None:
    (demo / "bad.wav").write_text("no audio")
    (demo / "bad.mp3").write_text("no audio")
    voices = mapper(demo)
    assert len(voices.names()) == 7
    assert voices.problems() == [
        "'bad.wav' is not readable as audio",
        "'bad.mp3' is not readable as audio",
    ]


def test_after_a_broken_file_the_next_match_is_taken(folder: Path) -> None:
    (folder / "en-Bob_man.wav").write_text("no audio")
    voice(folder, "Al.wav")
    voice(folder, "in-Bob_man.wav")
    found, warnings = mapper(folder).resolve("Bob")
    assert found.name == "in-Bob_man"
    assert warnings == ["speaker_name: file 'en-Bob_man.wav' is not readable as audio"]


def test_a_broken_first_voice_is_passed_over_in_silence(folder: Path) -> None:
    broken(folder / "a.wav", "silent")
    voice(folder, "b.wav")
    voices = mapper(folder, default="Zed")
    assert voices.names() == ("a", "b")  # its header is in order
    found, warnings = voices.resolve(None)
    assert found.name == "b"
    assert warnings == ["speaker_name: no default voice 'Zed'; 'b' speaks (available: b)"]


def test_a_damaged_recording_is_used_as_far_as_it_goes_with_a_warning(folder: Path) -> None:
    by_av(folder / "a.aac", 44_100, 1, "aac", 5)
    whole = (folder / "a.aac").read_bytes()
    (folder / "a.aac").write_bytes(whole[: len(whole) * 9 // 10])
    found, warnings = mapper(folder).resolve("a")
    assert warnings == ["speaker_name: voice 'a' is damaged; what can be decoded of it is used"]
    assert found.samples is not None
    assert 4 * SAMPLE_RATE < len(found.samples) < 5 * SAMPLE_RATE


def test_a_format_that_changes_midway_counts_as_damage(folder: Path) -> None:
    by_av(folder / "a.mp3", 44_100, 2, "mp3", 4)
    by_av(folder / "b.mp3", 32_000, 1, "mp3", 4)
    with (folder / "a.mp3").open("ab") as file:
        file.write((folder / "b.mp3").read_bytes())
    found, warnings = mapper(folder).resolve("a")
    assert warnings == ["speaker_name: voice 'a' is damaged; what can be decoded of it is used"]
    assert found.samples is not None
    assert len(found.samples) == pytest.approx(4 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seconds", [0, 1])
def test_an_unusable_default_voice_is_no_error_of_who_named_nothing(
    folder: Path, seconds: int, strict: bool
) -> None:
    voice(folder, "Alice.wav", seconds)
    voice(folder, "b.wav")
    found, warnings = mapper(folder, strict=strict).resolve("")
    assert found.name == "b"
    assert warnings == ["speaker_name: no default voice 'Alice'; 'b' speaks (available: b)"]


def test_a_broken_file_is_no_matter_to_who_named_only_a_part(folder: Path) -> None:
    broken(folder / "Bobbie.wav", "silent")
    voice(folder, "Bobby.wav")
    found, warnings = mapper(folder, strict=True).resolve("Bob")
    assert found.name == "Bobby"
    assert warnings == ["speaker_name: 'Bob' is taken for 'Bobby'"]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    folder = tmp_path_factory.mktemp("encoded")
    by_soundfile(folder / "a.wav", 8_000, 1, "PCM_16")
    by_soundfile(folder / "a.flac", 8_000, 2, "PCM_16")
    by_av(folder / "a.mp3", 32_000, 1, "mp3")
    by_av(folder / "a.m4a", 32_000, 1, "aac")
    by_av(folder / "a.ogg", 48_000, 1, "libopus")
    by_av(folder / "a.webm", 48_000, 1, "libopus")
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


@given(data=st.data())
@settings(max_examples=60)
def test_whatever_is_in_a_file_it_is_a_voice_or_a_problem(
    encoded: dict[Path, bytes], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(sorted(encoded)))
    content = bytearray(encoded[path])
    for _ in range(data.draw(st.integers(0, 20))):
        place = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        samples, _ = decode(path, path.parent)
    except Unusable as unusable:
        assert str(path.parent) not in str(unusable)
    else:
        assert 3 * SAMPLE_RATE <= len(samples) <= 30 * SAMPLE_RATE
        assert np.isfinite(samples).all()


# Changes


def test_changes_of_the_folder_are_seen(folder: Path) -> None:
    voice(folder, "a.wav")
    settle(folder)
    voices = mapper(folder)
    assert voices.names() == ("a",)
    voice(folder, "b.wav")
    assert voices.names() == ("a", "b")
    (folder / "a.wav").unlink()
    assert voices.names() == ("b",)
    assert voices.resolve("a")[1][0].startswith("speaker_name: no voice 'a'; 'b' speaks")


def test_a_folder_that_does_not_change_is_read_once(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(demo)
    voices = mapper(demo)
    names = voices.names()
    monkeypatch.setattr(Path, "iterdir", None)
    monkeypatch.setattr(voice_files, "probe", None)
    assert voices.names() == names
    assert voices.resolve("Alice")[0].name == "en-Alice_woman"


def test_two_changes_within_one_timestamp_of_the_folder_are_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = 3600 * 10**9  # however long this machine sleeps between the lines below
    monkeypatch.setattr(voice_files, "_SETTLED_NS", hour)
    voice(folder, "a.wav")
    info = folder.stat()
    voices = mapper(folder)
    assert voices.names() == ("a",)
    voice(folder, "b.wav")
    os.utime(folder, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert voices.names() == ("a", "b")


def test_files_that_did_not_change_are_not_opened_again(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voices = mapper(demo)
    assert len(voices.names()) == 7
    probed: list[str] = []
    monkeypatch.setattr(voice_files, "probe", lambda path, _: probed.append(path.name))
    voice(demo, "new.wav")
    assert len(voices.names()) == 8
    assert probed == ["new.wav"]


def test_a_file_that_was_still_being_written_is_found_once_it_is_whole(folder: Path) -> None:
    whole = voice(folder, "a.wav").read_bytes()
    (folder / "a.wav").write_bytes(whole[:20])
    settle(folder)
    voices = mapper(folder)
    assert voices.names() == ()
    (folder / "a.wav").write_bytes(whole)
    settle(folder)  # writing a file does not change its folder
    assert voices.names() == ("a",)


def test_a_file_replaced_in_place_is_decoded_and_judged_anew(folder: Path) -> None:
    path = voice(folder, "a.wav")
    voice(folder, "b.wav")
    settle(folder)
    voices = mapper(folder)
    before = voices.resolve("a")[0].sha256
    voice(folder, "a.wav", seconds=4)
    found, warnings = voices.resolve("a")
    assert warnings == []
    assert found.samples is not None
    assert len(found.samples) == 4 * SAMPLE_RATE
    assert found.sha256 != before
    voice(folder, "a.wav", seconds=1)
    with pytest.raises(VoiceError, match="voice 'a' is 1 s long; allowed: 3 to 30 s"):
        voices.resolve("a")
    path.write_text("no audio")
    found, warnings = voices.resolve("a")
    assert found.name == "b"
    assert warnings[0] == "speaker_name: file 'a.wav' is not readable as audio"
    voice(folder, "a.wav")
    assert voices.resolve("a")[0].sha256 == before


@pytest.mark.parametrize("strict", [False, True])
def test_a_file_that_disappears_after_it_was_found(folder: Path, strict: bool) -> None:
    voice(folder, "a.wav")
    voice(folder, "b.wav")
    settle(folder)
    voices = mapper(folder, strict=strict)
    assert voices.names() == ("a", "b")
    (folder / "a.wav").unlink()
    settle(folder)
    if strict:
        with pytest.raises(VoiceError, match=r"^speaker_name: file 'a\.wav' is gone$"):
            voices.resolve("a")
    else:
        found, warnings = voices.resolve("a")
        assert found.name == "b"
        assert warnings[0] == "speaker_name: file 'a.wav' is gone"
    assert voices.names() == ("b",)


def test_a_passing_failure_of_the_file_system_is_not_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice(folder, "a.wav")
    settle(folder)
    voices = mapper(folder)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(Path, "open", fail)
        assert voices.problems() == ["'a.wav' cannot be read"]
        assert voices.resolve("a")[0] is NO_VOICE
    assert voices.names() == ("a",)
    assert voices.resolve("a")[1] == []


def test_a_voice_is_decoded_once_and_shared_read_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice(folder, "a.wav")
    voices = mapper(folder)
    first = voices.resolve("a")[0].samples
    monkeypatch.setattr(voice_files, "decode", None)
    assert voices.resolve("a")[0].samples is first
    assert first is not None
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_only_so_many_decoded_voices_are_kept(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counting(path: Path, folder: Path) -> tuple[Samples, list[str]]:
        decoded.append(path.stem)
        return decode(path, folder)

    monkeypatch.setattr(voice_files, "decode", counting)
    monkeypatch.setattr(voice_files, "_DECODED", 2)
    voices = mapper(demo)
    for name in ("Alice", "Frank", "Alice", "Maya", "Alice", "Frank"):
        voices.resolve(name)
    assert decoded == ["en-Alice_woman", "en-Frank_man", "en-Maya_woman", "en-Frank_man"]


def test_jobs_that_start_together_decode_a_voice_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice(folder, "a.wav")
    together = Barrier(8)
    decoded: list[str] = []

    def slow(path: Path, folder: Path) -> tuple[Samples, list[str]]:
        decoded.append(path.stem)
        time.sleep(0.05)
        return decode(path, folder)

    monkeypatch.setattr(voice_files, "decode", slow)
    voices = mapper(folder)

    def job(_: int) -> str:
        together.wait(60)
        return voices.resolve("a")[0].sha256

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(job, range(8)))) == 1
    assert decoded == ["a"]


def test_many_jobs_may_resolve_while_the_folder_changes(demo: Path) -> None:
    voices = mapper(demo)
    names = [*voices.names(), "Alice", "Zed", "Frank"]

    def job(number: int) -> tuple[str, str]:
        if number % 10 == 0:
            voice(demo, f"extra{number}.wav")
        if number % 10 == 5:
            (demo / f"extra{number - 5}.wav").unlink(missing_ok=True)
        found, _ = voices.resolve(names[number % len(names)])
        return found.name, found.sha256

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(job, range(200)))
    assert {name for name, _ in found} == set(names[:7])
    assert len(found) == 7  # one digest each


# Hostile names and files


HOSTILE = [
    "../../etc/passwd",
    "../secret",
    "../secret.wav",
    "/etc/passwd",
    "..",
    ".",
    "~",
    ".hidden",
    "nested/inner",
    "nested",
    "C:\\Windows",
    "%2e%2e/secret",
    "*",
    "[a-z]*",
    "(a+)+$",
    "..\uff0fsecret",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_outside_the_folder(demo: Path, name: str) -> None:
    voice(demo.parent, "secret.wav")
    voice(demo, ".hidden.wav")
    (demo / "nested").mkdir()
    voice(demo / "nested", "inner.wav")
    voices = mapper(demo)
    assert voices.get_voice_path(name) is None
    found, warnings = voices.resolve(name)
    assert found.name == "en-Alice_woman"
    assert len(warnings) == 1
    with pytest.raises(VoiceError):
        mapper(demo, strict=True).resolve(name)


def test_a_name_is_no_path_to_a_file_inside_either(demo: Path) -> None:
    voices = mapper(demo)
    for name in (str(demo / "en-Alice_woman.wav"), "./en-Alice_woman", "en-Alice_woman.wav"):
        assert voices.get_voice_path(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Alice\0", "'Alice\\x00' cannot be a voice: it contains control characters"),
        ("\n", "'\\n' cannot be a voice: it contains control characters"),
        ("a\u2028b", "'a\\u2028b' cannot be a voice: it contains control characters"),
        ("\ud800", "'\\ud800' cannot be a voice: it contains control characters"),
        ("x" * 10_000, f"'{'x' * 60}...' cannot be a voice: it is longer than 200 characters"),
    ],
)
def test_an_impossible_name_is_refused(demo: Path, name: str, problem: str) -> None:
    voices = mapper(demo)
    with pytest.raises(VoiceError) as refused:
        voices.resolve(name)
    assert str(refused.value) == f"speaker_name: {problem}"
    assert voices.get_voice_path(name) is None


def test_a_name_of_200_characters_is_looked_up(demo: Path) -> None:
    assert mapper(demo).resolve("x" * 200)[0].name == "en-Alice_woman"


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outer") / "voices"
    folder.mkdir()
    voice(folder, "en-Alice_woman.wav")
    voice(folder, "Stra\u00dfe.wav")
    voice(folder.parent, "secret.wav")
    settle(folder)
    return folder


PIECES = (
    "..",
    "/",
    "\\",
    "\0",
    "en-",
    "Alice",
    "_woman",
    ".wav",
    "secret",
    "voices",
    "*",
    "?",
    " ",
)
NAMES = st.one_of(
    st.text(st.characters(codec=None), max_size=210),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
)


@given(name=NAMES, strict=st.booleans())
@settings(max_examples=400)
def test_no_name_of_any_kind_escapes_the_folder_or_crashes(
    lonely: Path, name: str, strict: bool
) -> None:
    voices = mapper(lonely, strict=strict)
    inside = {lonely / "en-Alice_woman.wav", lonely / "Stra\u00dfe.wav"}
    path = voices.get_voice_path(name)
    assert path is None or path in inside
    try:
        found, said = voices.resolve(name)
    except VoiceError as error:
        said = [str(error)]
    else:
        assert found.name in {path.stem for path in inside}
        assert path is None or not name.strip() or found.name == path.stem
    assert str(lonely.parent) not in "".join(said).replace(name, "")
    assert all(len(line) < 1_000 and line.isprintable() for line in said)


def test_a_link_that_leads_outside_is_skipped_and_never_opened(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = voice(demo.parent, "secret.wav")
    (demo / "stolen.wav").symlink_to(secret)
    (demo / "climbing.wav").symlink_to("../secret.wav")
    opened: list[Path] = []
    really = Path.open

    def watched(path: Path, mode: str) -> object:
        opened.append(path)
        return really(path, mode)

    monkeypatch.setattr(Path, "open", watched)
    voices = mapper(demo)
    assert len(voices.names()) == 7
    assert voices.problems() == [
        "'climbing.wav' leads outside the folder",
        "'stolen.wav' leads outside the folder",
    ]
    assert voices.resolve("stolen")[0].name == "en-Alice_woman"
    assert {path.stem for path in opened} == set(voices.names())


def test_a_link_that_is_turned_outside_after_the_scan_is_not_opened(demo: Path) -> None:
    secret = voice(demo.parent, "secret.wav", pitch=700)
    (demo / "linked.wav").symlink_to("en-Alice_woman.wav")
    settle(demo)
    voices = mapper(demo)
    assert "linked" in voices.names()
    (demo / "linked.wav").unlink()
    (demo / "linked.wav").symlink_to(secret)
    settle(demo)
    os.utime(secret, ns=(LONG_AGO, LONG_AGO))
    found, warnings = voices.resolve("linked")
    assert found.name == "en-Alice_woman"
    assert warnings[0] == "speaker_name: file 'linked.wav' leads outside the folder"


def test_links_inside_the_folder_and_a_linked_folder_are_fine(demo: Path) -> None:
    (demo / "Boss.wav").symlink_to("en-Alice_woman.wav")
    (demo.parent / "linked").symlink_to(demo)
    voices = mapper(demo.parent / "linked")
    boss, alice = voices.resolve("Boss")[0], voices.resolve("Alice")[0]
    assert boss.name == "Boss"
    assert boss.sha256 == alice.sha256


@pytest.mark.parametrize("file", ["list.m4a", "list.mp3", "list.ogg"])
def test_a_playlist_is_not_followed(folder: Path, file: str) -> None:
    voice(folder.parent, "secret.wav")
    (folder / "outside").symlink_to(folder.parent)
    (folder / file).write_text("ffconcat version 1.0\nfile outside/secret.wav\n")
    with av.open(folder / file, "r") as playlist:
        assert sum(frame.samples for frame in playlist.decode(audio=0)) == 24_000  # FFmpeg would
    voices = mapper(folder)
    assert voices.names() == ()
    assert voices.problems() == [f"'{file}' is not readable as audio"]


@pytest.mark.parametrize("stem", [b"new\nline", b"latin-\xe9", b"x" * 201])
def test_a_file_whose_name_nobody_can_send_is_a_problem(folder: Path, stem: bytes) -> None:
    voice(folder, "a.wav").rename(folder / os.fsdecode(stem + b".wav"))
    voices = mapper(folder)
    assert voices.names() == ()
    assert len(voices.problems()) == 1
    assert "cannot be a voice: its name" in voices.problems()[0]
    assert voices.problems()[0].isprintable()


@pytest.mark.parametrize("stem", ["it's 100% a?b:c", "http:x", "\u58f0\u97f3", "a%03d", "-i"])
@pytest.mark.parametrize("extension", [".mp3", ".wav"])
def test_any_other_file_name_will_do(folder: Path, stem: str, extension: str) -> None:
    how, codec = (by_av, "mp3") if extension == ".mp3" else (by_soundfile, "PCM_16")
    how(folder / f"a{extension}", 44_100, 1, codec)
    (folder / f"a{extension}").rename(folder / f"{stem}{extension}")
    assert len(heard(mapper(folder, strict=True), stem)) == 5 * SAMPLE_RATE


def test_other_files_are_ignored(demo: Path) -> None:
    (demo / "README.md").write_text("voices")
    voice(demo, ".partial.wav")
    (demo / "nested").mkdir()
    voices = mapper(demo)
    assert len(voices.names()) == 7
    assert voices.problems() == []


def test_all_kinds_of_audio_files_are_found(folder: Path) -> None:
    assert EXTENSIONS == (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".webm", ".aac", ".opus")
    for extension in EXTENSIONS:
        if extension in (".wav", ".flac"):
            by_soundfile(folder / f"a{extension}", 8_000, 1, "PCM_16")
        else:
            codec = {".mp3": "mp3", ".m4a": "aac", ".aac": "aac"}.get(extension, "libopus")
            by_av(folder / f"b{extension[1:]}{extension}", 48_000, 1, codec)
    assert mapper(folder).names() == ("a", "baac", "bm4a", "bmp3", "bogg", "bopus", "bwebm")


def test_the_engine_wall_imports_no_decoder() -> None:
    code = "import sys, engines.base; print({'av', 'pydub', 'soundfile'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_names_from_elsewhere_mean_voices_here_unless_a_voice_has_them(tmp_path: Path) -> None:
    others = {"echo": "Frank", "ash": "Carter", "nova": "Gone"}
    mapper = VoiceMapper(
        tmp_path, default="Alice", builtin=("Alice", "Frank", "Natasha", "Carter"), others=others
    )
    found = {name: mapper.resolve(name) for name in ("echo", "ECHO", "ash", "nova")}
    assert [found[name][0].name for name in found] == ["Frank", "Frank", "Carter", "Alice"]
    assert [bool(found[name][1]) for name in found] == [False, False, False, True]
    own = VoiceMapper(tmp_path, default="Alice", builtin=("Alice", "Echo", "Frank"), others=others)
    assert own.resolve("echo")[0].name == "Echo"
