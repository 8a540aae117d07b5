"""Which of an engine's own voices speaks for each voice of a plan, where the engine clones none."""

import re
import zlib
from collections.abc import Iterable, Sequence

from voices.catalogue import Voice

WOMEN = ("Alice", "Maya", "Mary", "Xinran")
"""Of the names that every preview engine answers to, those that sound like a woman."""


def cast(voices: Iterable[Voice], own: Sequence[str]) -> list[str]:
    """A name out of `own` for every voice; all differ while there are enough.

    A voice of that name gets it. Another gets one by the words in its name (`Alice`, `woman`,
    `man`), else by its hash.
    """
    voices = list(voices)
    chosen: dict[tuple[str, str], str] = {}
    for key in sorted({(v.name, v.sha256): 0 for v in voices}, key=lambda k: k[0] not in own):
        wishes = _wishes(key[0], own)
        chosen[key] = next((wish for wish in wishes if wish not in chosen.values()), wishes[0])
    return [chosen[voice.name, voice.sha256] for voice in voices]


def _wishes(name: str, own: Sequence[str]) -> list[str]:
    """All of `own`, the best match for a voice of this name first."""
    words = re.findall("[a-z]+", name.lower())
    named = [each for each in own if each == name or each.lower() in words]
    sexes = {each in WOMEN for each in named} or {
        word == "woman" for word in words if word in ("woman", "man")
    }
    fitting = [each for each in own if not sexes or (each in WOMEN) in sexes]
    first = zlib.crc32(name.encode(errors="surrogatepass")) % len(fitting)
    return list(dict.fromkeys([*named, *fitting[first:], *fitting[:first], *own]))
