"""How long it takes to plan a book (clean, split, pack), and to clean and to cut hostile text."""

import time
from collections.abc import Callable

from bench.prose import prose
from text.chunks import Limits, plan_text
from text.reading import read

CHARACTERS = 180_000
HOSTILE_CHARACTERS = 1_000_000
# The slowest of some 120 that were tried: each finds its step's most work in the fewest characters.
HOSTILE = ("\n1\n", "# a\n", "$1 ", "5 € ", "①", "10^", "a¹,", " [1] a", "\\nA", "\\(a=")
CUT_HOSTILE = (
    '?"',
    "\u201ca",
    "a! ",
    "1. ",
    "left.She ",
    "\u0442. \u0435. ",
    "\u5b57",
    "\u5b57\u3002",
)


def main() -> None:
    book = prose(CHARACTERS)
    plan_text("Warm up.", Limits())
    runs = []
    for _ in range(3):
        start = time.perf_counter()
        plan = plan_text(book, Limits(), {"Filby": "Fill bee"})
        runs.append(time.perf_counter() - start)
    best = min(runs)
    chunks = len(plan.chunks)
    print(f"{CHARACTERS} characters into {chunks} chunks: {best:.3f} s (goal: below 0.5 s)")
    for name, units, seconds in (("clean", HOSTILE, _clean), ("cut", CUT_HOSTILE, _cut)):
        worst, unit = max((_hostile_seconds(unit, seconds), unit) for unit in units)
        print(f"{name} 1,000,000 hostile characters: {worst:.2f} s ({unit!r}; goal: below 3 s)")


def _hostile_seconds(unit: str, seconds: Callable[[str], float]) -> float:
    return seconds(f"Begin. {unit * (HOSTILE_CHARACTERS // len(unit))}\n\nEnd.")


def _clean(text: str) -> float:
    start = time.process_time()
    read(text)
    return time.process_time() - start


def _cut(text: str) -> float:
    cleaning, start = _clean(text), time.process_time()
    plan_text(text, Limits())
    return time.process_time() - start - cleaning


if __name__ == "__main__":
    main()
