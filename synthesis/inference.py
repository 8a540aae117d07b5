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
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from config import ROOT, ConfigError, Settings, on_runpod
from delivery.fetch import fetch_voice
from engines.base import Engine
from engines.damage import leaving_word
from engines.manager import ModelManager, Policy, awaitable
from engines.memory import Memory, free_memory
from engines.priority_lock import PriorityLock
from engines.registry import choose_engine, create_engine, least_memory
from request.errors import RequestError
from request.model import Defaults, SpeechRequest
from request.models import ModelNames
from synthesis.cancel import CancelToken
from synthesis.dry_run import DryRunAnswer, dry_run
from synthesis.file import SpeechFile, shrunk, speak_file
from synthesis.models import Models
from synthesis.parts import Context, StreamOptions
from synthesis.plan import Aside, PlannedRequest, Section, plan_request
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
        self.limits = Limits(
            settings.max_chunk_chars,
            settings.min_last_chunk_chars,
            settings.chunk_silence_ms,
            settings.paragraph_silence_ms,
        )
        self.models = _models(settings, engine, subprocess)
        self._default = self.models.lease()
        self.defaults = Defaults(
            settings.max_text_length,
            settings.default_cfg_scale,
            settings.target_lufs,
            self.models.names,
            settings.verify,
        )
        self.request_voices = RequestVoices()
        self.cpu = PriorityLock(os.cpu_count() or 1)
        self.concurrency = (
            concurrency or settings.max_concurrency or self._default.capabilities.jobs
        )
        self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="job")
        self._folder = tempfile.TemporaryDirectory(prefix="vibevoice-")
        self._start_sec: float | None = None
        self._cold_start_told = False

    @property
    def engine(self) -> Engine:
        """The default model's engine."""
        return self._default.engine

    @property
    def voices(self) -> VoiceMapper:
        """The default model's voices."""
        return self._default.voices

    def load_model(self) -> None:
        """Loads the default model if that has not happened yet. Raises `EngineError`."""
        self._default.load()

    def check(self) -> None:
        """Checks that the default model can be loaded here. Raises what the engine does."""
        with leaving_word():
            self.engine.check()

    @property
    def preloaded(self) -> tuple[str, ...]:
        """The models of PRELOAD_MODELS, by id."""
        return tuple(map(self.models.names.resolve, self.settings.preload_models))

    def preload(self, name: str) -> None:
        """Loads a model and lets it speak where nobody hears it. Raises `EngineError`."""
        with self.models.lease(name) as model:
            model.load()
            model.warm_up()

    def note_start(self) -> None:
        """Notes how long the process took until it could take requests, which is now."""
        self._start_sec = process_age_sec()

    @property
    def cold_start_sec(self) -> float | None:
        """Seconds of this worker's start: until it could take requests, and for the model. None
        before that. The time between the two, in which it waited for a request, is none of it."""
        if self._start_sec is None or not self.engine.ready:
            return None
        loading = self.models.manager.usage(self.models.default)
        return round(self._start_sec + loading.load_sec, 2)

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
        if self.verifier is not None:
            self.verifier.close()
        self.models.manager.close()
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    async def dry_run(self, request: SpeechRequest) -> DryRunAnswer:
        """How a request would be read, without synthesis. Raises what `plan` would."""
        return await _planned(partial(dry_run, self, request))

    @asynccontextmanager
    async def plan(self, request: SpeechRequest) -> AsyncIterator[PlannedRequest]:
        """Plans the text, finds the voices, and holds the model while the block runs. Raises
        `RequestError`s, before any other work."""
        with self.models.lease(request.model) as model:
            # Not in the pool: who cannot be served is told so while others are speaking.
            yield await _planned(partial(plan_request, self, model, request, time.monotonic()))

    async def generate(
        self,
        planned: PlannedRequest,
        folder: Path,
        progress: Progress | None = None,
        aside: Aside = nullcontext,
    ) -> SpeechFile:
        """Speaks a plan into a file in `folder`. Raises `SpeechError`s. A cancelled task ends the
        engine's work before it is re-raised."""
        model = planned.model
        context = self._context(folder, await planned.loaded(aside))

        def speak() -> SpeechFile:
            with model.speaking():
                return speak_file(context, planned, progress or Progress())

        file = await self.work(speak, context.token)
        model.note(file.result.timings, file.result.duration_sec)
        return file

    async def shrink(self, file: SpeechFile) -> SpeechFile:
        """The same takes in the smallest format that the request allows, as another file."""
        context = self._context(file.path.parent)
        return await self.work(partial(shrunk, context, file), context.token)

    def _context(self, folder: Path, load_sec: float = 0.0) -> Context:
        return Context(self, CancelToken(self.cpu.wake), folder, load_sec)

    def stream(
        self,
        request: SpeechRequest,
        options: StreamOptions = _JOB_OPTIONS,
        sections: AsyncGenerator[Section, None] | None = None,
        aside: Aside = nullcontext,
    ) -> SpeechStream:
        """Speaks a request, or the sections of a text that is still written, part by part."""
        return SpeechStream(self, request, options, sections, aside)

    async def work(self, work: Callable[[], T], token: CancelToken) -> T:
        """What `work` gives, in one of the threads. A failure sets the token, which ends whatever
        the work has begun. So does a cancelled task, which waits for the end of the work before it
        is re-raised; what has not begun never will."""
        working = self._pool.submit(work)
        try:
            return await asyncio.shield(awaitable(working))
        except BaseException:
            token.cancel()
            if not working.cancel():
                await asyncio.wait([awaitable(working)])
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


def _models(settings: Settings, engine: Engine | None, subprocess: bool) -> Models:
    """The models that the settings name; `engine` stands for the default's. Raises `ConfigError`
    for a name that means none of them."""
    default = engine.capabilities.name if engine else choose_engine(settings.engine, on_runpod())
    engines = dict.fromkeys((default, *settings.models))
    served = settings.upstream_models
    groups = [served if name == "upstream" and served else (name,) for name in engines]
    ids = tuple(dict.fromkeys(name for group in groups for name in group))
    aliases = {"upstream": served[0]} if "upstream" in engines and served else {}
    named = ModelNames(ids, aliases)
    try:
        aliases |= {name: named.resolve(meant) for name, meant in settings.model_aliases.items()}
        names = ModelNames.of(ids, aliases, settings.model_path)
        preloaded = tuple(map(names.resolve, settings.preload_models))
    except RequestError as error:
        raise ConfigError(f"MODEL_ALIASES or PRELOAD_MODELS: {error}") from None

    def engine_of(name: str) -> str:
        return "upstream" if name in served and name not in engines else name

    def create(name: str) -> Engine:
        if engine and name == ids[0]:
            return engine
        kind = engine_of(name)
        told = {**settings.engine_settings, "upstream_model": name if kind != name else None}
        return create_engine(kind, told, subprocess=subprocess)

    policy = Policy(
        settings.model_resident_cap, settings.model_ttl_sec, settings.model_min_residency_sec
    )
    manager = ModelManager(
        policy,
        settings.model_parallel_loads,
        free=partial(free_memory, settings.most_memory_bytes),
    )
    voices = VoiceMapper(
        settings.audio_prompts_dir,
        default=settings.default_speaker,
        strict=settings.strict_voices,
        others=openai_voices(),
    )
    pace = partial(Pace, settings.pace_tolerance)

    def expected(name: str) -> Memory:
        return least_memory(engine_of(name))

    models = Models(names, manager, create, voices, pace, preloaded, expected)
    if ids[1:]:
        manager.watch()
    return models
