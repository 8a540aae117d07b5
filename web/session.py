"""`WS /v1/audio/speech/stream`: text comes as it is written, speech goes as it is made, and either
side may stop at any moment.

One task reads messages, one speaks; whatever is sent goes through the outlet, one message at a
time, so nothing of an utterance follows the answer to its `cancel`, nor any of it one to a `pause`.
Utterances are spoken one after the other, in the order of their first text.
"""

import asyncio
import time
from collections import deque
from contextlib import aclosing, suppress
from typing import Any, NoReturn

from starlette.websockets import WebSocket, WebSocketDisconnect

from inference import Piece
from speech.feed import Sentence
from web.errors import event_of
from web.messages import (
    SessionConfig,
    context_of,
    parse_config,
    parse_message,
    played_ms,
    refused,
    text_of,
)
from web.outlet import Outlet
from web.pacing import Pacer
from web.replies import done, finished, named, started
from web.speaking import Door
from web.utterance import Line, Utterance

MOST_OPEN = 8
LONGEST_SESSION_SEC = 3600.0
IDLE_CODE, TOO_LONG_CODE = 4408, 4409


class Session:
    """One socket, from its first message to its end."""

    def __init__(self, door: Door, socket: WebSocket) -> None:
        self._door, self._socket = door, socket
        self._config: SessionConfig = parse_config({}, door.defaults)
        self._open: deque[Utterance] = deque()
        self._last: Utterance | None = None
        self._count = 0
        self._speaker: asyncio.Task[None] | None = None
        self._flushing: asyncio.TimerHandle | None = None
        self._outlet = Outlet(socket)
        self._active = time.monotonic()
        self._end = self._active + LONGEST_SESSION_SEC

    async def run(self) -> None:
        self._door.metrics.sessions.inc()
        try:
            while True:
                data = await self._receive()
                try:
                    if not await self._handle(parse_message(data)):
                        break
                except Exception as error:  # noqa: BLE001 - told to the caller, see `event_of`
                    await self._outlet.send(event_of(error))
            await self._socket.close()
        except WebSocketDisconnect:
            pass
        finally:
            self._door.metrics.sessions.dec()
            if self._flushing:
                self._flushing.cancel()
            await self._stop_speaking()

    async def _receive(self) -> str:
        """The next message. Closes the socket where there was none for too long."""
        waiting = asyncio.create_task(self._socket.receive())
        try:
            while True:
                idle = self._active + self._door.settings.session_idle_sec
                until = min(idle, self._end)
                done, _ = await asyncio.wait({waiting}, timeout=until - time.monotonic())
                if done:
                    break
                now = time.monotonic()
                if now >= self._end:
                    await self._close(TOO_LONG_CODE, "The session is too old.")
                if now >= self._active + self._door.settings.session_idle_sec:
                    await self._close(IDLE_CODE, "Nothing was said for too long.")
        finally:
            waiting.cancel()
        message = waiting.result()
        self._active = time.monotonic()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if message.get("text") is None:
            return ""  # refused as no JSON
        return str(message["text"])

    async def _close(self, code: int, why: str) -> NoReturn:
        """Says why, where the caller still reads, and closes."""
        try:
            async with asyncio.timeout(1):
                await self._outlet.send(event_of(refused("session_closed", why)))
        except TimeoutError:
            pass
        await self._stop_speaking()
        await self._socket.close(code, why)
        raise WebSocketDisconnect(code)

    async def _handle(self, message: dict[str, Any]) -> bool:
        """False where the session is to end."""
        kind = message["type"]
        if kind == "session.config":
            if self._open:
                problem = "An utterance is open; end it with input.done or cancel first."
                raise refused("utterance_open", problem)
            self._config = parse_config(message, self._door.defaults)
        elif kind == "input.text":
            self._write(context_of(message), text_of(message))
        elif kind == "input.done":
            await self._done(context_of(message))
        elif kind == "cancel":
            await self._cancel(context_of(message), played_ms(message))
        elif kind == "pause":
            await self._outlet.pause(self._pts)
        elif kind == "resume":
            await self._outlet.resume(self._pts)
        else:
            return False
        return True

    def _write(self, context_id: str | None, text: str) -> None:
        utterance = self._writable(context_id)
        if utterance is not None:
            utterance.write(text)
        elif len(self._open) >= MOST_OPEN:
            raise refused("too_many_contexts", f"At most {MOST_OPEN} utterances may be open.")
        else:
            utterance = Utterance(self._door, self._config, self._count + 1, context_id)
            utterance.write(text)  # may be refused, and then there is no utterance
            self._count += 1
            self._open.append(utterance)
        self._flush_later(utterance)
        self._speak()

    def _writable(self, context_id: str | None) -> Utterance | None:
        return next(
            (u for u in self._open if not u.closed and u.context_id == context_id),
            None,
        )

    async def _done(self, context_id: str | None) -> None:
        utterance = self._writable(context_id)
        if utterance is None:
            raise refused("no_utterance", "There is no utterance to end.")
        utterance.close()

    def _flush_later(self, utterance: Utterance) -> None:
        """What has no sure end is spoken after a while without more text."""
        if self._flushing:
            self._flushing.cancel()
        delay = utterance.config.max_buffer_delay_ms / 1000
        if utterance.config.granularity != "none":
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(delay, utterance.flush)

    async def _cancel(self, context_id: str | None, played: int | None) -> None:
        known = [*self._open, *([self._last] if self._last else [])]
        found = next((u for u in known if context_id is None or u.context_id == context_id), None)
        if found is None:
            raise refused("no_utterance", "There is no utterance to cancel.")
        if self._open and found is self._open[0]:
            await self._stop_speaking()
        if found in self._open:
            self._open.remove(found)
        found.closed = True
        self._last = None if found is self._last else self._last
        self._outlet.release()
        self._door.metrics.cancels.labels("ws", "cancel").inc()
        heard_ms = self._heard_ms(found) if played is None else min(played, found.sent_ms)
        await self._outlet.send(
            {
                "type": "cancelled",
                **named(found),
                "text_spoken": found.heard(heard_ms),
                "played_ms": round(heard_ms),
            }
        )
        self._speak()

    def _heard_ms(self, utterance: Utterance) -> float:
        """What a caller who says nothing of it can have played: all that was sent, no faster than
        time goes by."""
        if utterance.began_at is None:
            return 0.0
        return min(utterance.sent_ms, (time.monotonic() - utterance.began_at) * 1000)

    def _pts(self) -> float:
        return round(self._open[0].sent_ms, 3) if self._open else 0.0

    def _speak(self) -> None:
        if self._open and (self._speaker is None or self._speaker.done()):
            self._speaker = asyncio.create_task(self._speak_all())

    async def _stop_speaking(self) -> None:
        if self._speaker is not None:
            self._speaker.cancel()
            await asyncio.wait({self._speaker})
            self._speaker = None

    async def _speak_all(self) -> None:
        with suppress(WebSocketDisconnect):  # the reader sees it too
            while self._open:
                await self._speak_first()

    async def _speak_first(self) -> None:
        utterance = self._open[0]
        try:
            await self._speak_lines(utterance)
            ending = done(utterance)
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, see `event_of`
            ending = {**event_of(error), **named(utterance)}
        utterance.closed = True
        async with self._outlet.turn() as socket:
            self._open.popleft()
            self._last = utterance
            await socket.send_json(ending)

    async def _speak_lines(self, utterance: Utterance) -> None:
        config = utterance.config
        pacer = Pacer(config.sample_rate) if config.paced else None
        line: Line | None = None
        count = 0
        async with aclosing(utterance.audio()) as items:
            async for item in items:
                if isinstance(item, Sentence):
                    async with self._outlet.turn() as socket:
                        line = utterance.begin(item)
                        await socket.send_json(started(utterance, line))
                    count = 0
                elif line is None:
                    continue
                elif isinstance(item, Piece):
                    count += len(item.data)
                    await self._send_piece(utterance, line, item, pacer)
                else:
                    async with self._outlet.turn() as socket:
                        line.end_ms = line.start_ms + item.duration_sec * 1000
                        line.whole = True
                        await socket.send_json(finished(utterance, line, count, item))

    async def _send_piece(
        self, utterance: Utterance, line: Line, piece: Piece, pacer: Pacer | None
    ) -> None:
        if pacer is None:
            end_ms = line.start_ms + piece.count / piece.sample_rate * 1000
            await self._send_audio(utterance, line, piece.data, end_ms)
            return
        for frame in pacer.cut(piece.data, piece.is_last):
            await pacer.wait()
            end_ms = line.end_ms + len(frame) / 2 / piece.sample_rate * 1000
            await self._send_audio(utterance, line, frame, end_ms)
            pacer.sent(frame)

    async def _send_audio(
        self, utterance: Utterance, line: Line, data: bytes, end_ms: float
    ) -> None:
        async with self._outlet.turn() as socket:
            line.end_ms = end_ms
            if data:
                self._active = time.monotonic()
                utterance.began_at = utterance.began_at or self._active
                await socket.send_bytes(data)
