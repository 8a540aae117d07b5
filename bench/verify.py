"""What `verify` finds, on Kokoro's speech heard by Whisper base, and how exact its word times are.

    python -m bench.verify [folder for Kokoro's takes]

Three tables: false alarms on 40 paragraphs, 120 damaged takes by kind, beside what the length check
alone finds, and word times against espeak's own word events. A quarter of an hour on one core.
"""

import ctypes
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

from audio.pcm import SAMPLE_RATE, Samples, resample
from bench.damaged_takes import PARAGRAPHS, Kokoro, Take, takes, whole
from engines.base import Turn, Voice
from engines.manager import ModelManager, Policy
from text.heard import Heard
from text.pace import Pace
from transcription.registry import register_recognizer
from transcription.speakers import SpeakerEncoder, available
from transcription.verifier import SpeechVerifier

_DAMAGED = 120
_TOLERANCE = 2.5  # PACE_TOLERANCE's default


def make_verifier() -> SpeechVerifier:
    """Whisper base on one thread, with the encoder of speakers where it is installed."""
    encoder = SpeakerEncoder() if available() else None
    lease = register_recognizer(ModelManager(Policy()), {"cpu_threads": 1})
    return SpeechVerifier(lease, encoder)


def heard(verifier: SpeechVerifier, take: Take) -> Heard:
    turns, voices = [Turn(0, take.text)], [Voice(take.voice)]
    return verifier.hear(turns, voices, None, take.samples).result()


def found(verifier: SpeechVerifier, pace: Pace, damaged: Iterable[Take]) -> dict[str, Counter[str]]:
    """By kind of damage: how many takes there are, and how many were found by either check."""
    table: dict[str, Counter[str]] = {}
    for take in damaged:
        row = table.setdefault(take.kind, Counter())
        seconds = _sounding(take.samples)
        row["takes"] += 1
        row["verify"] += bool(heard(verifier, take).problem)
        row["length"] += not seconds or pace.is_odd(take.voice, take.text, seconds)
    return table


def _sounding(samples: Samples) -> float:
    return len(samples) / SAMPLE_RATE if samples.any() else 0.0


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # in milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_END_OF_LIST, _WORD = 0, 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def espeak_words(text: str) -> tuple[Samples, dict[int, float]]:
    """espeak's speech at 24 kHz, and the second at which each word begins, by its first character.

    Not in a process that also has the preview voice: the library has global state.
    """
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(2, 500, str(espeakng_loader.get_data_path()).encode(), 0x8000)
    made: list[NDArray[np.int16]] = []
    starts: dict[int, float] = {}

    def collect(wave: "ctypes._Pointer[ctypes.c_short]", count: int, events: object) -> int:
        if wave and count:
            made.append(np.ctypeslib.as_array(wave, (count,)).copy())
        at = 0
        while (event := events[at]).type != _END_OF_LIST:  # type: ignore[index]
            if event.type == _WORD:
                starts[event.text_position - 1] = event.audio_position / 1000
            at += 1
        return 0

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(b"en-us")
    utf8 = text.encode()
    library.espeak_Synth(utf8, len(utf8) + 1, 0, 1, 0, 1, None, None)
    samples = np.concatenate(made).astype(np.float32) / np.float32(32768)
    return resample(samples, rate, SAMPLE_RATE), starts


def _in_another_process(texts: Sequence[str]) -> list[tuple[Samples, dict[int, float]]]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return list(pool.map(espeak_words, texts))


def word_errors_sec(verifier: SpeechVerifier, texts: Sequence[str]) -> NDArray[np.float64]:
    """How far the begin of each word is from where espeak says that it began."""
    errors: list[float] = []
    for text, (samples, starts) in zip(texts, _in_another_process(texts), strict=True):
        words = heard(verifier, Take("none", text, "espeak", samples)).words
        known = [word for word in words if word.start in starts]
        errors += [abs(word.start_sec - starts[word.start]) for word in known]
    return np.array(errors)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        closing(make_verifier()) as verifier,
    ):
        kokoro, pace = Kokoro(Path((*sys.argv[1:], temporary)[0])), Pace(_TOLERANCE)
        good = [whole(kokoro, index) for index in range(len(PARAGRAPHS))]
        verifier.load().result()
        began = time.process_time()
        problems = [heard(verifier, take).problem for take in good]
        spent = time.process_time() - began
        for take in good:
            pace.learn(take.voice, take.text, _sounding(take.samples))
        length = sum(pace.is_odd(each.voice, each.text, _sounding(each.samples)) for each in good)
        spoken = sum(_sounding(take.samples) for take in good)
        print(f"CPU seconds a second of speech: {spent / spoken:.3f}")
        print(f"false alarms of {len(good)}: verify {sum(map(bool, problems))}, length {length}")
        print(*filter(None, problems), sep="\n")
        print("\n| Damage | Takes | Found | By the length alone |\n| --- | --- | --- | --- |")
        table = found(verifier, pace, takes(kokoro, _DAMAGED))
        for kind, row in [*table.items(), ("all", sum(table.values(), Counter()))]:
            print(f"| {kind} | {row['takes']} | {row['verify']} | {row['length']} |")
        errors = word_errors_sec(verifier, PARAGRAPHS[:20]) * 1000
        print(
            f"\nword times, {len(errors)} words: median {np.median(errors):.0f} ms, "
            f"90 % within {np.percentile(errors, 90):.0f} ms, "
            f"{np.mean(errors <= 200):.1%} within 200 ms"
        )


if __name__ == "__main__":
    main()
