"""The HTTP server with the preview voice, over loopback, from a process of its own.

    python -m bench.server [name ...]    (first_byte cancel frames engine many memory table)

`engine` is what decided where the engine runs: the gaps between paced frames while N threads of the
server's process, or N other processes, run pure Python.
"""

import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.asyncio.client import connect

from tests.http_server import Server, server_process

TEXT = "The quick brown fox jumps over the lazy dog. " * 4
ASK = {"model": "tts-1", "voice": "Alice", "input": TEXT, "response_format": "pcm"}
BUSY = """
import sys, threading, multiprocessing, runpy
def work():
    while True: sum(i * i for i in range(1000))
if __name__ == "__main__":
    kind, count = sys.argv[1], int(sys.argv[2])
    if kind == "switch": sys.setswitchinterval(0.0005)
    make = multiprocessing.Process if kind == "processes" else threading.Thread
    for _ in range(count): make(target=work, daemon=True).start()
    runpy.run_path("server.py", run_name="__main__")
"""


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


async def one_answer(client: httpx.AsyncClient, url: str) -> tuple[float, float, float]:
    """Seconds to the first byte of audio, seconds in all, seconds of audio."""
    start = time.monotonic()
    first = 0.0
    count = 0
    async with client.stream("POST", f"{url}/v1/audio/speech", json=ASK) as reply:
        if reply.status_code != 200:
            raise RuntimeError((await reply.aread()).decode())
        async for data in reply.aiter_raw():
            first = first or time.monotonic() - start
            count += len(data)
    return first, time.monotonic() - start, count / 48_000


async def answers(url: str, at_once: int, count: int) -> list[tuple[float, float, float]]:
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(limits=limits, timeout=300) as client:
        places = asyncio.Semaphore(at_once)

        async def one() -> tuple[float, float, float]:
            async with places:
                return await one_answer(client, url)

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


async def begun(url: str, **config: Any) -> Any:
    socket = await connect(url.replace("http", "ws") + "/v1/audio/speech/stream", max_size=None)
    config = {"type": "session.config", "voice": "Alice", **config}
    await socket.send(json.dumps(config))
    await socket.send(json.dumps({"type": "input.text", "text": TEXT * 5}))
    await socket.send(json.dumps({"type": "input.done"}))
    return socket


async def cancels(url: str, rounds: int) -> list[float]:
    """Milliseconds from a cancel to the last thing that came of it."""
    times: list[float] = []

    async def one() -> None:
        for _ in range(rounds):
            socket = await begun(url, paced=True)
            heard = 0
            while heard < 20:
                heard += isinstance(await socket.recv(), bytes)
            start = time.monotonic()
            await socket.send(json.dumps({"type": "cancel"}))
            while not (isinstance(data := await socket.recv(), str) and "cancelled" in data):
                pass
            times.append((time.monotonic() - start) * 1e3)
            await socket.close()

    await asyncio.gather(*(one() for _ in range(8)))
    return times


def cancel() -> None:
    with started() as server:
        times = asyncio.run(cancels(server.url, 10))
        print(
            f"cancel to last byte, 8 sessions: p50 {of(times, 0.5):.1f} ms, "
            f"p95 {of(times, 0.95):.1f} ms"
        )


async def gaps(url: str, sessions: int, frames: int = 250) -> list[float]:
    found: list[float] = []

    async def one() -> None:
        socket = await begun(url, paced=True)
        last = 0.0
        count = 0
        while count < frames:
            if isinstance(await socket.recv(), bytes):
                now = time.monotonic()
                if last and count > 10:
                    found.append((now - last) * 1e3)
                last = now
                count += 1
        await socket.close()

    await asyncio.gather(*(one() for _ in range(sessions)))
    return found


def say_gaps(what: str, found: list[float]) -> None:
    off = [abs(gap - 20) for gap in found]
    print(
        f"{what}: gap p50 {of(found, 0.5):.1f} ms, from 20 ms p95 {of(off, 0.95):.1f} ms, "
        f"p99 {of(off, 0.99):.1f} ms",
        flush=True,
    )


def frames() -> None:
    with started() as server:
        for sessions in (3, 8):
            say_gaps(f"{sessions} paced sessions", asyncio.run(gaps(server.url, sessions)))


def engine() -> None:
    for kind in ("threads", "switch", "processes"):
        for busy in (1, 2):
            with started("-c", BUSY, kind, str(busy)) as server:
                found = asyncio.run(gaps(server.url, 3, 150))
                say_gaps(f"3 paced sessions beside {busy} busy {kind}", found)


def many() -> None:
    with started() as server:
        made = asyncio.run(answers(server.url, 64, 256))
        print(f"64 streams at once: {len(made)} answers, no error")


def memory() -> None:
    with started() as server:
        process = psutil.Process(server.pid)
        asyncio.run(answers(server.url, 8, 100))
        early = process.memory_info().rss / 1e6
        asyncio.run(answers(server.url, 8, 900))
        late = process.memory_info().rss / 1e6
        asyncio.run(answers(server.url, 8, 1000))
        latest = process.memory_info().rss / 1e6
        print(
            f"memory: {early:.0f} MB after 100 requests, {late:.0f} MB after 1,000, "
            f"{latest:.0f} MB after 2,000"
        )


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


PARTS = (first_byte, cancel, frames, engine, many, memory, table)


def main() -> None:
    logging.disable()  # a line for every request otherwise
    named = sys.argv[1:]
    for part in PARTS:
        if not named or part.__name__ in named:
            part()


if __name__ == "__main__":
    main()
