"""One utterance on a socket: text that comes in pieces, the audio of its sentences as it is made,
and what of it was heard by when.

Times are milliseconds of audio since the utterance's begin.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from api.admission import Seat
from api.errors import invalid
from api.socket.events import SessionConfig, refused
from api.speaking import AppState, Speaking
from synthesis.inference import AudioPart, Result, StreamStart
from text.feed import Sentence, SentenceFeed

_PIECES_AHEAD = 32
"""Frames that are made before they are sent: 4 s, so that the next sentence begins in time."""

_Item = Sentence | AudioPart | Result | BaseException | None
T = TypeVar("T")


@dataclass(slots=True)
class Line:
    """A sentence and its place in the audio. `end_ms` is the end of what was sent of it, and its
    real one once it is `whole`."""

    index: int
    sentence: Sentence
    start_ms: float
    end_ms: float
    whole: bool = False


class Utterance:
    """Belongs to one session. `number` counts a session's utterances from 1; `plays_at` is when its
    first sample can be heard at the soonest, in monotonic seconds; `in_making` tells whether the
    engine is at work on a sentence of it."""

    def __init__(
        self, state: AppState, config: SessionConfig, number: int, context_id: str | None
    ) -> None:
        self.config, self.number, self.context_id = config, number, context_id
        self.lines: list[Line] = []
        self.closed = False
        self.in_making = False
        self.plays_at: float | None = None
        self.feed = SentenceFeed(config.granularity)
        self._state = state
        self._has_words = False
        self._sentences: asyncio.Queue[Sentence | None] = asyncio.Queue()
        self._began: StreamStart | None = None
        self._flushing: asyncio.TimerHandle | None = None

    def write(self, text: str) -> None:
        """More of its text. Raises a 400 where it becomes too long."""
        most = self._state.settings.openai_input_limit
        if len(self.feed.text) + len(text) > most:
            problem = f"An utterance has at most {most} characters."
            raise invalid("text", "string_above_max_length", problem)
        self._take(self.feed.feed(text))
        self._flush_later()

    def _flush_later(self) -> None:
        """What has no sure end is spoken after a while without more text."""
        self._stop_timer()
        if self.config.granularity != "none":
            delay = self.config.max_buffer_delay_ms / 1000
            self._flushing = asyncio.get_running_loop().call_later(delay, self.flush)

    def _stop_timer(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()

    def flush(self) -> None:
        """Its last sentence ends here, though more may come."""
        self._take(self.feed.flush())

    def close(self) -> None:
        """Its text is whole. One without a word is silence, as at the other doors."""
        self.flush()
        text = self.feed.text
        if text.strip() and not self._has_words:
            self._take([Sentence(text, 0, len(text))])
        self.abandon()
        self._sentences.put_nowait(None)

    def abandon(self) -> None:
        """No more text is taken, and none that waits for more is spoken."""
        self._stop_timer()
        self.closed = True

    def _take(self, sentences: list[Sentence]) -> None:
        for sentence in sentences:
            self._has_words = True
            self._sentences.put_nowait(sentence)

    @property
    def sent_ms(self) -> float:
        return self.lines[-1].end_ms if self.lines else 0.0

    def begin(self, sentence: Sentence) -> Line:
        line = Line(len(self.lines), sentence, self.sent_ms, self.sent_ms)
        self.lines.append(line)
        return line

    async def audio(self) -> AsyncGenerator[Sentence | AudioPart | Result, None]:
        """Each sentence, its pieces and its result, made ahead by up to `_PIECES_AHEAD`. Raises
        what the making raises. Closing it stops the engine at once, without waiting for it."""
        made: asyncio.Queue[_Item] = asyncio.Queue(_PIECES_AHEAD)
        making = asyncio.create_task(self._make(made))
        try:
            while (item := await made.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            making.cancel()
            _ENDING.add(making)
            making.add_done_callback(_ENDING.discard)

    async def _make(self, made: "asyncio.Queue[_Item]") -> None:
        """Speaks the sentences in one seat, from the first to the end."""
        speaking = Speaking(self._state, "ws", "stopped")
        try:
            with speaking.seat as seat:
                while (sentence := await self._idle(seat, self._sentences.get)) is not None:
                    await self._idle(seat, partial(made.put, sentence))
                    self.in_making = True
                    await self._make_sentence(speaking, sentence, made)
                    self.in_making = False
        except Exception as error:  # noqa: BLE001 - raised again where the audio is read
            self.in_making = False
            await made.put(error)
        else:
            await made.put(None)

    async def _make_sentence(
        self, speaking: Speaking, sentence: Sentence, made: "asyncio.Queue[_Item]"
    ) -> None:
        request = self.config.request.model_copy(update={"text": sentence.text})
        after = (self._began, self._silence_ms(sentence)) if self._began else None
        parts = speaking.part(request, self.config.sample_rate, after)
        async with aclosing(parts) as items:
            async for item in items:
                if isinstance(item, StreamStart):
                    self._began = self._began or item
                elif isinstance(item, AudioPart):
                    await self._taken(made.put(item))
                else:
                    await self._idle(speaking.seat, partial(made.put, item))

    async def _idle(self, seat: Seat, wait: Callable[[], Awaitable[T]]) -> T:
        """What `wait` gives. The engine has nothing to do for it meanwhile, so after a while the
        seat goes to others."""
        try:
            async with asyncio.timeout(self._state.settings.utterance_idle_sec):
                return await wait()
        except TimeoutError:
            seat.leave()
        return await wait()

    async def _taken(self, put: Awaitable[None]) -> None:
        """Waits for room. Raises where a pause, or a caller who reads too slowly, would hold the
        seat for ever in the middle of a sentence."""
        longest = self._state.settings.session_idle_sec
        try:
            async with asyncio.timeout(longest):
                await put
        except TimeoutError:
            self._state.metrics.errors.labels("ws", "stalled").inc()
            raise refused("stalled", f"Nothing of it was taken for {longest:g} s.") from None

    def _silence_ms(self, sentence: Sentence) -> int:
        """What lies before a sentence, as between two chunks of one text."""
        settings = self._state.settings
        paragraph = sentence.starts_paragraph
        return settings.paragraph_silence_ms if paragraph else settings.chunk_silence_ms

    def heard(self, played_ms: float) -> str:
        """The text of whole words that was heard after that much audio. Within a sentence it is
        measured by the share of its time; while that is not known, by the voice's usual pace."""
        end = 0
        for line in self.lines:
            if played_ms <= line.start_ms:
                break
            if line.whole and played_ms >= line.end_ms:
                end = line.sentence.end
                continue
            duration = self._duration_ms(line)
            share = min(1.0, (played_ms - line.start_ms) / duration) if duration else 1.0
            text = line.sentence.text
            count = int(share * len(text) + 1e-6)
            while 0 < count < len(text) and not text[count].isspace():
                count -= 1  # a word that was cut was not heard
            end = line.sentence.start + count
            break
        return self.feed.text[:end].rstrip()

    def _duration_ms(self, line: Line) -> float:
        made = line.end_ms - line.start_ms
        if line.whole:
            return made
        request = self.config.request
        voice = request.speaker_name or self._state.settings.default_speaker
        usual = self._state.inference.pace.expected(voice, line.sentence.text) * 1000
        return max(made, usual / request.speed)


_ENDING: set[asyncio.Task[None]] = set()
"""Tasks whose engine is about to stop; asyncio itself keeps no hold of a task."""
