"""The WebSocket: how soon a cancel ends it, how evenly paced frames come, and how long sentences
take while others wait.

    python -m bench.sockets [name ...]    (cancel frames waiting model engine)

`model` has the tiny VibeVoice checkpoint in the preview voice's place: paced sessions that it
speaks while it also makes two unpaced answers, in a process of its own and in the server's.
`engine` is what decided that: the gaps between paced frames while N threads of the server's
process, or N other processes, run pure Python.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from bench.server import ASK, SHORT, TEXT, of, one_answer, run, started

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

IN_PROCESS = """
import runpy
import engines.vibevoice
engines.vibevoice.IN_PROCESS = True
runpy.run_path("server.py", run_name="__main__")
"""


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
            data = await socket.recv()
            if isinstance(data, str) and json.loads(data)["type"] in ("session.done", "error"):
                raise RuntimeError(f"{data} after {count} frames")
            if isinstance(data, bytes):
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


async def slow_reader(url: str) -> None:
    """Takes minutes of sound at 2 MB a second."""
    ask = {**ASK, "input": TEXT * 20}
    async with (
        httpx.AsyncClient(timeout=300) as client,
        client.stream("POST", f"{url}/v1/audio/speech", json=ask) as reply,
    ):
        async for _ in reply.aiter_raw(100_000):
            await asyncio.sleep(0.05)


async def further_sentences(url: str) -> float:
    """Seconds for the second and third sentence of an utterance, while a slow reader waits for the
    only seat."""
    socket = await connect(url.replace("http", "ws") + "/v1/audio/speech/stream", max_size=None)

    async def say(**message: Any) -> None:
        await socket.send(json.dumps(message))

    async def sentences(count: int) -> None:
        while count:
            data = await socket.recv()
            if isinstance(data, str) and '"error"' in data:
                raise RuntimeError(data)
            count -= isinstance(data, str) and '"audio.done"' in data

    await say(type="session.config", voice="Alice", max_buffer_delay_ms=60_000)
    await say(type="input.text", text=f"{SHORT} {SHORT} ")
    await sentences(1)
    reader = asyncio.create_task(slow_reader(url))
    await asyncio.sleep(0.5)
    start = time.monotonic()
    await say(type="input.text", text=SHORT)
    await say(type="input.done")
    await sentences(2)
    took = time.monotonic() - start
    await socket.close()
    await reader
    return took


def waiting() -> None:
    with started(MAX_STREAMS="1") as server:
        times = [asyncio.run(further_sentences(server.url)) for _ in range(5)]
    print(
        f"two further sentences with a slow reader in the queue: p50 {of(times, 0.5):.2f} s, "
        f"longest {max(times):.2f} s",
        flush=True,
    )


@contextmanager
def tiny_model() -> Iterator[dict[str, str]]:
    """The settings that make it speak."""
    import soundfile

    from bench.vibevoice_reference import voice
    from tests.tiny_checkpoint import tiny_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder, "tiny"))
        voices = Path(folder, "volume", "demo", "voices")
        voices.mkdir(parents=True)
        soundfile.write(voices / "Alice.wav", voice(3.5), 24_000)
        yield {
            "ENGINE": "vibevoice",
            "MODEL_PATH": str(checkpoint),
            "VIBEVOICE_VOLUME": str(Path(folder, "volume")),
            "PACE_TOLERANCE": "100",
        }


async def busy_gaps(url: str, sessions: int) -> list[float]:
    """Of paced sessions, beside two callers who take answers as fast as they are made."""

    async def taken(client: httpx.AsyncClient) -> None:
        while True:
            await one_answer(client, url)

    async with httpx.AsyncClient(timeout=300) as client:
        await one_answer(client, url)
        takers = [asyncio.create_task(taken(client)) for _ in range(2)]
        try:
            return await gaps(url, sessions)
        finally:
            for taker in takers:
                taker.cancel()
            await asyncio.wait(takers)


def model() -> None:
    with tiny_model() as settings:
        for where, command in (
            ("in a process of its own", ()),
            ("in the server's", ("-c", IN_PROCESS)),
        ):
            with started(*command, **settings) as server:
                for sessions in (3, 8):
                    found = asyncio.run(busy_gaps(server.url, sessions))
                    say_gaps(f"{sessions} paced sessions, the model {where}", found)


def engine() -> None:
    for kind in ("threads", "switch", "processes"):
        for busy in (1, 2):
            with started("-c", BUSY, kind, str(busy)) as server:
                found = asyncio.run(gaps(server.url, 3, 150))
                say_gaps(f"3 paced sessions beside {busy} busy {kind}", found)


PARTS = (cancel, frames, waiting, model, engine)

if __name__ == "__main__":
    run(PARTS)
