"""How often a right take is judged bad, and a damaged one good, with the weight of `text.pace`
and with the one that counted characters.

220 made-up texts of eleven kinds, each spoken sentence by sentence by the preview voice; five right
takes of each, 0.75 to 1.35 times as long, and as many damaged in three ways.
"""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

from engines.espeak import library as espeak_library
from text import pace
from text.pace import Pace

EACH, TAKES = 20, 5
TOLERANCE = 2.5  # PACE_TOLERANCE, as it comes
_TOLERANCES = [round(1.4 + 0.1 * step, 1) for step in range(67)]
_ENGLISH = "gmw/en-US"

Weight = Callable[[str], int]
Draw = random.Random


def old_weight(text: str) -> int:
    """A digit weighed as much as a letter, a symbol nothing."""
    wide = sum("\u3040" <= char <= "\u30ff" or "\u3400" <= char <= "\ud7af" for char in text)
    return sum(map(str.isalnum, text)) + text.count(" ") + 3 * wide


@dataclass(frozen=True)
class Spoken:
    kind: str
    text: str
    seconds: list[float]  # of each sentence


_WORDS = (  # noqa: SIM905 - a list of forty strings reads worse
    "river window people morning letter garden station under before little always carried quiet "
    "through older winter between never across water evening kitchen paper answer walked slowly "
    "yellow summer nothing found early among corner silver hundred believed again small friend"
).split()
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_CAPITALS = "IBM FBI HTML USA BBC XML CEO GPU TCP VPN DNS MRI ATM PhD".split()  # noqa: SIM905
_FOREIGN = {
    "gmw/de": "Die Sitzung am {d}. {m}. {y} beginnt um {h}:{n} Uhr, und es kamen {p} Leute.",
    "roa/es": "La reunión empezó a las {h}:{n} y vinieron {p} personas en {y} por la calle.",
    "roa/fr": "Le train de {h}:{n} est parti avec {p} voyageurs le {d}/{m}/{y} vers la mer.",
    "zle/ru": "Собрание началось в {h}:{n}, и пришли {p} человек в {y} году к реке.",
    "sit/cmn": "会议在{y}年{m}月{d}日开始,大家都来了,一共有{p}个人参加。",
    "jpx/ja": "かいぎは{m}がつ{d}にちにはじまり、コンピュータについて{p}にんがはなしました。",
    "ko": "회의는 {m}월 {d}일에 시작했고 모두 {p}명이 함께 이야기를 나누었습니다.",
    "inc/hi": "बैठक {h} बजे शुरू हुई और {y} में {p} लोग वहाँ आए थे।",
}


def _digits(draw: Draw, count: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(count))


def _words(draw: Draw, least: int = 8, most: int = 22) -> str:
    words = [draw.choice(_WORDS) for _ in range(draw.randint(least, most))]
    return " ".join(words).capitalize()


def _serial(draw: Draw) -> str:
    groups = [
        "".join(draw.choice(_LETTERS + "0123456789") for _ in range(draw.randint(3, 6)))
        for _ in range(3)
    ]
    return "-".join(groups)


def _phone(draw: Draw) -> str:
    area, rest = draw.randint(20, 999), _digits(draw, 7)
    forms = (
        f"0{area}{rest}",
        f"+44 {area} {rest[:3]} {rest[3:]}",
        f"({area}) {rest[:3]}-{rest[3:]}",
    )
    return draw.choice(forms)


def _time(draw: Draw) -> str:
    year, month, day = draw.randint(1900, 2030), draw.randint(1, 12), draw.randint(1, 28)
    date = draw.choice(
        (f"{year}-{month:02}-{day:02}", f"{day:02}/{month:02}/{year}", f"May {day}, {year}")
    )
    return f"{date} at {draw.randint(1, 23)}:{draw.randint(10, 59)}"


def _amount(draw: Draw) -> str:
    number = draw.choice((draw.randint(1, 99) * 1000, draw.randint(1000, 9_999_999)))
    return draw.choice(
        (f"{number:,} dollars", f"€{number:,}", f"{number / 100:.2f} pounds", f"{number % 100}%")
    )


def _formula(draw: Draw) -> str:
    a, b, c = (draw.randint(2, 99) for _ in range(3))
    unit = draw.choice(("kg", "km/h", "MHz", "cm", "°C", "GB"))
    return draw.choice(
        (f"{a} x + {b} = {c}", f"{a} {unit}", f"{a / 7:.3f} / {b}", f"{a}² × {b} ≤ {c}")
    )


def _address(draw: Draw) -> str:
    first, second = draw.choice(_WORDS), draw.choice(_WORDS)
    ip = ".".join(str(draw.randint(1, 255)) for _ in range(4))
    return draw.choice((f"docs.{first}.com/{second}", f"{first}@{second}.org", ip))


def _listed(draw: Draw, item: Callable[[Draw], str]) -> str:
    """A sentence of a few words and several of such things."""
    items = [item(draw) for _ in range(draw.randint(2, 4))]
    return f"{_words(draw, 1, 3)} {', '.join(items)} or {item(draw)}."


def _dialogue(draw: Draw) -> str:
    said = f'"{_words(draw, 2, 7)}{draw.choice(",!?")}" said {draw.choice(("Tom", "Anna"))}.'
    return said if draw.random() < 0.7 else f"{said} {_words(draw, 3, 9)}."


