"""A speech server behind its HTTP contract, as an engine: a request for each turn of a chunk."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

from audio.pcm import SAMPLE_RATE
from engines.base import Capabilities, Plan, PlannedChunk, Samples
from engines.priority_lock import PriorityLock
from engines.pulled import PulledSpeech
from engines.upstream.client import Upstream
from request.errors import Cancelled, EngineError

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage",
    "shimmer", "verse",
)  # fmt: skip


class UpstreamEngine:
    """A model of an upstream server as an `Engine`. Before a text, nothing is asked of it."""

    lost = False

    def __init__(self, server: Upstream, voices: Sequence[str] = ()) -> None:
        self._server = server
        self.ready = False
        self.capabilities = Capabilities(
            name="upstream",
            cloning=False,
            voices=tuple(voices) or OPENAI_VOICES,
            languages=(),
            jobs=8,
            details={"model": server.model},
        )

    def inspect(self) -> Capabilities:
        return self.capabilities

    def check(self) -> None:
        if self._server.url is None:
            raise EngineError("UPSTREAM_URL is not set: it is the address of the speech server")

    def load(self) -> None:
        self.check()
        self.ready = True

    def start(self, plan: Plan) -> "UpstreamSpeech":
        self.load()
        return UpstreamSpeech(plan, self._server)

    def close(self) -> None:
        self.ready = False


class UpstreamSpeech(PulledSpeech):
    """See `engines.base.Speech`. `cancel` shuts the connection, so that no read waits on."""

    def __init__(self, plan: Plan, server: Upstream) -> None:
        super().__init__(plan, PriorityLock(), SAMPLE_RATE)
        self._server = server
        self._socket: socket.socket | None = None

    def cancel(self) -> None:
        super().cancel()
        if connected := self._socket:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def pieces(self, chunk: PlannedChunk) -> Iterator[Samples]:
        for turn in chunk.turns:
            if not any(map(str.isalnum, turn.text)):
                continue
            try:
                with closing(self._server.connection()) as connection:
                    self._socket = connection.sock
                    voice = self.plan.voices[turn.speaker].name
                    if not self.cancelled.is_set():
                        yield from self._server.say(connection, turn.text, voice)
            except EngineError:
                if not self.cancelled.is_set():
                    raise
            if self.cancelled.is_set():
                raise Cancelled
