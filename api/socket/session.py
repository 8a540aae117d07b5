"""A session of the WebSocket `/v1/audio/speech/stream`: text comes in while audio goes out.

Two tasks: the session's reads messages, the playback's sends audio. Both send through one
`SocketSender`, one message at a time. So no audio of an utterance follows the answer `cancelled`,
and no audio at all follows the answer `paused`. Utterances are spoken one after the other, in the
order of their first text.
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
from api.socket.playback import Playback
from api.socket.replies import committed, configured
from api.socket.sender import SocketSender
from api.socket.utterance import Utterance, joins
from api.speaking import AppState

MOST_OPEN = 8
LONGEST_SESSION_SEC = 3600.0
IDLE_CODE, TOO_LONG_CODE = 4408, 4409


class Session:
    """One open WebSocket, from its first message to its close."""

    def __init__(self, state: AppState, socket: WebSocket) -> None:
        self._state, self._socket = state, socket
        self._config: SessionConfig = parse_config({}, state.defaults)
        self._is_refused = False
        self._count = 0
        self._sender = SocketSender(socket)
        self._playback = Playback(self._sender)
        self._heard_at = time.monotonic()
        self._end = self._heard_at + LONGEST_SESSION_SEC

    async def run(self) -> None:
        """Handles messages until the client closes the session or disconnects."""
        self._state.metrics.sessions.inc()
        try:
            while await self._answer(await self._receive()):
                pass
            await self._playback.stop()
            await self._sender.close()
        except WebSocketDisconnect:
            pass
        finally:
            self._state.metrics.sessions.dec()
            await self._playback.stop()
            for utterance in self._playback.open:
                utterance.abandon()

    async def _answer(self, data: str) -> bool:
        """Handles one message, or answers with its error. False ends the session."""
        try:
            return await self._handle(parse_message(data))
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, see `event_of`
            await self._sender.send(event_of(error))
            return True

    async def _receive(self) -> str:
        """The next message. Closes the socket of a session that is idle or open for too long."""
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
            return ""  # a binary message: the parser refuses it as no JSON
        return str(message["text"])

    def _idle_at(self) -> float:
        """When the session becomes idle, in monotonic seconds. Engine work counts as activity."""
        playback = self._playback
        since = time.monotonic() if playback.awaits_engine else playback.active_at
        return max(self._heard_at, since) + self._state.settings.session_idle_sec

    async def _close(self, code: int, why: str) -> NoReturn:
        """Sends an error with the reason, waits up to 1 s for it, and closes with `code`."""
        try:
            async with asyncio.timeout(1):
                await self._sender.send(event_of(refused("session_closed", why)))
        except TimeoutError:
            pass
        await self._playback.stop()
        await self._sender.close(code, why)
        raise WebSocketDisconnect(code)

    async def _handle(self, message: dict[str, Any]) -> bool:
        """Does what a message asks for. False ends the session."""
        kind = message["type"]
        if kind == "session.config":
            await self._configure(message)
        elif kind == "input.text":
            await self._write(context_of(message), text_of(message))
        elif kind == "input.commit":
            await self._commit(context_of(message))
        elif kind == "input.done":
            await self._done(context_of(message))
        elif kind == "cancel":
            await self._cancel(context_of(message), played_ms(message))
        elif kind == "pause":
            await self._playback.pause()
        elif kind == "resume":
            await self._playback.resume()
        else:
            return False
        return True

    async def _configure(self, message: dict[str, Any]) -> None:
        """Takes the settings. Once some were refused, no utterance begins before good ones come:
        it would be spoken in a way that nobody asked for."""
        self._is_refused = True
        if self._playback.open:
            problem = "An utterance is open; end it with input.done or cancel first."
            raise refused("utterance_open", problem)
        self._config = parse_config(message, self._state.defaults)
        self._is_refused = False
        if message.get("session") is not None:
            await self._sender.send(configured(self._config))

    async def _write(self, context_id: str | None, text: str) -> None:
        utterance = self._writable(context_id)
        if utterance is not None:
            utterance.write(text)
            return
        if self._is_refused:
            problem = "The last session.config was refused; send a good one first."
            raise refused("not_configured", problem)
        utterance = await self._next(context_id)
        utterance.write(text)  # first: a refused text makes no utterance
        self._begin(utterance)

    async def _next(self, context_id: str | None) -> Utterance:
        if len(self._playback.open) >= MOST_OPEN:
            raise refused("too_many_contexts", f"At most {MOST_OPEN} utterances may be open.")
        joined = await joins(self._state, self._config)
        return Utterance(self._state, self._config, self._count + 1, context_id, joined)

    def _begin(self, utterance: Utterance) -> None:
        self._count += 1
        self._playback.add(utterance)

    def _writable(self, context_id: str | None) -> Utterance | None:
        open_ = self._playback.open
        return next((u for u in open_ if not u.closed and u.context_id == context_id), None)

    async def _commit(self, context_id: str | None) -> None:
        utterance = self._writable(context_id)
        if utterance is not None:
            utterance.flush()
        await self._sender.send(committed(utterance))

    async def _done(self, context_id: str | None) -> None:
        """Ends an utterance. One without text ends at once, so that nobody waits for its end."""
        utterance = self._writable(context_id)
        if utterance is None:
            utterance = await self._next(context_id)
            self._begin(utterance)
        utterance.close()

    async def _cancel(self, context_id: str | None, played: int | None) -> None:
        utterance = self._playback.find(context_id)
        if utterance is None:
            raise refused("no_utterance", "There is no utterance to cancel.")
        self._state.metrics.cancels.labels("ws", "cancel").inc()
        await self._playback.cancel(utterance, played)
