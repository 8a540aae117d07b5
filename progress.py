"""How far a job has come, told to RunPod while it runs: `/status` shows it as the output.

The SDK's own `progress_update` sends from a thread that nobody waits for, and its post was seen to
arrive after the job's result, which leaves the job in progress for ever. Here the last post has
ended before the block does.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from runpod.http_client import AsyncClientSession
from runpod.serverless.modules.rp_http import send_result

from recorder import Progress

INTERVAL_SEC = 2.0
_TIMEOUT_SEC = 5.0


@asynccontextmanager
async def reporting(job: dict[str, Any], progress: Progress) -> AsyncIterator[None]:
    """Reports `progress` every two seconds while it changes. Does nothing off the platform."""
    if not os.environ.get("RUNPOD_WEBHOOK_POST_OUTPUT"):
        yield
        return
    done = asyncio.Event()
    reporter = asyncio.create_task(_report(job, progress, done))
    try:
        yield
    finally:
        done.set()
        await reporter


async def _report(job: dict[str, Any], progress: Progress, done: asyncio.Event) -> None:
    told: dict[str, Any] = {}
    async with AsyncClientSession() as session:
        while not await _is_set(done, INTERVAL_SEC):
            state = asdict(progress)
            if state == told or not progress.chunks_total:
                continue
            told = state
            shown = {**state, "audio_sec": round(progress.audio_sec, 1)}
            try:
                async with asyncio.timeout(_TIMEOUT_SEC):
                    await send_result(session, {"status": "IN_PROGRESS", "output": shown}, job)
            except TimeoutError:
                continue  # a slow platform must not hold up the job; the next state is tried


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
