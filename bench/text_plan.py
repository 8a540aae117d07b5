"""How long it takes to plan a book: clean, split, pack."""

import time

from bench.prose import prose
from speech.chunks import Limits, plan_text

CHARACTERS = 180_000


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


if __name__ == "__main__":
    main()
