"""The HTTP server with the preview voice, over loopback, from a process of its own.

python -m bench.server [name ...]    (first_byte many memory table)
python -m bench.server against /elsewhere/server.py    in turns with another version's
"""

import asyncio
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.http_server import Server, server_process

TEXT = "The quick brown fox jumps over the lazy dog. " * 4
SHORT = "The quick brown fox."
ASK = {"model": "tts-1", "voice": "Alice", "response_format": "pcm"}


@contextmanager
def started(*command: str, **settings: str) -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory() as folder,
        server_process(Path(folder), *command, **settings) as one,
    ):
        yield one


def of(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def one_answer(
    client: httpx.AsyncClient, url: str, text: str = TEXT
) -> tuple[float, float, float]:
    """Seconds to the first byte of audio, seconds in all, seconds of audio."""
    start = time.monotonic()
    first = 0.0
    count = 0
    ask = {**ASK, "input": text}
    async with client.stream("POST", f"{url}/v1/audio/speech", json=ask) as reply:
        if reply.status_code != 200:
            raise RuntimeError((await reply.aread()).decode())
        async for data in reply.aiter_raw():
            first = first or time.monotonic() - start
            count += len(data)
    return first, time.monotonic() - start, count / 48_000


async def answers(
    url: str, at_once: int, count: int, text: str = TEXT
) -> list[tuple[float, float, float]]:
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(limits=limits, timeout=300) as client:
        places = asyncio.Semaphore(at_once)

        async def one() -> tuple[float, float, float]:
            async with places:
                return await one_answer(client, url, text)

        return await asyncio.gather(*(one() for _ in range(count)))


def first_byte() -> None:
    with started() as server:
        asyncio.run(answers(server.url, 4, 8))
        for at_once in (1, 8, 32):
            made = asyncio.run(answers(server.url, at_once, max(60, 4 * at_once)))
            firsts = [first * 1e3 for first, _, _ in made]
            print(
                f"first byte, {at_once} streams: p50 {of(firsts, 0.5):.1f} ms, "
                f"p95 {of(firsts, 0.95):.1f} ms",
                flush=True,
            )


def many() -> None:
    with started() as server:
        made = asyncio.run(answers(server.url, 64, 256))
        print(f"64 streams at once: {len(made)} answers, no error")


def memory() -> None:
    """Short answers, since only their number counts: what an answer needs while it is made has
    been needed before."""
    counts = (100, 1000, 2000, 5000, 10_000)
    print("| requests | memory of the process |")
    print("| --- | --- |")
    with started() as server:
        process = psutil.Process(server.pid)
        made = 0
        for count in counts:
            asyncio.run(answers(server.url, 8, count - made, SHORT))
            made = count
            print(f"| {made:,} | {process.memory_info().rss / 1e6:.0f} MB |", flush=True)


def table() -> None:
    print("| workers | first audio p50 | p99 | average RTF | requests/s |")
    print("| --- | --- | --- | --- | --- |")
    with started() as server:
        asyncio.run(answers(server.url, 4, 8))
        for workers in (1, 2, 4, 8, 16, 32):
            start = time.monotonic()
            made = asyncio.run(answers(server.url, workers, max(60, 4 * workers)))
            took = time.monotonic() - start
            firsts = [first * 1e3 for first, _, _ in made]
            factor = statistics.mean(spent / audio for _, spent, audio in made)
            print(
                f"| {workers} | {of(firsts, 0.5):.1f} ms | {of(firsts, 0.99):.1f} ms | "
                f"{factor:.4f} | {len(made) / took:.1f} |",
                flush=True,
            )


def against() -> None:
    """32 streams at once at this version's server and at another's, in turns; medians."""
    other = next((word for word in sys.argv[1:] if word.endswith(".py")), None)
    if other is None:
        return
    with started(other) as before, started() as now:
        figures: dict[str, list[tuple[float, float, float]]] = {before.url: [], now.url: []}
        for turn in range(6):
            for url, found in figures.items():
                start = time.monotonic()
                made = asyncio.run(answers(url, 32, 128))
                if turn:  # the first warms it up
                    firsts = [first * 1e3 for first, _, _ in made]
                    rate = len(made) / (time.monotonic() - start)
                    found.append((of(firsts, 0.5), of(firsts, 0.95), rate))
        medians = {
            url: list(map(statistics.median, zip(*f, strict=True))) for url, f in figures.items()
        }
    for name, url in (("before", before.url), ("now", now.url)):
        p50, p95, rate = medians[url]
        print(f"{name}: first byte p50 {p50:.0f} ms, p95 {p95:.0f} ms, {rate:.2f} answers/s")
    ratios = [new / old for old, new in zip(medians[before.url], medians[now.url], strict=True)]
    print("now / before: p50 {:.2f}, p95 {:.2f}, answers/s {:.2f}".format(*ratios))


PARTS = (first_byte, many, memory, table, against)


def run(parts: Iterable[Callable[[], None]]) -> None:
    """Those that the command line names, else all."""
    logging.disable()  # a line for every request otherwise
    named = sys.argv[1:]
    for part in parts:
        if not named or part.__name__ in named:
            part()


if __name__ == "__main__":
    run(PARTS)
