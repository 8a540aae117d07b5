"""`WS /v1/audio/speech/stream`: text comes as it is written, speech goes as it is made, and either
side may stop at any moment.

One task reads messages, the speaker's speaks; whatever is sent goes through the outlet, one message
at a time, so nothing of an utterance follows the answer to its `cancel`, nor any of it one to a
`pause`. Utterances are spoken one after the other, in the order of their first text.
"""

import asyncio
import time
from typing import Any, NoReturn

from starlette.websockets import WebSocket, WebSocketDisconnect

from api.errors import event_of
from api.socket.events import (
    SessionConfig,
    context_of,
    parse_config,
    parse_message,
    played_ms,
    refused,
    text_of,
)
from api.socket.playback import Speaker
from api.socket.sender import Outlet
from api.socket.utterance import Utterance
from api.speaking import Door

MOST_OPEN = 8
LONGEST_SESSION_SEC = 3600.0
IDLE_CODE, TOO_LONG_CODE = 4408, 4409


class Session:
    """One socket, from its first message to its end."""

    def __init__(self, door: Door, socket: WebSocket) -> None:
        self._door, self._socket = door, socket
        self._config: SessionConfig = parse_config({}, door.defaults)
        self._count = 0
        self._outlet = Outlet(socket)
        self._speaker = Speaker(self._outlet)
        self._heard_at = time.monotonic()
        self._end = self._heard_at + LONGEST_SESSION_SEC

    async def run(self) -> None:
        self._door.metrics.sessions.inc()
        try:
            while await self._answer(await self._receive()):
                pass
            await self._speaker.stop()
            await self._outlet.close()
        except WebSocketDisconnect:
            pass
        finally:
            self._door.metrics.sessions.dec()
            await self._speaker.stop()
            for utterance in self._speaker.open:
                utterance.abandon()

    async def _answer(self, data: str) -> bool:
        """False where the session is to end."""
        try:
            return await self._handle(parse_message(data))
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, see `event_of`
            await self._outlet.send(event_of(error))
            return True

    async def _receive(self) -> str:
        """The next message. Closes the socket where there was none for too long."""
        waiting = asyncio.create_task(self._socket.receive())
        try:
            while True:
                until = min(self._idle_at(), self._end)
                done, _ = await asyncio.wait({waiting}, timeout=until - time.monotonic())
                if done:
                    break
                if time.monotonic() >= self._end:
                    await self._close(TOO_LONG_CODE, "The session is too old.")
                if time.monotonic() >= self._idle_at():
                    await self._close(IDLE_CODE, "Nothing was said for too long.")
        finally:
            waiting.cancel()
        message = waiting.result()
        self._heard_at = time.monotonic()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if message.get("text") is None:
            return ""  # refused as no JSON
        return str(message["text"])

    def _idle_at(self) -> float:
        """When the silence becomes too long. It is none while the engine is at work."""
        speaker = self._speaker
        since = time.monotonic() if speaker.awaits_engine else speaker.active_at
        return max(self._heard_at, since) + self._door.settings.session_idle_sec

    async def _close(self, code: int, why: str) -> NoReturn:
        """Says why, where the caller still reads, and closes."""
        try:
            async with asyncio.timeout(1):
                await self._outlet.send(event_of(refused("session_closed", why)))
        except TimeoutError:
            pass
        await self._speaker.stop()
        await self._outlet.close(code, why)
        raise WebSocketDisconnect(code)

    async def _handle(self, message: dict[str, Any]) -> bool:
        """False where the session is to end."""
        kind = message["type"]
        if kind == "session.config":
            if self._speaker.open:
                problem = "An utterance is open; end it with input.done or cancel first."
                raise refused("utterance_open", problem)
            self._config = parse_config(message, self._door.defaults)
        elif kind == "input.text":
            self._write(context_of(message), text_of(message))
        elif kind == "input.done":
            self._done(context_of(message))
        elif kind == "cancel":
            await self._cancel(context_of(message), played_ms(message))
        elif kind == "pause":
            await self._speaker.pause()
        elif kind == "resume":
            await self._speaker.resume()
        else:
            return False
        return True

    def _write(self, context_id: str | None, text: str) -> None:
        utterance = self._writable(context_id)
        if utterance is not None:
            utterance.write(text)
        elif len(self._speaker.open) >= MOST_OPEN:
            raise refused("too_many_contexts", f"At most {MOST_OPEN} utterances may be open.")
        else:
            utterance = Utterance(self._door, self._config, self._count + 1, context_id)
            utterance.write(text)  # may be refused, and then there is no utterance
            self._count += 1
            self._speaker.add(utterance)

    def _writable(self, context_id: str | None) -> Utterance | None:
        open_ = self._speaker.open
        return next((u for u in open_ if not u.closed and u.context_id == context_id), None)

    def _done(self, context_id: str | None) -> None:
        utterance = self._writable(context_id)
        if utterance is None:
            raise refused("no_utterance", "There is no utterance to end.")
        utterance.close()

    async def _cancel(self, context_id: str | None, played: int | None) -> None:
        utterance = self._speaker.find(context_id)
        if utterance is None:
            raise refused("no_utterance", "There is no utterance to cancel.")
        self._door.metrics.cancels.labels("ws", "cancel").inc()
        await self._speaker.cancel(utterance, played)
