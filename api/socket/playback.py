"""Playback: one task speaks a session's utterances, one after the other.

It estimates how much audio the client can have heard. The estimate assumes that a client plays
audio in order, in real time, and not during a pause.
"""

import asyncio
import time
from collections import deque
from contextlib import aclosing, suppress

from starlette.websockets import WebSocketDisconnect

from api.errors import event_of
from api.socket.pacing import Pacer
from api.socket.replies import cancelled, done, finished, heard, place, started, with_name
from api.socket.sender import SocketSender
from api.socket.utterance import Line, Utterance
from synthesis.plan import Section
from synthesis.result import AudioPart, HeardChunk, Result


class Playback:
    """The utterances of one session.

    `open` are the unfinished utterances; the first is being spoken. `last` is the one that was
    finished before them. `active_at` is when audio was last sent, in monotonic seconds.
    """

    def __init__(self, sender: SocketSender) -> None:
        self.open: deque[Utterance] = deque()
        self.last: Utterance | None = None
        self.active_at = 0.0
        self._sender = sender
        self._task: asyncio.Task[None] | None = None
        self._paused_at: float | None = None
        self._all_played_at = 0.0

    @property
    def awaits_engine(self) -> bool:
        """Whether the engine works on the spoken utterance, and no pause holds it."""
        return bool(self.open) and self.open[0].in_making and self._paused_at is None

    def find(self, context_id: str | None) -> Utterance | None:
        """The oldest utterance of `open` and `last`; with an id, the oldest with that id."""
        known = [*self.open, *([self.last] if self.last else [])]
        return next((u for u in known if context_id is None or u.context_id == context_id), None)

    def add(self, utterance: Utterance) -> None:
        """Queues an utterance after the open ones."""
        self.open.append(utterance)
        self._go()

    async def pause(self) -> None:
        """Holds all audio until `resume`, and answers `paused`. The engine works on."""
        self._paused_at = self._paused_at or time.monotonic()
        await self._sender.pause(lambda: place("paused", self._current))

    async def resume(self) -> None:
        """Answers `resumed` and lets audio go on."""
        await self._sender.send(place("resumed", self._current))
        self._end_pause()

    async def cancel(self, utterance: Utterance, played_ms: float | None) -> None:
        """Ends an utterance and answers `cancelled`. No audio of it follows that answer.

        `played_ms` is what the client says it has played; None means that it is estimated.
        """
        is_spoken = bool(self.open) and utterance is self.open[0]
        if is_spoken:
            await self.stop()
        heard_ms = self._heard_ms(utterance) if played_ms is None else played_ms
        utterance.abandon()
        if utterance in self.open:
            self.open.remove(utterance)
        if utterance is self.last:
            self.last = None
        if is_spoken or not self.open:  # else the pause belongs to the spoken one
            self._all_played_at = 0.0
            self._end_pause()
        await self._sender.send(cancelled(utterance, min(heard_ms, utterance.sent_ms)))
        self._go()

    async def stop(self) -> None:
        """Stops the speaking task and its engine work. Open utterances stay open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def _go(self) -> None:
        if self.open and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._speak_all())

    @property
    def _current(self) -> Utterance | None:
        return self.open[0] if self.open else self.last

    def _end_pause(self) -> None:
        if self._paused_at is not None:
            took = time.monotonic() - self._paused_at
            self._paused_at = None
            self._all_played_at += took
            for utterance in (*self.open, self.last):
                if utterance is not None and utterance.plays_at is not None:
                    utterance.plays_at += took
        self._sender.release()

    def _heard_ms(self, utterance: Utterance) -> float:
        """The estimate of what the client has heard, in ms: the time since the first sample."""
        if utterance.plays_at is None:
            return 0.0
        return max(0.0, ((self._paused_at or time.monotonic()) - utterance.plays_at) * 1000)

    async def _speak_all(self) -> None:
        with suppress(WebSocketDisconnect):  # the session's reading task gets it too
            while self.open:
                await self._speak_first()

    async def _speak_first(self) -> None:
        utterance = self.open[0]
        try:
            await self._speak_lines(utterance)
            ending = done(utterance)
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, see `event_of`
            ending = with_name(event_of(error), utterance)
        utterance.closed = True
        async with self._sender.turn() as send:
            self.open.popleft()
            if utterance.feed.text:  # an `input.done` without text ends nothing that is heard
                self.last = utterance
            if utterance.plays_at is not None:
                self._all_played_at = utterance.plays_at + utterance.sent_ms / 1000
            await send(ending)

    async def _speak_lines(self, utterance: Utterance) -> None:
        config = utterance.config
        pacer = Pacer(config.sample_rate) if config.paced else None
        line: Line | None = None
        count = 0
        async with aclosing(utterance.audio()) as items:
            async for item in items:
                if isinstance(item, Section) and item.joins:
                    utterance.extend()
                elif isinstance(item, Section):
                    async with self._sender.turn() as send:
                        line = utterance.begin()
                        await send(started(utterance, line))
                    count = 0
                elif isinstance(item, HeardChunk):
                    async with self._sender.turn() as send:
                        await send(heard(utterance, utterance.lines[item.section], item))
                elif line is None:
                    continue
                elif isinstance(item, AudioPart):
                    count += len(item.data)
                    await self._send_part(utterance, line, item, pacer)
                elif isinstance(item, Result):
                    async with self._sender.turn() as send:
                        line.end_ms = line.start_ms + item.duration_sec * 1000
                        line.whole = True
                        await send(finished(utterance, line, count, item))

    async def _send_part(
        self, utterance: Utterance, line: Line, part: AudioPart, pacer: Pacer | None
    ) -> None:
        if pacer is None:
            end_ms = line.start_ms + part.count / part.sample_rate * 1000
            await self._send_audio(utterance, line, part.data, end_ms)
            return
        for frame in pacer.cut(part.data, part.is_last):
            await pacer.wait()
            end_ms = line.end_ms + len(frame) / 2 / part.sample_rate * 1000
            await self._send_audio(utterance, line, frame, end_ms)
            pacer.sent(frame)

    async def _send_audio(
        self, utterance: Utterance, line: Line, data: bytes, end_ms: float
    ) -> None:
        async with self._sender.turn() as send:
            if data:
                await send(data)
                self.active_at = time.monotonic()
                if utterance.plays_at is None:
                    utterance.plays_at = max(self.active_at, self._all_played_at)
            line.end_ms = end_ms  # only after the send: a cancel may interrupt it
