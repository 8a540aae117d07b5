"""The one primitive: a request as a stream of its start, its audio in parts, and its result.

A text that comes section by section is one stream too: its plan grows, and every section has its
parts and its result. Seed, voices and gain hold for all of them.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from request.errors import Cancelled
from request.model import SpeechRequest
from synthesis.cancel import CancelToken
from synthesis.parts import Context, LiveParts, StreamOptions, live_parts
from synthesis.plan import (
    Aside,
    GrowingPlan,
    GrowingText,
    PlannedRequest,
    Section,
    Services,
    grows,
)
from synthesis.result import AudioPart, HeardChunk, Result, StreamStart

StreamItem = StreamStart | Section | AudioPart | HeardChunk | Result


_JOINED_CHUNKS = 4
"""Chunks' worth of text that are spoken as one that grows. A slot holds some 5,000 characters."""


class Stalled(Exception):
    """No part was taken for `StreamOptions.stalled_sec`."""


class SpeechStream:
    """An async iterator, which has to be closed. It begins when it is built.

    Of a whole text it gives a `StreamStart`, `AudioPart`s and a `Result`; between them a
    `HeardChunk` for each chunk, where the request asks for what is heard. With `sections` the
    request's own text stands for theirs: after the start each `Section` comes as it begins, then
    its parts and its result. The next one is asked for once all parts of the one before are made;
    what is heard of a section may come beside the parts of the next.
    Raises `SpeechError`s and `Stalled`, and whatever `sections` and `aside` raise. It holds its
    model until the end of its work.
    """

    def __init__(
        self,
        services: Services,
        request: SpeechRequest,
        options: StreamOptions,
        sections: AsyncGenerator[Section, None] | None = None,
        aside: Aside = nullcontext,
    ) -> None:
        self._services, self._options, self._aside = services, options, aside
        self._sections = sections or _whole(request)
        self._model = services.models.lease(request.model)
        self._next: PlannedRequest | None = None
        self._token = CancelToken(self._wake)
        self._plan = GrowingPlan(
            services,
            self._model,
            request,
            options.sample_rate,
            grows=sections is not None,
            check=self._token.check,
        )
        self._hears_later = sections is not None and request.heard_for is not None
        self._hearing: asyncio.Future[None] | None = None
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
            try:
                async with aclosing(self._sections) as sections:
                    await self._speak(sections, Path(folder))
                await self._heard()
            except BaseException:
                self._token.cancel()
                raise
            finally:
                if self._hearing is not None:
                    await asyncio.wait({self._hearing})

    def _made(self, making: "asyncio.Task[None]") -> None:
        """A task that is cancelled before its first step runs no line of its own, so this tells the
        end."""
        self._model.release()
        self._items.put_nowait(Cancelled() if making.cancelled() else making.exception())

    async def _speak(self, sections: AsyncGenerator[Section, None], folder: Path) -> None:
        services, model, start = self._services, self._model, None
        count = 0
        while (planned := await self._planned(sections)) is not None:
            if start is None:
                if most := self._options.most_bytes:
                    await asyncio.to_thread(planned.check_size, most)
                start = StreamStart(
                    model.capabilities.name,
                    planned.voices,
                    planned.seed,
                    planned.remembered_gain(),
                    planned.rate,
                    planned.warnings,
                )
                self._items.put_nowait(start)
            if self._plan.grows:
                self._items.put_nowait(planned.section)
            load_sec = await planned.loaded(self._aside)
            context = Context(services, self._token, folder, load_sec)
            growing = self._growing(planned)
            if growing is not None:
                planned = replace(planned, plan=planned.growing_plan)
            parts = live_parts(
                context, planned, start.gain_db, self._options, growing, self._hears_later
            )
            pump = partial(self._pump, parts, count)
            work: Awaitable[Result] = services.work(pump, self._token)
            result = await (
                work if growing is None else self._fed(work, sections, planned, growing)
            )
            model.note(result.timings, result.duration_sec)
            self._items.put_nowait(result)
            if self._hears_later:
                await self._hear_beside(parts, count)
            count += 1

    async def _hear_beside(self, parts: LiveParts, section: int) -> None:
        """Has a section heard beside the next one, once the section before was heard."""
        try:
            await self._heard()
        except BaseException:
            parts.close()
            raise
        self._hearing = self._loop.run_in_executor(None, self._hear, parts, section)

    async def _heard(self) -> None:
        """Waits until all is told of what was heard so far."""
        if self._hearing is not None:
            await asyncio.shield(self._hearing)

    async def _planned(self, sections: AsyncGenerator[Section, None]) -> PlannedRequest | None:
        """The next section with words, planned; None at the end."""
        if self._next is not None:
            planned, self._next = self._next, None
            return planned
        async for section in sections:
            if section.text:
                return await asyncio.to_thread(self._plan.add, section, time.monotonic())
        return None

    def _growing(self, planned: PlannedRequest) -> GrowingText | None:
        """The text of a section that others may join; None where each is spoken by itself."""
        text = planned.joinable
        can_grow = grows(self._model.capabilities, planned.request)
        return GrowingText(text) if self._plan.grows and can_grow and text is not None else None

    async def _fed(
        self,
        work: Awaitable[Result],
        sections: AsyncGenerator[Section, None],
        planned: PlannedRequest,
        growing: GrowingText,
    ) -> Result:
        """The result of work that speaks a text, to which sections are joined meanwhile."""
        feeding = asyncio.create_task(self._feed(sections, planned, growing))
        try:
            result = await work
            await feeding
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})
        return result

    async def _feed(
        self,
        sections: AsyncGenerator[Section, None],
        planned: PlannedRequest,
        growing: GrowingText,
    ) -> None:
        """Joins sections up to one that has to be spoken by itself, or the end."""
        most = _JOINED_CHUNKS * self._services.settings.max_chunk_chars
        try:
            async for section in sections:
                if not section.text:
                    return
                added = await asyncio.to_thread(self._plan.add, section, time.monotonic())
                text = added.joinable
                is_full = len(growing.text) > most and not section.continues
                pauses = section.silence_ms > self._services.settings.chunk_silence_ms
                if text is None or is_full or pauses or added.voices != planned.voices:
                    self._next = added
                    return
                self._items.put_nowait(replace(section, joins=True))
                growing.feed(f" {text}")
        finally:
            growing.finish()

    def _pump(self, parts: LiveParts, section: int) -> Result:
        """In the thread that works: all up to the result."""
        result = None
        try:
            with self._model.speaking():
                while not isinstance(item := next(parts), Result):
                    is_audio = isinstance(item, AudioPart)
                    if is_audio and not self._room.acquire(timeout=self._options.stalled_sec):
                        raise Stalled
                    self._token.check()
                    self._give(item, section)
            result = item
            return result
        finally:
            if result is None or not self._hears_later:
                parts.close()

    def _hear(self, parts: LiveParts, section: int) -> None:
        """In a thread of its own: what is heard of a section after its result."""
        with closing(parts):
            for item in parts:
                self._give(item, section)

    def _give(self, item: AudioPart | HeardChunk | Result, section: int) -> None:
        if isinstance(item, HeardChunk):
            item = replace(item, section=section)
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)


async def _whole(request: SpeechRequest) -> AsyncGenerator[Section, None]:
    yield Section(request.text)


_ENDING: set[asyncio.Task[None]] = set()
"""Streams that are about to end; asyncio itself keeps no hold of a task."""
