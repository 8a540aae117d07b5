"""The preview voice: espeak-ng on the CPU, for demos and tests without a GPU.

It clones no voice. A built-in name has its own espeak voice. Any other name gets one by the words
in it (`Alice`, `woman`, `man`), else by its hash. A turn is read in one language, chosen by the
script of most of its letters. Latin letters are read as English. Han characters are read as
Japanese only where kana outnumber them. A script outside `_LANGUAGES` is spelled out in English.
Options and attempts are ignored. A seed changes only the breath noise.

espeak speaks one piece of text at a time (about 15 s of speech in 15 ms), in the thread that
iterates. Its lock is released between pieces, so a slow reader blocks no other speech. The lock
serves the earliest deadline first: a deadline is when the speech's listener has heard all that was
made. So a speech without sound yet precedes all that are ahead of real time.
"""

import re
import threading
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio.pcm import Resampler, silence
from engines.base import SAMPLE_RATE, Capabilities, End, Frame, Plan, PlannedChunk, Samples, Voice
from engines.espeak import library as espeak_library
from engines.espeak.library import Library
from request.errors import Cancelled
from text.aligned import AlignedText
from text.cleaning.symbols import plain_letters
from text.sentences import sentences

_FRAME = 3200  # samples: 133 ms, as VibeVoice's
_PIECE = 240  # characters; the slowest piece found (spelled letters) takes espeak 0.2 s


@dataclass(frozen=True, slots=True)
class _Look:
    """One of espeak's voice variants, and our pitch for it: base and top in Hz, before stress."""

    variant: str
    pitch: tuple[int, int]
    woman: bool


# Neighbours in pitch are 9 % apart or more. Measured medians in Hz: Mary 155, Alice 189,
# Xinran 211, Maya 238; Samuel 84, Anchen 92, Frank 104, Carter 123, Bowen 141.
_LOOKS = {
    "Alice": _Look("f2", (142, 220), woman=True),
    "Frank": _Look("m3", (82, 124), woman=False),
    "Carter": _Look("m7", (89, 146), woman=False),
    "Maya": _Look("f3", (170, 270), woman=True),
    "Mary": _Look("f4", (125, 178), woman=True),
    "Samuel": _Look("m6", (62, 100), woman=False),
    "Xinran": _Look("f5", (168, 240), woman=True),
    "Bowen": _Look("m2", (124, 160), woman=False),
    "Anchen": _Look("m4", (70, 108), woman=False),
}

_ENGLISH = "gmw/en-US"
# The first word of a letter's or digit's Unicode name, and espeak's language for that script.
_LANGUAGES = {
    "LATIN": _ENGLISH,
    "CJK": "sit/cmn",
    "BOPOMOFO": "sit/cmn",
    "HIRAGANA": "jpx/ja",
    "KATAKANA": "jpx/ja",
    "KATAKANA-HIRAGANA": "jpx/ja",
    "HANGUL": "ko",
    "CYRILLIC": "zle/ru",
    "GREEK": "grk/el",
    "ARMENIAN": "ine/hy",
    "GEORGIAN": "ccs/ka",
    "HEBREW": "sem/he",
    "ARABIC": "sem/ar",
    "ARABIC-INDIC": "sem/ar",
    "EXTENDED": "sem/ar",  # Arabic-Indic digits as Persian writes them
    "ETHIOPIC": "sem/am",
    "DEVANAGARI": "inc/hi",
    "BENGALI": "inc/bn",
    "GUJARATI": "inc/gu",
    "GURMUKHI": "inc/pa",
    "ORIYA": "inc/or",
    "SINHALA": "inc/si",
    "TAMIL": "dra/ta",
    "TELUGU": "dra/te",
    "KANNADA": "dra/kn",
    "MALAYALAM": "dra/ml",
    "THAI": "tai/th",
    "MYANMAR": "sit/my",
}


def _tag(language: str) -> str:
    """The BCP 47 tag of one of espeak's languages."""
    name = language.rpartition("/")[2]
    return {"cmn": "zh", "en-US": "en"}.get(name, name)


# Where a long turn may be cut, best first: after a sentence, after a clause, between words.
_CUTS = [
    re.compile(p) for p in (r"[.!?…][\"'”’)\]]*\s|[。！？।።။\n]", r"[,;:]\s|[，、；：]", r"\s")
]


class EspeakEngine:
    """The preview voice as an `Engine`. Any number of speeches may run side by side."""

    capabilities = Capabilities(
        name="espeak",
        cloning=False,
        in_caller=True,
        voices=tuple(_LOOKS),
        languages=("en", *sorted({_tag(path) for path in _LANGUAGES.values()} - {"en"})),
    )

    lost = False

    def __init__(self) -> None:
        self.ready = False

    def check(self) -> None:
        espeak_library.load()

    def inspect(self) -> Capabilities:
        return self.capabilities

    def load(self) -> None:
        """Raises `EngineError` where espeak or its data is missing."""
        espeak_library.load()
        self.ready = True

    def start(self, plan: Plan) -> "EspeakSpeech":
        self.load()
        return EspeakSpeech(espeak_library.load(), plan)

    def close(self) -> None:
        """Does nothing: the library stays in the process, and running speeches go on."""
        self.ready = False


