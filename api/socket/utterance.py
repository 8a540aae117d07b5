"""An utterance on a socket: text that arrives in parts, spoken as one stream.

It also maps played milliseconds back to text. Times are in milliseconds of audio since the start of
the utterance.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass

from api.admission import Seat
from api.errors import invalid
from api.socket.events import SessionConfig, refused
from api.speaking import AppState, Speaking
from synthesis.parts import StreamOptions
from synthesis.plan import Section, grows
from synthesis.result import AudioPart
from synthesis.stream import Stalled, StreamItem
from text.feed import Sentence, SentenceFeed

_PARTS_AHEAD = 32
"""Frames that the engine may be ahead of the sender: 32 of 133 ms, which is 4 s.

That is enough for the next sentence to begin without a gap."""


_BREAK = Sentence("", 0, 0)


@dataclass(slots=True)
class Line:
    """A sentence and its place in the utterance's audio, in milliseconds.

    `end_ms` is the end of the audio sent so far. Once `whole` is set, it is the sentence's end.
    """

    index: int
    sentence: Sentence
    start_ms: float
    end_ms: float
    whole: bool = False


class Utterance:
    """One utterance of one session.

    `number` counts the session's utterances from 1. `plays_at` is the earliest time at which the
    client can play its first sample, in monotonic seconds. `in_making` says whether the engine
    works on one of its sentences. With `joins` its sentences are spoken as one text that grows.
    """

    def __init__(
        self,
        state: AppState,
        config: SessionConfig,
        number: int,
        context_id: str | None,
        joins: bool,
    ) -> None:
        self.config, self.number, self.context_id = config, number, context_id
        self.lines: list[Line] = []
        self.closed = False
        self.in_making = False
        self.plays_at: float | None = None
        self._joins = joins
        self.feed = SentenceFeed("word" if self._joins else config.granularity)
        self._state = state
        self._begun = 0
        self._sounded_at = 0.0  # when its last part was made, in monotonic seconds
        self._has_words = False
        self._sentences: asyncio.Queue[Sentence | None] = asyncio.Queue()
        """None is the end of the text, and an empty one that of what is spoken as one."""
        self._given: list[Sentence] = []
        self._flushing: asyncio.TimerHandle | None = None

    def write(self, text: str) -> None:
        """Appends text. Raises `ApiError` 400 beyond `OPENAI_INPUT_LIMIT` characters."""
        most = self._state.settings.openai_input_limit
        if len(self.feed.text) + len(text) > most:
            problem = f"An utterance has at most {most} characters."
            raise invalid("text", "string_above_max_length", problem)
        self._take(self.feed.feed(text))
        self._flush_later()

    def _flush_later(self) -> None:
        """Starts the timer of `max_buffer_delay_ms` that ends an unfinished sentence."""
        self._stop_timer()
        if self.config.granularity != "none" and not self._joins:
            delay = self.config.max_buffer_delay_ms / 1000
            self._flushing = asyncio.get_running_loop().call_later(delay, self.flush)

    def _stop_timer(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()

    def flush(self) -> None:
        """Ends the last sentence here. More text may follow."""
        self._take(self.feed.flush())
        if self._joins:
            self._sentences.put_nowait(_BREAK)

    def close(self) -> None:
        """Ends the text. A text without words, but with pauses, is spoken as silence."""
        self.flush()
        text = self.feed.text
        if text.strip() and not self._has_words:
            self._take([Sentence(text, 0, len(text))])
        self.abandon()
        self._sentences.put_nowait(None)

    def abandon(self) -> None:
        """Accepts no more text, and speaks no sentence that is unfinished."""
        self._stop_timer()
        self.closed = True

    def _take(self, sentences: list[Sentence]) -> None:
        for sentence in sentences:
            self._has_words = True
            self._sentences.put_nowait(sentence)

    @property
    def sent_ms(self) -> float:
        """The milliseconds of audio sent so far."""
        return self.lines[-1].end_ms if self.lines else 0.0

    def begin(self) -> Line:
        """Adds the line of the sentence whose audio is next."""
        sentence = self._given[self._begun]
        self._begun += 1
        line = Line(len(self.lines), sentence, self.sent_ms, self.sent_ms)
        self.lines.append(line)
        return line

    def extend(self) -> None:
        """Adds the next piece to the line whose audio is being sent."""
        line, end = self.lines[-1], self._given[self._begun].end
        self._begun += 1
        start = line.sentence.start
        line.sentence = Sentence(self.feed.text[start:end], start, end)

    async def audio(self) -> AsyncGenerator[StreamItem, None]:
        """One stream of all sentences, up to `_PARTS_AHEAD` parts ahead of the reader.

        Raises what `synthesis.stream` raises, or `ApiError` if nothing is read for
        `SESSION_IDLE_SEC`. Closing it stops the engine without waiting for its end.
        """
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
        stream = state.inference.stream(
            config.request, options, self._sections(speaking), speaking.aside
        )
        try:
            async with aclosing(speaking.noted(stream)) as items:
                async for item in items:
                    if isinstance(item, AudioPart):
                        self._sounded_at = asyncio.get_running_loop().time()
                    yield item
        except Stalled:
            state.metrics.errors.labels("ws", "stalled").inc()
            raise refused("stalled", f"Nothing of it was taken for {longest:g} s.") from None
        finally:
            stream.cancel()

    async def _sections(self, speaking: Speaking) -> AsyncGenerator[Section, None]:
        """The sentences as they come. One seat serves them all, but for a long wait for text."""
        with speaking.seat:
            while (sentence := await self._next_sentence(speaking.seat)) is not None:
                self.in_making = True
                try:
                    await speaking.take_seat()
                    if sentence is not _BREAK:
                        self._given.append(sentence)
                    yield Section(
                        sentence.text,
                        self._silence_ms(sentence),
                        plain=sentence.plain,
                        continues=sentence.continues,
                    )
                finally:
                    self.in_making = False

    async def _next_sentence(self, seat: Seat) -> Sentence | None:
        """The next sentence; None at the end of the text.

        After `UTTERANCE_IDLE_SEC` without one, and without a sound of those before, the seat goes
        to another answer: the engine would have nothing to do in it.
        """
        clock = asyncio.get_running_loop().time
        asked, longest = clock(), self._state.settings.utterance_idle_sec
        while (until := max(asked, self._sounded_at) + longest) > clock():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    return await self._sentences.get()
        seat.leave()
        return await self._sentences.get()

    def _silence_ms(self, sentence: Sentence) -> int:
        """The silence before a sentence, in ms: the same as between two chunks of one text."""
        if len(self._given) <= 1 or sentence.continues:
            return 0
        settings = self._state.settings
        paragraph = sentence.starts_paragraph
        return settings.paragraph_silence_ms if paragraph else settings.chunk_silence_ms

    def heard(self, played_ms: float) -> str:
        """The text that was heard after `played_ms` of audio, cut before a partial word.

        Within a sentence, the share of characters is the share of its duration. While the duration
        is not known, the voice's usual pace estimates it.
        """
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
                count -= 1  # a partial word does not count as heard
            end = line.sentence.start + count
            break
        return self.feed.text[:end].rstrip()

    def _duration_ms(self, line: Line) -> float:
        made = line.end_ms - line.start_ms
        if line.whole:
            return made
        request = self.config.request
        pace = self._state.inference.models.pace(request.model)
        voice = request.speaker_name or self._state.settings.default_speaker
        usual = pace.expected(voice, line.sentence.text) * 1000
        return max(made, usual / request.speed)


async def joins(state: AppState, config: SessionConfig) -> bool:
    """Whether sentences are spoken as one text that grows word by word."""
    if config.granularity != "sentence":
        return False
    with state.inference.models.lease(config.request.model) as model:
        return grows(await model.asked(), config.request)