_KINDS: dict[str, Callable[[Draw], str]] = {
    "prose": lambda draw: f"{_words(draw)}.",
    "dialogue": _dialogue,
    "few words": lambda draw: f"{_words(draw, 1, 4)}.",
    "phone numbers": lambda draw: _listed(draw, _phone),
    "dates, times": lambda draw: _listed(draw, _time),
    "amounts": lambda draw: _listed(draw, _amount),
    "serial numbers": lambda draw: _listed(draw, _serial),
    "formulas, units": lambda draw: _listed(draw, _formula),
    "spelled capitals": lambda draw: _listed(draw, lambda draw: draw.choice(_CAPITALS)),
    "addresses": lambda draw: _listed(draw, _address),
}


def _foreign(draw: Draw, form: str) -> str:
    return form.format(
        d=draw.randint(1, 28),
        m=draw.randint(1, 12),
        y=draw.randint(1900, 2030),
        h=draw.randint(1, 23),
        n=draw.randint(10, 59),
        p=draw.randint(2, 9999),
    )


def texts(draw: Draw) -> Iterator[tuple[str, str, list[str]]]:
    """The kind, espeak's language and the sentences of each."""
    for kind, sentence in _KINDS.items():
        for _ in range(EACH):
            yield kind, _ENGLISH, [sentence(draw) for _ in range(draw.randint(2, 5))]
    for at in range(EACH):
        language, form = list(_FOREIGN.items())[at % len(_FOREIGN)]
        yield "eight languages", language, [_foreign(draw, form) for _ in range(draw.randint(2, 5))]


def speak(draw: Draw) -> list[Spoken]:
    library = espeak_library.load()
    never = threading.Event()

    def seconds(sentence: str, language: str) -> float:
        pcm = library.say(sentence, language, "f2", (142, 220), 0, never)
        return len(pcm) / library.rate

    return [
        Spoken(kind, " ".join(parts), [seconds(part, language) for part in parts])
        for kind, language, parts in texts(draw)
    ]


def dropped(draw: Draw, seconds: list[float]) -> float:
    return sum(seconds) - draw.choice(seconds)


def looped(draw: Draw, seconds: list[float]) -> float:
    return sum(seconds) + 2 * draw.choice(seconds)


def stopped(_: Draw, seconds: list[float]) -> float:
    return sum(seconds) / 3


_DAMAGES = {
    "a sentence is missing": dropped,
    "a sentence comes three times": looped,
    "ended at a third": stopped,
}

Take = tuple[Spoken, float]


def _whole(_: Draw, seconds: list[float]) -> float:
    return sum(seconds)


def _takes(
    draw: Draw,
    spoken: list[Spoken],
    length: Callable[[Draw, list[float]], float] = _whole,
    times: tuple[float, float] = (0.75, 1.35),
) -> list[Take]:
    return [
        (each, length(draw, each.seconds) * draw.uniform(*times))
        for each in spoken
        for _ in range(TAKES)
    ]


def _share(takes: list[Take], tolerance: float, weight: Weight) -> float:
    """Of takes that are judged odd, each by a voice that was not heard before."""
    judge = Pace(tolerance)
    with mock.patch.object(pace, "weight", weight):
        odd = [judge.is_odd("A", spoken.text, seconds) for spoken, seconds in takes]
    return sum(odd) / len(odd)


def _tolerance_for(right: list[Take], weight: Weight) -> float:
    """The least at which at most one right take of a hundred is judged bad."""
    return next(each for each in _TOLERANCES if _share(right, each, weight) <= 0.01)


def _taught(right: list[Take], weight: Weight) -> float:
    """What a voice that said the spelled capitals takes longer for prose, as it is expected."""
    voice = Pace(TOLERANCE)
    with mock.patch.object(pace, "weight", weight):
        for spoken, seconds in right:
            if spoken.kind == "spelled capitals":
                voice.learn("A", spoken.text, seconds)
        return voice.expected("A", "a" * 100) / Pace(TOLERANCE).expected("A", "a" * 100)


def main() -> None:
    draw = Draw(15)
    spoken = speak(draw)
    right = _takes(draw, spoken)
    damaged = {name: _takes(draw, spoken, damage) for name, damage in _DAMAGES.items()}
    fit = [_tolerance_for(right, weight) for weight in (old_weight, pace.weight)]
    old = [(tolerance, old_weight) for tolerance in (3.0, fit[0])]
    new = [(tolerance, pace.weight) for tolerance in (3.0, TOLERANCE, 2.0, fit[1])]
    columns = [*old, *new]
    heads = [f"characters, {at:g}" for at, _ in old] + [f"what is said, {at:g}" for at, _ in new]
    print(f"| {len(spoken)} texts | {' | '.join(heads)} |")
    print(f"|{' --- |' * (1 + len(columns))}")
    for kind in dict.fromkeys(each.kind for each in spoken):
        takes = [take for take in right if take[0].kind == kind]
        _row(kind, [_share(takes, *each) for each in columns])
    _row("right takes judged bad", [_share(right, *each) for each in columns])
    for name, factor in (("slower", 1.3), ("faster", 1 / 1.3)):
        takes = _takes(draw, spoken, times=(0.9 * factor, 1.1 * factor))
        _row(f"of a voice 30 % {name}, judged bad", [_share(takes, *each) for each in columns])
    for name, takes in damaged.items():
        _row(f"judged good: {name}", [1 - _share(takes, *each) for each in columns])
    taught = [_taught(right, weight) for weight in (old_weight, pace.weight)]
    print(
        f"Prose after spelled capitals: expected {taught[0]:.2f} and {taught[1]:.2f} times as long"
    )


def _row(name: str, shares: list[float]) -> None:
    print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")


if __name__ == "__main__":
    main()
