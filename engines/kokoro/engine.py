"""Kokoro as an engine.

A voice speaks the language that a request asks for, else the one that its name tells (`bf_emma`:
British English), else English. A text in a script of none of the languages is refused before any
sound.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from engines.base import Capabilities, Plan, Samples, Turn
from engines.casting import cast
from engines.espeak import library as espeak_library
from engines.espeak.languages import LANGUAGES as ESPEAKS
from engines.espeak.languages import asked_for, language_of
from engines.kokoro.files import Files
from engines.kokoro.styles import blended, offered
from engines.onnx import Cores, load_session
from engines.phonemic import PhonemicSpeech
from request.errors import RequestError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Of each token the place is its number; a low line stands where there is none.
_VOCABULARY = (
    '_;:,.!?__—…"()“” ̃ʣʥʦʨᵝꭧAI_____O_Q_ST__W_Yᵊabcdef_hijklmnopqrstuvwxyz'
    "ɑɐɒæ__βɔɕç_ɖðʤə_ɚɛɜ__ɟ_ɡ______ɥ_ɨɪʝ______ɯɰŋɳɲɴø_ɸθœ__ɹ_ɾɻ_ʁɽʂʃʈʧ_ʊʋ_ʌɣɤ"
    "_χʎ___ʒʔ_______ˈˌː___ʰ_ʲ____↓_→↗↘___ᵻ"
)
_TOKENS = {mark: number for number, mark in enumerate(_VOCABULARY) if mark != "_"}
_SPACE = _TOKENS[" "]
_MOST_TOKENS = 510
_LEVEL = np.float32(0.8)  # some styles come at 1.07 times full scale

LANGUAGES = ("en", "en-GB", "de", "es", "fr", "hi", "it", "pt-BR")
_PATHS = {ESPEAKS[tag]: tag for tag in LANGUAGES}
_OF_VOICES = {"b": "en-GB", "e": "es", "f": "fr", "h": "hi", "i": "it", "p": "pt-BR"}
"""The language of a voice by the first letter of its name in Kokoro's files, if not `en`."""


class KokoroEngine:
    """Kokoro-82M as an `Engine`. Any number of speeches share one session."""

    lost = False

    def __init__(self, files: Files, threads: int | None) -> None:
        self._files = files
        self._cores = Cores(threads)
        self._loading = threading.Lock()
        self._loaded: tuple[InferenceSession, dict[str, Samples]] | None = None
        self.capabilities = Capabilities(
            name="kokoro",
            cloning=False,
            voices=offered(files.names()),
            languages=LANGUAGES,
            jobs=4,
        )

    @property
    def ready(self) -> bool:
        return self._loaded is not None

    def inspect(self) -> Capabilities:
        return self.capabilities

    def check(self) -> None:
        espeak_library.load()
        self._files.styles()
        self._files.model_path()

    def load(self) -> None:
        """Raises `EngineError` where a file or a package is missing or damaged."""
        self._model()

    def _model(self) -> "tuple[InferenceSession, dict[str, Samples]]":
        with self._loading:
            if self._loaded is None:
                espeak_library.load()
                styles = self._files.styles()
                path = self._files.model_path()
                self._loaded = load_session(path, "Kokoro", self._cores.threads), styles
            return self._loaded

    def start(self, plan: Plan) -> "KokoroSpeech":
        """Raises `RequestError` where Kokoro does not read a text's script."""
        for chunk in plan.chunks:
            for turn in chunk.turns:
                _language(plan, turn)
        names = cast(plan.voices, self.capabilities.voices)
        session, styles = self._model()
        return KokoroSpeech(plan, self._cores, session, [blended(n, styles) for n in names])

    def close(self) -> None:
        """Lets go of the model; speeches that are under way keep it until their end."""
        self._loaded = None


class KokoroSpeech(PhonemicSpeech):
    """A speech by Kokoro, with a style for each voice of the plan."""

    def __init__(
        self, plan: Plan, cores: Cores, session: "InferenceSession", styles: list[Samples]
    ) -> None:
        super().__init__(plan, cores)
        self._session, self._styles = session, styles
        # Exports differ in this name.
        self._tokens = session.get_inputs()[0].name

    def language(self, turn: Turn) -> str:
        return _language(self.plan, turn)

    def sounds(self, speaker: int, phonemes: str) -> Iterator[Samples]:
        style = self._styles[speaker]
        for tokens in _within_limit([_TOKENS[mark] for mark in phonemes if mark in _TOKENS]):
            inputs = {
                self._tokens: np.array([[0, *tokens, 0]], np.int64),
                "style": style[len(tokens) - 1],
                "speed": np.ones(1, np.float32),
            }
            yield self.run(self._session, inputs) * _LEVEL


def _language(plan: Plan, turn: Turn) -> str:
    voice = plan.voices[turn.speaker].name
    wanted = (
        *asked_for(plan.options.language, voice),
        _OF_VOICES.get(voice[:1] if voice[2:3] == "_" else "", "en"),
    )
    path = language_of(turn.text, [tag for tag in wanted if tag in LANGUAGES])
    if path not in _PATHS:
        problem = f"Kokoro does not read its script ({path.rpartition('/')[2]})"
        raise RequestError(problem, "text", allowed=", ".join(LANGUAGES))
    return path


def _within_limit(tokens: list[int]) -> Iterator[list[int]]:
    """At most `_MOST_TOKENS` at a time, cut between words where there are any."""
    while len(tokens) > _MOST_TOKENS:
        most = tokens[:_MOST_TOKENS]
        cut = _MOST_TOKENS - most[::-1].index(_SPACE) if _SPACE in most else _MOST_TOKENS
        yield tokens[:cut]
        tokens = tokens[cut:]
    if tokens:
        yield tokens
