"""One utterance on a socket: text that comes in pieces, the audio of its sentences as it is made,
and what of it was heard by when.

Times are milliseconds of audio since the utterance's begin.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from api.admission import Seat
from api.errors import invalid
from api.socket.events import SessionConfig, refused
from api.speaking import AppState, Speaking
from synthesis.parts import StreamOptions
from synthesis.plan import Section
from synthesis.stream import Stalled, StreamItem
from text.feed import Sentence, SentenceFeed

_PARTS_AHEAD = 32
"""Frames that are made before they are sent: 4 s, so that the next sentence begins in time."""


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
        self._given: list[Sentence] = []
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

    def begin(self) -> Line:
        """The place of the sentence whose audio follows."""
        index = len(self.lines)
        line = Line(index, self._given[index], self.sent_ms, self.sent_ms)
        self.lines.append(line)
        return line

    async def audio(self) -> AsyncGenerator[StreamItem, None]:
        """One stream of all its sentences, made ahead by up to `_PARTS_AHEAD`. Raises what the
        making raises. Closing it stops the engine at once, without waiting for it."""
        state, config = self._state, self.config
        speaking = Speaking(state, "ws", "stopped")
        longest = state.settings.session_idle_sec
        options = StreamOptions(
            longest_part_sec=0,
            longest_block_sec=0,
            parts_ahead=_PARTS_AHEAD,
            stalled_sec=longest,
            sample_rate=config.sample_rate,
        )
        stream = state.inference.stream(config.request, options, self._sections(speaking))
        try:
            async with aclosing(speaking.noted(stream)) as items:
                async for item in items:
                    yield item
        except Stalled:
            state.metrics.errors.labels("ws", "stalled").inc()
            raise refused("stalled", f"Nothing of it was taken for {longest:g} s.") from None
        finally:
            stream.cancel()

    async def _sections(self, speaking: Speaking) -> AsyncGenerator[Section, None]:
        """Its sentences as they come, in one seat from the first to the end."""
        with speaking.seat:
            while (sentence := await self._next_sentence(speaking.seat)) is not None:
                self.in_making = True
                try:
                    await speaking.take_seat()
                    self._given.append(sentence)
                    yield Section(sentence.text, self._silence_ms(sentence))
                finally:
                    self.in_making = False

    async def _next_sentence(self, seat: Seat) -> Sentence | None:
        """None at the end of its text. The engine has nothing to do meanwhile, so after a while the
        seat goes to others."""
        try:
            async with asyncio.timeout(self._state.settings.utterance_idle_sec):
                return await self._sentences.get()
        except TimeoutError:
            seat.leave()
        return await self._sentences.get()

    def _silence_ms(self, sentence: Sentence) -> int:
        """What lies before a sentence, as between two chunks of one text."""
        if len(self._given) == 1:
            return 0
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
