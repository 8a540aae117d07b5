"""The inference layer: text to chunks to engine to shaped audio to a file. Both doors use it.

`VibeVoiceInference.generate` runs a whole request off the event loop. Chunks are shaped as their
frames come and spooled to disk, so memory does not grow with the audio; a chunk that came out badly
is repeated; then all are measured, joined, levelled and encoded. Cancelling the awaiting task stops
the engine.
"""

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import psutil

from audio.loudness import LoudnessMemory
from config import ROOT, Settings, on_runpod
from delivery.fetch import fetch_voice
from engines.base import Engine
from engines.priority_lock import PriorityLock
from engines.registry import choose_engine, create_engine
from request.model import Defaults, SpeechRequest
from synthesis.dry_run import DryRun, DryRunAnswer
from synthesis.file_job import FileJob, Foresee, Reaches
from synthesis.job import Result, SpokenChunk
from synthesis.quality import Progress
from synthesis.stream import LONGEST_BLOCK_SEC, LONGEST_PIECE_SEC, AudioPart, StreamJob, StreamStart
from text.chunks import Limits
from text.pace import Pace
from voices.catalogue import VoiceMapper
from voices.request_voices import RequestVoices

_PIECES_AHEAD = 4
_OPENAI_VOICES = ROOT / "bridge" / "voices.json"
T = TypeVar("T")

__all__ = [
    "AudioPart",
    "Progress",
    "Result",
    "SpokenChunk",
    "StreamStart",
    "VibeVoiceInference",
    "VoiceMapper",
]


class VibeVoiceInference:
    """Speech from requests. Safe to use from many tasks at once; the engine decides what runs
    side by side, of up to `concurrency` (default: MAX_CONCURRENCY). With `subprocess` an engine
    that may lose its device, or works in Python, gets a process of its own and is started anew when
    that ends. `close` ends the engine and removes the temporary folder."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine | None = None,
        concurrency: int | None = None,
        subprocess: bool = False,
    ) -> None:
        self.settings = settings
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
            settings.max_text_length, settings.default_cfg_scale, settings.target_lufs
        )
        self.voices = VoiceMapper(
            settings.audio_prompts_dir,
            default=settings.default_speaker,
            builtin=self.engine.capabilities.voices,
            strict=settings.strict_voices,
            others=openai_voices(),
        )
        self.pace = Pace(settings.pace_tolerance)
        self.loudness = LoudnessMemory()
        self.guests = RequestVoices()
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

    def workspace(self) -> "tempfile.TemporaryDirectory[str]":
        """A folder for one job; it goes with the job, at the latest with `close`."""
        # Some systems clear old folders out of the temporary one.
        Path(self._folder.name).mkdir(exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self._folder.name)

    def close(self) -> None:
        self.engine.close()
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    async def dry_run(self, request: SpeechRequest) -> DryRunAnswer:
        """How a request would be read, without synthesis. Raises what `generate` would at once."""
        job = DryRun(self, request)
        with self.workspace() as folder:
            await asyncio.to_thread(job.plan, Path(folder))
        return await asyncio.to_thread(job.answer)

    async def generate(
        self,
        request: SpeechRequest,
        folder: Path,
        progress: Progress | None = None,
        reaches: Reaches | None = None,
        foresee: Foresee | None = None,
    ) -> tuple[Path, Result]:
        """Speaks a request into a file in `folder`; gives its path and what there is to say. A file
        that does not reach its caller takes a smaller format where the request allows it. `foresee`
        is told once how large the file should be, and may refuse it.

        Raises `SpeechError`s. A cancelled task ends the engine's work before it is re-raised.
        """
        job = FileJob(self, request, progress)
        # Not in the pool: a request that cannot be served is told so while others are speaking.
        await asyncio.to_thread(job.plan, folder)
        if foresee is not None:
            foresee(await asyncio.to_thread(job.expected_bytes))
        working = self._pool.submit(job.run, folder, reaches)
        try:
            return await asyncio.shield(_awaitable(working))
        except asyncio.CancelledError:
            job.cancel()
            await self._ended(working)
            raise

    async def stream(
        self,
        request: SpeechRequest,
        folder: Path,
        *,
        sample_rate: int | None = None,
        longest_piece_sec: float = LONGEST_PIECE_SEC,
        longest_block_sec: float = LONGEST_BLOCK_SEC,
        after: tuple[StreamStart, int] | None = None,
    ) -> AsyncGenerator[StreamStart | AudioPart | Result, None]:
        """Speaks a request piece by piece: `StreamStart`, the pieces, and what there is to say.
        `folder` takes what has to wait. With `longest_piece_sec` 0 every block is a piece,
        with `longest_block_sec` 0 every frame is a block;
        `after` is an earlier part of the same answer, whose seed, gain and guest voice it has, and
        the milliseconds of silence between the two.

        Raises `SpeechError`s. Closing or cancelling the iteration ends the engine's work first.
        """
        job = StreamJob(self, request, sample_rate=sample_rate)
        job.longest_piece_sec, job.longest_block_sec = longest_piece_sec, longest_block_sec
        if after is not None:
            job.follow(*after)
        await asyncio.to_thread(job.plan, folder)
        yield job.began()
        pieces = job.run(folder)
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[AudioPart | Result | BaseException] = asyncio.Queue()
        room = threading.Semaphore(_PIECES_AHEAD)

        def send(piece: AudioPart | Result | BaseException) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, piece)

        def work() -> None:
            try:
                while True:
                    piece = next(pieces)
                    room.acquire()
                    job.quality.check()
                    send(piece)
            except StopIteration as end:
                send(end.value)
            except BaseException as error:  # noqa: BLE001 - raised again where the stream is read
                send(error)
            finally:
                pieces.close()

        working = self._pool.submit(work)
        try:
            while True:
                piece = await arrived.get()
                if isinstance(piece, BaseException):
                    raise piece
                room.release()
                yield piece
                if isinstance(piece, Result):
                    return
        finally:
            job.cancel()
            room.release()
            await self._ended(working)

    @staticmethod
    async def _ended(working: "Future[Any]") -> None:
        """Waits for a cancelled job's thread; one that has not begun never will."""
        if not working.cancel():
            await asyncio.wait([_awaitable(working)])


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