class EspeakSpeech:
    """See `engines.base.Speech`. All work is done by the thread that iterates."""

    def __init__(self, library: Library, plan: Plan) -> None:
        self._library = library
        self._plan = plan
        self._looks = _cast(plan.voices)
        self._cancelled = threading.Event()
        self._due = 0.0  # deadline: when the listener has heard all audio so far, monotonic seconds

    def cancel(self) -> None:
        self._cancelled.set()
        self._library.line.wake()

    def __iter__(self) -> Iterator[Frame | End]:
        self._due = time.monotonic()
        for event in self._events():
            if self._cancelled.is_set():
                raise Cancelled
            if isinstance(event, Frame):
                self._due += len(event.samples) / SAMPLE_RATE
            yield event

    def _events(self) -> Iterator[Frame | End]:
        for index, chunk in enumerate(self._plan.chunks):
            frame = None
            for samples in _framed(self._resampled(chunk)):
                frame = Frame(index, samples)
                yield frame
            yield End(index, "eos" if frame else "empty", chunk.seed)

    def _resampled(self, chunk: PlannedChunk) -> Iterator[Samples]:
        converter = Resampler(self._library.rate, SAMPLE_RATE)
        for pcm in self._pieces(chunk):
            converted = converter.feed(pcm.astype(np.float32) / np.float32(32768))
            yield np.clip(converted, -1, 1)  # the resampler may overshoot full scale
        yield np.clip(converter.flush(), -1, 1)

    def _pieces(self, chunk: PlannedChunk) -> Iterator[NDArray[np.int16]]:
        for turn in chunk.turns:
            text = _plain(turn.text)
            language = _language(text)
            look = self._looks[turn.speaker]
            for piece in _cut(text):
                if not any(map(str.isalnum, piece)):  # espeak would read a lone "!" as a word
                    continue
                with self._library.line.enter(self._cancelled, self._due):
                    pcm = self._library.say(
                        piece, language, look.variant, look.pitch, chunk.seed, self._cancelled
                    )
                if self._cancelled.is_set():
                    raise Cancelled
                if pcm.any():
                    yield pcm


def _cast(voices: Iterable[Voice]) -> list[_Look]:
    """A look for every voice; all differ while there are enough looks."""
    cast: dict[tuple[str, str], str] = {}
    for name, sha256 in sorted({(v.name, v.sha256): 0 for v in voices}, key=_is_borrowed):
        wishes = _wishes(name)
        cast[name, sha256] = next((w for w in wishes if w not in cast.values()), wishes[0])
    return [_LOOKS[cast[voice.name, voice.sha256]] for voice in voices]


def _is_borrowed(voice: tuple[str, str]) -> bool:
    return voice[0] not in _LOOKS


def _wishes(name: str) -> list[str]:
    """All built-in names, the best match for a voice of this name first."""
    words = re.findall("[a-z]+", name.lower())
    named = [known for known in _LOOKS if known.lower() in words]
    women = {_LOOKS[known].woman for known in named} or {
        word == "woman" for word in words if word in ("woman", "man")
    }
    fitting = [known for known in _LOOKS if not women or _LOOKS[known].woman in women]
    first = zlib.crc32(name.encode(errors="surrogatepass")) % len(fitting)
    return list(dict.fromkeys([*named, *fitting[first:], *fitting[:first], *_LOOKS]))


def _plain(text: str) -> str:
    """The text with characters that espeak reads correctly.

    Wide, circled and joined letters and digits become ordinary ones. Powers and the rarer fractions
    become words, because espeak drops or misreads them. Control characters are removed, because
    espeak takes commands after a 0x01. So are lone surrogates and unassigned code points. Newlines
    and the joiners of Indic scripts stay.
    """
    plain = plain_letters(AlignedText(text)).text
    return "".join(
        c if c in "\n\u200c\u200d" or unicodedata.category(c)[0] != "C" else " "
        for c in _UNKNOWN.sub(_in_words, plain)
    )


# espeak reads halves, thirds and quarters correctly, and m² as "m two".
_UNKNOWN = re.compile("[\u2150-\u2152\u2155-\u215e]|(?<=[A-Za-z0-9)])[\u00b2\u00b3]")
_POWERS = {"\u00b2": "squared", "\u00b3": "cubed"}


def _in_words(match: re.Match[str]) -> str:
    name = unicodedata.name(match[0]).removeprefix("VULGAR FRACTION ").lower()
    return f" {_POWERS.get(match[0], name)}"


def _language(text: str) -> str:
    scripts = (unicodedata.name(c, "").split(" ")[0] for c in text if c.isalnum())
    languages = Counter(_LANGUAGES[script] for script in scripts if script in _LANGUAGES)
    return max(languages, key=languages.__getitem__, default=_ENGLISH)


def _cut(text: str) -> Iterator[str]:
    """Pieces of at most `_PIECE` characters; the first is one sentence, for an early start."""
    if (spans := sentences(text[:_PIECE]))[1:]:
        yield text[: spans[1][0]]
        text = text[spans[1][0] :]
    while len(text) > _PIECE:
        ends = ([m.end() for m in cut.finditer(text[:_PIECE])] for cut in _CUTS)
        end = next((found[-1] for found in ends if found), _PIECE)
        yield text[:end]
        text = text[end:]
    yield text


def _framed(parts: Iterable[Samples]) -> Iterator[Samples]:
    """Regroups samples into frames of `_FRAME`, given out once full; the last may be shorter."""
    rest = silence(0)
    for part in parts:
        rest = np.concatenate([rest, part])
        full = len(rest) - len(rest) % _FRAME
        yield from (rest[at : at + _FRAME] for at in range(0, full, _FRAME))
        rest = rest[full:]
    if len(rest):
        yield rest
