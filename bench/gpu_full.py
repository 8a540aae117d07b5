"""What only `gpu_check --full` asks: upstream on the same device, and the whole server."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import httpx

from bench.gpu_card import Card
from bench.gpu_row import Row, failed, not_here, ok
from bench.server import ASK, of, started
from bench.sockets import tiny_model
from engines.base import SAMPLE_RATE
from request.errors import EngineError

_FRAMES = 40
_TEXT = "The first train leaves at six. And the second? Nobody knows, for it was raining. " * 2
_AT_ONCE = (1, 8, 32)
_WAIT_SEC = 300
_BYTES_A_SECOND = 2 * SAMPLE_RATE


def upstream(card: Card) -> Iterator[Row]:
    """Its `generate` at batch 1. The weights are gone when this is done, so that both fit in turn
    where they do not fit side by side."""
    try:
        first, each = _upstream_seconds(card)
    except (EngineError, ImportError) as problem:
        yield not_here("upstream", str(problem))
        return
    finally:
        card.drop()
    card.upstream_ms = 1000 * each
    yield ok(
        "upstream",
        f"{1000 * each:.2f} ms a frame, the first after {1000 * first:.0f} ms",
        ms=1000 * each,
        first_ms=1000 * first,
    )


def _upstream_seconds(card: Card) -> tuple[float, float]:
    from bench.frame_loop import Subject, Upstream

    speaker = Upstream(Subject(card.size, str(card.device), card.code, _FRAMES, 10))
    speaker.speak(3)
    return speaker.speak(_FRAMES)


def ratio(card: Card) -> Iterator[Row]:
    name = "faster than upstream"
    if card.upstream_ms is None or not card.frames_ms:
        yield not_here(name, "one of both was not measured")
        return
    for slots, context in sorted({min(card.frames_ms), max(card.frames_ms)}):
        times = slots * card.upstream_ms / card.frames_ms[slots, context]
        yield ok(f"{name}, {slots}", f"{times:.1f} x, frames alone, {slots}x{context}", times=times)


@dataclass(frozen=True, slots=True)
class Listened:
    """`late` is how long playback would have waited for audio behind its first, in seconds."""

    first: float
    audio: float
    late: float


def server(card: Card) -> Iterator[Row]:
    """`server.py` as it is deployed, over loopback: listeners who start to play at once."""
    card.drop()
    settings = _settings(card)
    if settings is None:
        yield not_here("server", "MODEL_PATH names no model; random weights never end a text")
        return
    with settings as chosen, started(**chosen) as one:
        asyncio.run(_listen_all(one.url, 2, 2))
        for at_once in _AT_ONCE:
            begun = time.monotonic()
            heard = asyncio.run(_listen_all(one.url, at_once, max(8, 2 * at_once)))
            yield _server_row(at_once, heard, time.monotonic() - begun)


def _settings(card: Card) -> AbstractContextManager[dict[str, str]] | None:
    if card.size == "tiny":
        return tiny_model()
    if not os.environ.get("MODEL_PATH"):
        return None
    # The server's own, as the worker's: MODEL_PATH, VIBEVOICE_* and what CUDA and Python need.
    kept = ("MODEL_", "VIBEVOICE_", "MAX_", "CUDA", "NVIDIA", "LD_", "HF_", "PYTHON")
    chosen = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    return nullcontext({**chosen, "ENGINE": "vibevoice"})


def _server_row(at_once: int, heard: list[Listened], seconds: float) -> Row:
    firsts = [1000 * each.first for each in heard]
    underruns = sum(each.late > 0 for each in heard)
    pace = sum(each.audio for each in heard) / seconds
    p50, p95 = of(firsts, 0.5), of(firsts, 0.95)
    silent = sum(each.audio == 0 for each in heard)
    return (failed if silent else ok)(
        f"server, {at_once} at once",
        f"first audio p50 {p50:.0f} ms, p95 {p95:.0f} ms; {pace:.1f} s of audio a second;"
        f" {underruns} of {len(heard)} streams ran dry",
        p50_ms=p50,
        p95_ms=p95,
        audio_sec=pace,
        underruns=underruns,
        streams=len(heard),
    )


async def _listen_all(url: str, at_once: int, count: int) -> list[Listened]:
    places = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(timeout=_WAIT_SEC) as client:

        async def one(number: int) -> Listened:
            async with places:
                return await _listen(client, url, f"Number {number}. {_TEXT}")

        return await asyncio.gather(*(one(number) for number in range(count)))


async def _listen(client: httpx.AsyncClient, url: str, text: str) -> Listened:
    start = time.monotonic()
    first = late = 0.0
    count = 0
    ask = {**ASK, "input": text}
    async with client.stream("POST", f"{url}/v1/audio/speech", json=ask) as reply:
        if reply.status_code != 200:
            raise RuntimeError((await reply.aread()).decode())
        async for data in reply.aiter_raw():
            now = time.monotonic() - start
            first = first or now
            # What has come so far, played from the first piece on, ends before this one came.
            late = max(late, now - first - count / _BYTES_A_SECOND) if count else late
            count += len(data)
    return Listened(first, count / _BYTES_A_SECOND, late)
