"""Posts a job's progress to RunPod while it runs; `/status` shows it as the job's output.

The SDK's own `progress_update` posts from a thread that is never joined. Such a post was seen to
arrive after the job's result, and then the job stays in progress for ever. Here the last post has
ended when the `reporting` block ends.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from runpod.http_client import AsyncClientSession
from runpod.serverless.modules.rp_http import send_result

from synthesis.quality import Progress


@dataclass(slots=True)
class Heard:
    """How far a recording has been heard; written by one task, read by another."""

    heard_sec: float = 0.0
    audio_sec: float = 0.0
    segments: int = 0
    warning: str = ""


INTERVAL_SEC = 2.0
_TIMEOUT_SEC = 5.0


@asynccontextmanager
async def reporting(
    job: dict[str, Any], progress: Progress | Heard
) -> AsyncIterator[Callable[[str], None]]:
    """Posts `progress` every two seconds while it changes. Does nothing outside RunPod.

    The block gets a function; a warning passed to it is posted at once.
    """
    wake, done = asyncio.Event(), asyncio.Event()

    def tell(warning: str) -> None:
        progress.warning = warning
        if warning:
            wake.set()

    if not os.environ.get("RUNPOD_WEBHOOK_POST_OUTPUT"):
        yield tell
        return
    reporter = asyncio.create_task(_report(job, progress, wake, done))
    try:
        yield tell
    finally:
        done.set()
        wake.set()
        await reporter


async def _report(
    job: dict[str, Any], progress: Progress | Heard, wake: asyncio.Event, done: asyncio.Event
) -> None:
    told: dict[str, Any] = {}
    async with AsyncClientSession() as session:
        while True:
            await _is_set(wake, INTERVAL_SEC)
            if done.is_set():
                return
            wake.clear()
            state = asdict(progress)
            if state == told or not state.get("chunks_total", progress.audio_sec):
                continue
            told = state
            shown = {
                name: round(value, 1) if isinstance(value, float) else value
                for name, value in state.items()
            }
            if not progress.warning:
                del shown["warning"]
            try:
                async with asyncio.timeout(_TIMEOUT_SEC):
                    await send_result(session, {"status": "IN_PROGRESS", "output": shown}, job)
            except TimeoutError:
                continue  # RunPod's API is slow; drop this post, so that the job never waits for it


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
