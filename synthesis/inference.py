"""The inference layer, which all doors share: requests become streams, files and dry runs.

Work is done in threads, off the event loop. Memory does not grow with the audio: chunks are shaped
as their frames come, and what has to wait waits on disk. Cancelling the awaiting task stops the
engine.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from audio.loudness import LoudnessMemory
from config import ROOT, Settings, on_runpod
from delivery.fetch import fetch_voice
from engines.base import Engine
from engines.priority_lock import PriorityLock
from engines.registry import choose_engine, create_engine
from request.model import Defaults, SpeechRequest
from request.models import ModelNames
from synthesis.cancel import CancelToken
from synthesis.dry_run import DryRunAnswer, dry_run
from synthesis.file import SpeechFile, shrunk, speak_file
from synthesis.parts import Context, StreamOptions
from synthesis.plan import PlannedRequest, Section, plan_request
from synthesis.quality import Progress
from synthesis.stream import SpeechStream
from synthesis.verify import Verifier
from text.chunks import Limits
from text.pace import Pace
from voices.catalogue import Voice, VoiceMapper
from voices.request_voices import RequestVoices

_OPENAI_VOICES = ROOT / "bridge" / "voices.json"
_JOB_OPTIONS = StreamOptions()
T = TypeVar("T")


class VibeVoiceInference:
    """Speech from requests. Safe to use from many tasks at once; the engine decides what runs
    side by side, of up to `concurrency` (default: MAX_CONCURRENCY). With `subprocess` an engine
    that may lose its device, or works in Python, gets a process of its own and is started anew when
    that ends. `verifier` hears what was spoken, for requests that ask for it. `close` ends the
    engine and the verifier, and removes the temporary folder."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine | None = None,
        concurrency: int | None = None,
        subprocess: bool = False,
        verifier: Verifier | None = None,
    ) -> None:
        self.settings, self.verifier = settings, verifier
        self.engine = engine or create_engine(
            choose_engine(settings.engine, on_runpod()),
            settings.engine_settings,
            subprocess=subprocess,
        )
        self.limits = Limits(
            settings.max_chunk_chars,
            settings.min_last_chunk_chars,
            settings.chunk_silence_ms,
            settings.paragraph_silence_ms,
        )
        self.defaults = Defaults(
            settings.max_text_length,
            settings.default_cfg_scale,
            settings.target_lufs,
            ModelNames.of((self.engine.capabilities.name,), {}, settings.model_path),
            settings.verify,
        )
        self.voices = VoiceMapper(
            settings.audio_prompts_dir,
            default=settings.default_speaker,
            builtin=self.engine.capabilities.voices,
            strict=settings.strict_voices,
            others=openai_voices(),
            clones=not self.engine.capabilities.refuses_recordings,
        )
        self.pace = Pace(settings.pace_tolerance)
        self.loudness = LoudnessMemory()
        self.request_voices = RequestVoices()
        self.cpu = PriorityLock(os.cpu_count() or 1)
        self.concurrency = concurrency or settings.max_concurrency or self.engine.capabilities.jobs
        self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="job")
        self._folder = tempfile.TemporaryDirectory(prefix="vibevoice-")
        self._start_sec: float | None = None
        self._load_sec = 0.0
        self._cold_start_told = False

    def load_model(self) -> None:
        """Loads the engine if that has not happened yet."""
        began = time.monotonic()
        self.engine.load()
        # Of all who waited for it, the first has waited for the whole of it.
        self._load_sec = max(self._load_sec, time.monotonic() - began)

    def note_start(self) -> None:
        """Notes how long the process took until it could take requests, which is now."""
        self._start_sec = process_age_sec()

    @property
    def cold_start_sec(self) -> float | None:
        """Seconds of this worker's start: until it could take requests, and for the model. None
        before that. The time between the two, in which it waited for a request, is none of it."""
        if self._start_sec is None or not self.engine.ready:
            return None
        return round(self._start_sec + self._load_sec, 2)

    def tell_cold_start(self) -> float | None:
        """The same, to the first who asks once it is known."""
        seconds = None if self._cold_start_told else self.cold_start_sec
        self._cold_start_told |= seconds is not None
        return seconds

    def fetch_voice(self, url: str) -> bytes:
        """What lies at a caller's address; see `fetch`."""
        return fetch_voice(url)

    def request_voice(self, request: SpeechRequest) -> tuple[Voice, list[str]]:
        """The voice that came with a request, and warnings. Raises `VoiceError`."""
        data, field = request.voice_base64, "voice_base64"
        if not data:
            data, field = self.fetch_voice(request.voice_url or ""), "voice_url"
        with self.workspace() as folder:
            return self.request_voices.resolve(data, Path(folder), field)

    def workspace(self) -> "tempfile.TemporaryDirectory[str]":
        """A folder for one job; it goes with the job, or with `close` where that fails: on NFS a
        folder stays while a file in it is open."""
        # Some systems clear old folders out of the temporary one.
        Path(self._folder.name).mkdir(exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self._folder.name, ignore_cleanup_errors=True)

    def close(self) -> None:
        self.engine.close()
        if self.verifier is not None:
            self.verifier.close()
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    async def dry_run(self, request: SpeechRequest) -> DryRunAnswer:
        """How a request would be read, without synthesis. Raises what `plan` would."""
        return await _planned(partial(dry_run, self, request))

    async def plan(self, request: SpeechRequest) -> PlannedRequest:
        """Plans the text and finds the voices. Raises `RequestError`s, before any other work."""
        # Not in the pool: a request that cannot be served is told so while others are speaking.
        return await _planned(partial(plan_request, self, request, time.monotonic()))

    async def generate(
        self, planned: PlannedRequest, folder: Path, progress: Progress | None = None
    ) -> SpeechFile:
        """Speaks a plan into a file in `folder`. Raises `SpeechError`s. A cancelled task ends the
        engine's work before it is re-raised."""
        context = self._context(folder)
        speak = partial(speak_file, context, planned, progress or Progress())
        return await self.work(speak, context.token)

    async def shrink(self, file: SpeechFile) -> SpeechFile:
        """The same takes in the smallest format that the request allows, as another file."""
        context = self._context(file.path.parent)
        return await self.work(partial(shrunk, context, file), context.token)

    def _context(self, folder: Path) -> Context:
        return Context(self, CancelToken(self.cpu.wake), folder)

    def stream(
        self,
        request: SpeechRequest,
        options: StreamOptions = _JOB_OPTIONS,
        sections: AsyncGenerator[Section, None] | None = None,
    ) -> SpeechStream:
        """Speaks a request, or the sections of a text that is still written, part by part."""
        return SpeechStream(self, request, options, sections)

    async def work(self, work: Callable[[], T], token: CancelToken) -> T:
        """What `work` gives, in one of the threads. A failure sets the token, which ends whatever
        the work has begun. So does a cancelled task, which waits for the end of the work before it
        is re-raised; what has not begun never will."""
        working = self._pool.submit(work)
        try:
            return await asyncio.shield(_awaitable(working))
        except BaseException:
            token.cancel()
            if not working.cancel():
                await asyncio.wait([_awaitable(working)])
            raise


async def _planned(plan: Callable[..., T]) -> T:
    """What `plan` gives, in a thread. A cancelled task ends it at its next `check`."""
    token = CancelToken()
    try:
        return await asyncio.to_thread(plan, check=token.check)
    finally:
        token.cancel()


def process_age_sec() -> float:
    """Seconds since this process began, for one that bootstrap.sh became as that script."""
    born: float = psutil.Process().create_time()
    if sys.platform != "linux":
        return time.time() - born
    # There psutil adds the boot's time of day, which the kernel tells in whole seconds.
    booted: float = psutil.boot_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (born - booted)


def openai_voices() -> dict[str, str]:
    """OpenAI's voice names, each with ours for it."""
    names: dict[str, str] = json.loads(_OPENAI_VOICES.read_text())
    return names


def _awaitable(working: "Future[T]") -> "asyncio.Future[T]":
    """A future of this loop whose error, if nobody asks for it, asyncio does not log: its report
    has a traceback and may quote the text."""
    future = asyncio.wrap_future(working)
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future
