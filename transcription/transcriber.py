"""Recordings become transcripts off the event loop, for all doors.

A recording is decoded to disk first, so that a bad one is refused before a model works. Cancelling
the awaiting task ends the work, and waits until it has ended.
"""

import asyncio
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from audio.pcm import SAMPLE_RATE
from audio.recording import Unusable, decode_whole
from audio.spool import Spool
from request.errors import Cancelled, RequestError
from request.models import OPENAI_HEARING_NAMES, ModelNames
from request.transcription import TranscriptionRequest
from transcription.base import Audio, KnownSpeaker, Options, Segment, Transcript
from transcription.languages import CODES
from transcription.registry import LeaseRecognizer

_KNOWN_SEC = (2, 10)
_LEAST_SEC = 0.1
T = TypeVar("T")


class Transcriber:
    """Threads for `concurrency` recordings at once of up to `longest_sec`; each has its own `lease`
    of the recogniser. `capabilities` are the recogniser's when it was last asked."""

    def __init__(self, lease: LeaseRecognizer, concurrency: int, longest_sec: float) -> None:
        self._lease = lease
        with lease() as held:
            self.capabilities = capabilities = held.model.capabilities
        bounds = filter(None, (longest_sec, capabilities.longest_sec))
        self.longest_sec = min(bounds)
        short = capabilities.model.removeprefix("faster-").removeprefix("whisper-")
        aliases = dict.fromkeys((capabilities.model, short), capabilities.name)
        self.models = ModelNames((capabilities.name,), aliases, OPENAI_HEARING_NAMES)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="ear")
        self._folder = tempfile.TemporaryDirectory(prefix="vibevoice-ear-")

    def workspace(self) -> "tempfile.TemporaryDirectory[str]":
        """A folder for one recording; it goes with the answer."""
        return tempfile.TemporaryDirectory(dir=self._folder.name, ignore_cleanup_errors=True)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def check(self, request: TranscriptionRequest) -> str | None:
        """The language's code. Raises `RequestError` for what the recogniser cannot do."""
        self.models.resolve(request.model)
        capabilities = self.capabilities
        for field, able in (
            ("speakers", capabilities.speakers or not request.speakers),
            ("translate", capabilities.translation or not request.translate),
        ):
            if not able:
                raise RequestError(f"is nothing that {capabilities.model} can do here", field)
        if request.language is None:
            return None
        spoken = request.language.strip().lower()
        code = CODES.get(spoken.replace(" ", "_"), spoken.partition("-")[0])
        if code not in capabilities.languages:
            problem = f"{request.language[:40]!a} is no language of {capabilities.model}"
            raise RequestError(problem, "language", allowed=", ".join(capabilities.languages))
        return code

    async def decode(self, file: Path, field: str) -> Spool:
        """The audio of a file. Raises `RequestError` that names `field`."""
        spool = Spool(file.parent)
        await self._decode_into(spool, file, field, self.longest_sec, _LEAST_SEC)
        return spool

    async def options(
        self, request: TranscriptionRequest, folder: Path, *, partials: bool = False
    ) -> Options:
        """The options of a request. Raises `RequestError`."""
        language = self.check(request)
        known = [
            await self._known(name, data, folder) for name, data in request.known_speakers.items()
        ]
        return Options(
            language=language,
            hotwords=request.keywords,
            prompt=request.prompt,
            words=request.words,
            speakers=request.speakers,
            known_speakers=tuple(known),
            temperature=request.temperature or None,
            vad=request.vad,
            partials=partials,
        )

    async def _known(self, name: str, data: bytes, folder: Path) -> KnownSpeaker:
        least, most = _KNOWN_SEC
        spool = Spool(folder)
        await self._decode_into(spool, stored(data, folder), "known_speakers", most, least)
        samples = np.concatenate(list(spool.read((0, spool.count))))
        spool.close()
        return KnownSpeaker(name, samples)

    async def _decode_into(
        self, spool: Spool, file: Path, field: str, most_sec: float, least_sec: float
    ) -> None:
        gone = threading.Event()

        def check() -> None:
            if gone.is_set():
                raise Cancelled

        work = partial(decode_whole, file, file.parent, spool, longest_sec=most_sec, check=check)
        try:
            await self._work(work, gone.set)
        except Unusable as problem:
            allowed = f"a recording of {least_sec:g} to {most_sec:g} s"
            raise RequestError(f"the recording {problem}", field, allowed=allowed) from problem
        if spool.count < least_sec * SAMPLE_RATE:
            allowed = f"{least_sec:g} to {most_sec:g} s"
            raise RequestError("the recording is too short", field, allowed=allowed)

    @asynccontextmanager
    async def hear(
        self, audio: Audio, options: Options
    ) -> AsyncIterator[tuple[Transcript, AsyncGenerator[Segment, None]]]:
        """A transcript and its segments. The recogniser is loaded and held while the block runs;
        after it recognition has ended. Raises `EngineError`."""
        with self._lease() as lease:
            await lease.loaded()
            self.capabilities = lease.model.capabilities
            transcript = lease.model.transcribe(audio, options)
            async with aclosing(self._segments(transcript)) as segments:
                yield transcript, segments

    async def _segments(self, transcript: Transcript) -> AsyncGenerator[Segment, None]:
        reader = iter(transcript)
        try:
            while segment := await self._work(partial(next, reader, None), transcript.cancel):
                yield segment
        finally:
            transcript.cancel()

    async def _work(self, work: Callable[[], T], cancel: Callable[[], None]) -> T:
        """What `work` gives, in a thread. A cancelled task waits for its end."""
        working = self._pool.submit(work)
        try:
            return await asyncio.shield(asyncio.wrap_future(working))
        except asyncio.CancelledError:
            cancel()
            if not working.cancel():
                await asyncio.wait([asyncio.wrap_future(working)])
            raise


def stored(data: bytes, folder: Path) -> Path:
    """A new file in `folder` with these bytes. See `named`."""
    file = folder / "reference"
    file.write_bytes(data)
    return named(file)


def named(file: Path) -> Path:
    """The file under a name whose suffix the decoder knows: it chooses wav and flac by it."""
    with file.open("rb") as opened:
        suffix = {b"RIFF": ".wav", b"fLaC": ".flac"}.get(opened.read(4), ".audio")
    return file.rename(file.with_suffix(suffix))
