"""Piper's voices: what their descriptions say, and which names answer to them."""

import json
from pathlib import Path
from typing import Any

import pytest

from engines.base import Options, Plan, PlannedChunk, Turn, Voice
from engines.piper.engine import PiperEngine
from engines.piper.voices import PREVIEWS, find_voices
from request.errors import EngineError

DESCRIPTION = {
    "audio": {"sample_rate": 16_000},
    "espeak": {"voice": "de"},
    "inference": {"noise_scale": 0.3, "length_scale": 1.1, "noise_w": 0.4},
    "phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [3]},
    "num_speakers": 1,
    "speaker_id_map": {},
}


def write(folder: Path, name: str, **changes: Any) -> Path:
    (folder / f"{name}.onnx").write_bytes(b"no model")
    described = folder / f"{name}.onnx.json"
    described.write_text(json.dumps(DESCRIPTION | changes))
    return described


def test_a_file_of_one_speaker_is_a_voice_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "lena")
    voice = find_voices(tmp_path)["lena"]
    assert (voice.rate, voice.language, voice.speaker) == (16_000, "gmw/de", None)
    assert (voice.scales, voice.ids["a"], voice.pitch) == ((0.3, 1.1, 0.4), [3], 1.0)


def test_a_file_of_several_speakers_is_a_voice_for_each(tmp_path: Path) -> None:
    write(tmp_path, "many", num_speakers=2, speaker_id_map={"p225": 0, "p226": 1})
    found = find_voices(tmp_path)
    own = {name: voice.speaker for name, voice in found.items() if name not in PREVIEWS}
    assert own == {"many-p225": 0, "many-p226": 1}
    # The first preview names are these; the others are told apart by their pitch.
    sounds = {(voice.speaker, voice.pitch) for name, voice in found.items() if name in PREVIEWS}
    assert len(sounds) == len(PREVIEWS)


def test_speakers_without_names_have_numbers(tmp_path: Path) -> None:
    write(tmp_path, "many", num_speakers=3)
    own = [name for name in find_voices(tmp_path) if name not in PREVIEWS]
    assert own == ["many-0", "many-1", "many-2"]


def test_what_pipers_own_library_does_not_need_may_be_missing(tmp_path: Path) -> None:
    described = write(tmp_path, "old")
    facts = json.loads(described.read_text())
    for name in ("speaker_id_map", "num_speakers", "inference"):
        del facts[name]
    described.write_text(json.dumps(facts))
    voice = find_voices(tmp_path)["old"]
    assert (voice.speaker, voice.scales) == (None, (0.667, 1.0, 0.8))


@pytest.mark.parametrize(
    "text",
    [None, "", "[]", "{", '{"audio": {}}', json.dumps(DESCRIPTION | {"phoneme_id_map": {"a": [3]}}),
     json.dumps(DESCRIPTION | {"audio": {"sample_rate": 0}}),
     json.dumps(DESCRIPTION | {"num_speakers": 10**9})],
)  # fmt: skip
def test_a_description_that_is_missing_or_wrong_is_a_sentence(
    tmp_path: Path, text: str | None
) -> None:
    described = write(tmp_path, "lena")
    described.unlink()
    if text is not None:
        described.write_text(text)
    engine = PiperEngine(tmp_path, 1)
    for refused in (engine.check, engine.load):
        with pytest.raises(EngineError) as caught:
            refused()
        assert str(caught.value) == "Piper's voice lena: lena.onnx.json is missing or wrong"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"espeak": {"voice": "tlh"}}, "has a language that espeak-ng has not"),
        ({"phoneme_type": "pinyin"}, "speaks from no phonemes of espeak-ng"),
    ],
)
def test_a_voice_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    write(tmp_path, "lena", **changes)
    with pytest.raises(EngineError, match=problem):
        PiperEngine(tmp_path, 1).check()


def test_a_damaged_model_is_a_sentence(tmp_path: Path) -> None:
    write(tmp_path, "lena")
    with pytest.raises(EngineError, match=r"lena cannot be loaded: lena\.onnx is no model"):
        PiperEngine(tmp_path, 1).load()


def test_where_a_language_is_asked_for_a_voice_of_it_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "anna", espeak={"voice": "fr-fr"})
    write(tmp_path, "lena")
    engine = PiperEngine(tmp_path, 1)
    assert engine.capabilities.languages == ("fr", "de")
    asked = list[str]()
    monkeypatch.setattr(engine, "session", lambda voice: asked.append(voice.path.stem))
    for tag in ("de", "fr"):
        chunk = PlannedChunk((Turn(0, "Hallo."),), 0)
        engine.start(Plan((chunk,), (Voice("Alice"),), Options(language=tag)))
    assert asked == ["lena", "anna"]
