"""Made-up prose of any length, always the same: paragraphs, dialogue, abbreviations, markup."""

import random

_WORDS = (  # noqa: SIM905 - a list of forty strings reads worse
    "time machine the of and traveller for so it will be convenient to speak him was expounding "
    "a recondite matter us his pale grey eyes shone twinkled usually face flushed animated fire"
).split()
_ENDS = (".", ".", ".", "?", "!", ", said Mr. Filby.", "; that is all.", " (etc.).")


def prose(characters: int) -> str:
    draw = random.Random(1895)
    paragraphs: list[str] = []
    length = 0
    while length < characters:
        sentences = []
        for _ in range(draw.randint(1, 8)):
            words = [draw.choice(_WORDS) for _ in range(draw.randint(3, 30))]
            sentences.append(" ".join(words).capitalize() + draw.choice(_ENDS))
        paragraphs.append(" ".join(sentences))
        length += len(paragraphs[-1]) + 2
    return "\n\n".join(paragraphs)[:characters]
