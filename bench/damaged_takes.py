"""Paragraphs that Kokoro speaks, whole and damaged: what `verify` has to pass, and what to find."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from audio.pcm import SAMPLE_RATE, Samples, silence
from audio.shaping import Trim
from tests import real_speech
from text.reading import read
from text.sentences import sentences

VOICES = ("jf_alpha", "jm_kumo", "jf_gongitsune", "jf_nezumi", "jf_tebukuro")
_PAUSE_SEC = 0.25
_SMALL = 0.9  # of Opus: 30 kbit/s
_FILE = Path(__file__).with_name("unseen_paragraphs.txt")
PARAGRAPHS = tuple(
    read(line).passages[0].text.text for line in _FILE.read_text(encoding="utf-8").splitlines()
)
"""As they are read: what the voice says for an amount of money is not its own choice."""


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """What should have been said, by which voice, and what is to be heard; `kind` of damage."""

    kind: str
    text: str
    voice: str
    samples: Samples


class Kokoro:
    """Kokoro's voices at 24 kHz, one thread. What was said once is kept in `folder`, as Opus."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str, voice: str) -> Samples:
        """(n,) samples of one sentence, without the quiet before and after it."""
        name = hashlib.sha256(f"{voice}:{text}".encode()).hexdigest()[:32]
        kept = self._folder / f"{name}.ogg"
        if not kept.exists():
            edges = Trim(SAMPLE_RATE)
            made = np.concatenate([edges.feed(real_speech.kokoro(text, voice)), edges.flush()])
            soundfile.write(kept, made, SAMPLE_RATE, subtype="OPUS", compression_level=_SMALL)
        samples: Samples = soundfile.read(kept, dtype="float32")[0]
        return samples


def whole(kokoro: Kokoro, index: int) -> Take:
    """A paragraph as it should be, by one of the five voices in turn."""
    text, voice = PARAGRAPHS[index], VOICES[index % len(VOICES)]
    return Take("none", text, voice, _joined(kokoro, voice, _cut(text)))


def damaged(kokoro: Kokoro, index: int, kind: str) -> Take:
    """The same paragraph with damage of a kind, always the same."""
    take, draw = whole(kokoro, index), random.Random(f"{kind} {index}")
    return Take(kind, take.text, take.voice, _DAMAGE[kind](kokoro, take, draw))


def takes(kokoro: Kokoro, count: int) -> Iterator[Take]:
    """`count` damaged takes of all kinds in turn, each of another paragraph."""
    kinds = tuple(_DAMAGE)
    for number in range(count):
        yield damaged(
            kokoro, (number * 7 + number // 40) % len(PARAGRAPHS), kinds[number % len(kinds)]
        )


def _cut(text: str) -> list[str]:
    return [text[slice(*span)] for span in sentences(text)]


def _joined(kokoro: Kokoro, voice: str, said: list[str]) -> Samples:
    pause = silence(round(_PAUSE_SEC * SAMPLE_RATE))
    parts = [part for each in said for part in (kokoro.say(each, voice), pause)]
    return np.concatenate(parts[:-1])


def _dropped(kokoro: Kokoro, take: Take, draw: random.Random) -> Samples:
    said = _cut(take.text)
    del said[draw.randrange(len(said))]
    return _joined(kokoro, take.voice, said)


def _repeated(kokoro: Kokoro, take: Take, draw: random.Random) -> Samples:
    said = _cut(take.text)
    at = draw.randrange(len(said))
    words = said[at].split()
    word = draw.choice([n for n, word in enumerate(words[:-1]) if word.isalpha()])
    said[at] = " ".join([*words[:word], *[words[word]] * 5, *words[word + 1 :]])
    return _joined(kokoro, take.voice, said)


def _ended(_: Kokoro, take: Take, draw: random.Random) -> Samples:
    return take.samples[: round(draw.uniform(0.5, 0.93) * len(take.samples))]


def _with(sound: Callable[[random.Random], Samples]) -> Callable[..., Samples]:
    def insert(kokoro: Kokoro, take: Take, draw: random.Random) -> Samples:
        """Half of the time between two sentences, where no word is lost."""
        at = draw.randrange(len(take.samples))
        if draw.random() < 0.5:
            first = _cut(take.text)[: draw.randint(1, len(_cut(take.text)) - 1)]
            at = len(_joined(kokoro, take.voice, first))
        level = np.sqrt(np.square(take.samples).mean())
        made = sound(draw)
        made *= level / np.sqrt(np.square(made).mean())
        return np.concatenate([take.samples[:at], made, take.samples[at:]])

    return insert


def _noise(draw: random.Random) -> Samples:
    white = np.random.default_rng(draw.getrandbits(32)).standard_normal(SAMPLE_RATE)
    return np.convolve(white, np.ones(draw.choice((1, 4, 16))), "same").astype(np.float32)


def _music(draw: random.Random) -> Samples:
    """Four chords of a quarter of a second, each of three plucked tones with overtones."""
    time = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    chords = []
    for _ in range(4):
        roots = [220 * 2 ** (draw.randrange(13) / 12 + step / 12) for step in (0, 4, 7)]
        tones = [np.sin(2 * np.pi * f * n * time) / n for f in roots for n in (1, 2, 3)]
        chords.append(np.sum(tones, axis=0) * np.exp(-3 * time))
    return np.concatenate(chords).astype(np.float32)


def _other_text(kokoro: Kokoro, take: Take, draw: random.Random) -> Samples:
    """Another paragraph in the same voice."""
    other = (PARAGRAPHS.index(take.text) + len(VOICES) * draw.randint(1, 7)) % len(PARAGRAPHS)
    return whole(kokoro, other).samples


def _silent(_: Kokoro, take: Take, __: random.Random) -> Samples:
    return silence(len(take.samples))


def _other_voice(kokoro: Kokoro, take: Take, draw: random.Random) -> Samples:
    voice = draw.choice([voice for voice in VOICES if voice != take.voice])
    return _joined(kokoro, voice, _cut(take.text))


_DAMAGE: dict[str, Callable[[Kokoro, Take, random.Random], Samples]] = {
    "a sentence dropped": _dropped,
    "a word five times": _repeated,
    "ended early": _ended,
    "noise inside": _with(_noise),
    "music inside": _with(_music),
    "another text": _other_text,
    "silence": _silent,
    "another voice": _other_voice,
}
KINDS = tuple(_DAMAGE)
