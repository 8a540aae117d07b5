"""The one primitive: a request as a stream of its start, its audio in parts, and its result.

A text that comes section by section is one stream too: its plan grows, and every section has its
parts and its result. Seed, voices and gain hold for all of them.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Self

from request.errors import Cancelled
from request.model import SpeechRequest
from synthesis.cancel import CancelToken
from synthesis.parts import Context, LiveParts, StreamOptions, live_parts
from synthesis.plan import GrowingPlan, Section, Services
from synthesis.result import AudioPart, HeardChunk, Result, StreamStart

StreamItem = StreamStart | Section | AudioPart | HeardChunk | Result


class Stalled(Exception):
    """No part was taken for `StreamOptions.stalled_sec`."""


class SpeechStream:
    """An async iterator, which has to be closed. It begins when it is built.

    Of a whole text it gives a `StreamStart`, `AudioPart`s and a `Result`; between them a
    `HeardChunk` for each chunk, where the request asks for what is heard. With `sections` the
    request's own text stands for theirs: after the start each `Section` comes as it begins, then
    its parts and its result. The next one is asked for once all parts of the one before are made.
    Raises `SpeechError`s and `Stalled`, and whatever `sections` raises.
    """

    def __init__(
        self,
        services: Services,
        request: SpeechRequest,
        options: StreamOptions,
        sections: AsyncGenerator[Section, None] | None = None,
    ) -> None:
        self._services, self._options = services, options
        self._sections = sections or _whole(request)
        self._token = CancelToken(self._wake)
        self._plan = GrowingPlan(
            services,
            request,
            options.sample_rate,
            grows=sections is not None,
            check=self._token.check,
        )
        self._room = threading.Semaphore(options.parts_ahead)
        # Bounded by the room: every section has parts, and each of them takes some.
        self._items: asyncio.Queue[StreamItem | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._making = asyncio.create_task(self._make())
        self._making.add_done_callback(self._made)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamItem:
        item = await self._items.get()
        if item is None or isinstance(item, BaseException):
            self._items.put_nowait(None)
            raise item or StopAsyncIteration
        if isinstance(item, AudioPart):
            self._room.release()
        return item

    def cancel(self) -> None:
        """Ends the work within one frame, without waiting for that."""
        if self._making.cancelling():
            return  # a second one would cut short the wait for the thread
        self._token.cancel()
        self._making.cancel()
        _ENDING.add(self._making)
        self._making.add_done_callback(_ENDING.discard)

    async def aclose(self) -> None:
        """Ends the work and waits for its end."""
        self.cancel()
        await asyncio.wait({self._making})

    def _wake(self) -> None:
        """For the thread, wherever it waits."""
        self._services.cpu.wake()
        self._room.release()

    async def _make(self) -> None:
        with self._services.workspace() as folder:
            async with aclosing(self._sections) as sections:
                await self._speak(sections, Path(folder))

    def _made(self, making: "asyncio.Task[None]") -> None:
        """A task that is cancelled before its first step runs no line of its own, so this tells the
        end."""
        self._items.put_nowait(Cancelled() if making.cancelled() else making.exception())

    async def _speak(self, sections: AsyncGenerator[Section, None], folder: Path) -> None:
        services, start = self._services, None
        async for section in sections:
            planned = await asyncio.to_thread(self._plan.add, section, time.monotonic())
            if start is None:
                gain_db = planned.remembered_gain(services.loudness)
                start = StreamStart(
                    planned.voices, planned.seed, gain_db, planned.rate, planned.warnings
                )
                self._items.put_nowait(start)
            if self._plan.grows:
                self._items.put_nowait(section)
            context = Context(services, self._token, folder)
            parts = live_parts(context, planned, start.gain_db, self._options)
            result = await services.work(partial(self._pump, parts), self._token)
            self._items.put_nowait(result)

    def _pump(self, parts: LiveParts) -> Result:
        """In the thread that works."""
        try:
            while True:
                part = next(parts)
                is_audio = isinstance(part, AudioPart)
                if is_audio and not self._room.acquire(timeout=self._options.stalled_sec):
                    raise Stalled
                self._token.check()
                self._loop.call_soon_threadsafe(self._items.put_nowait, part)
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            parts.close()


async def _whole(request: SpeechRequest) -> AsyncGenerator[Section, None]:
    yield Section(request.text)


_ENDING: set[asyncio.Task[None]] = set()
"""Streams that are about to end; asyncio itself keeps no hold of a task."""
