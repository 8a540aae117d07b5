"""A text on its way through a slot: windows of text and frames, as far as the text is known."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from engines.base import Options, PlannedChunk
from engines.realtime.slots import SPEECH_WINDOW, TEXT_WINDOW, Saved
from engines.realtime.text import TokenFeed
from engines.vibevoice.fast.graph_shape import TEXT_STEP
from engines.vibevoice.fast.layers.noise import Noise
from engines.vibevoice.fast.sequence import Part, Sequence


@dataclass(frozen=True, slots=True)
class Turn(Part):
    """What a voice says in one go: its text, and the `capacity` of a slot in positions."""

    voice: str
    feed: TokenFeed
    capacity: int

    @property
    def tokens(self) -> int:
        return TEXT_WINDOW

    @property
    def context(self) -> int:
        return self.capacity


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A window that begins: its token ids, padded to TEXT_WINDOW, of which `count` count.

    `noise` is (frames, latent). `is_last`: no text follows.
    """

    ids: Tensor
    count: int
    noise: Tensor
    is_last: bool


class Text(Sequence):
    """A chunk: its turns, each of which is the text of one voice. That of the last may grow.

    `room` are the positions that a slot has for a turn behind its voice. `suspended` is the state
    of the slot that it had, while it waits for text without one.
    """

    def __init__(
        self, index: int, chunk: PlannedChunk, options: Options, turns: Iterable[Turn]
    ) -> None:
        super().__init__(
            index=index,
            chunk=chunk,
            parts=deque(turns),
            steps=options.steps,
            repeatable=options.repeatable,
            guidance=options.cfg_scale,
            voices={},
        )
        self._options = options
        self._noise = Noise(chunk, torch.device("cpu"), with_voices=False)
        self.suspended: Saved | None = None
        self.place(0, 0)

    @property
    def turn(self) -> Turn:
        return cast(Turn, self.part)

    @property
    def feed(self) -> TokenFeed:
        return self.turn.feed

    def place(self, text: int, speech: int) -> None:
        """Begins a turn behind a voice of so many positions in the text and the speech model."""
        self._text, self._speech, self._left, self._unread = text, speech, 0, 0
        self.room = self.turn.capacity - max(text, speech) - TEXT_WINDOW

    @property
    def positions(self) -> tuple[int, int]:
        """Those that it holds in the text and the speech model."""
        return self._text, self._speech

    @property
    def limit(self) -> int:
        """The most frames. It is known once the text is."""
        room = self.room - self.feed.count
        if not self.feed.finished:
            return room
        wanted = round(self._options.frames_per_token * self.feed.count)
        return min(max(self._options.min_frames, wanted), room)

    @property
    def is_over(self) -> bool:
        return self.seen >= self.limit

    @property
    def next_steps(self) -> int | None:
        if self.launched >= self.limit:
            return None
        if self._unread:
            return TEXT_STEP
        if self._left:
            return self.steps
        if not self.feed.is_ready(TEXT_WINDOW):
            return None
        return TEXT_STEP if self.feed.unread else self.steps

    @property
    def starves(self) -> bool:
        ready = self._unread or self._left or self.feed.is_ready(TEXT_WINDOW)
        return not ready and self.seen == self.launched < self.limit

    @property
    def reach(self) -> int:
        """The positions that its next step attends to. A text step's padding counts, too."""
        reads = self.next_steps == TEXT_STEP
        return max(self._text, self._speech) + (TEXT_WINDOW if reads else 1)

    def begin_window(self, latent: int) -> Window | None:
        """The window that its next step begins; None within one."""
        if self._left:
            return None
        ids = self.feed.take(TEXT_WINDOW)
        self._unread, self._left = len(ids), SPEECH_WINDOW
        is_last = self.feed.finished and not self.feed.unread
        padded = torch.tensor([*ids, *[0] * (TEXT_WINDOW - len(ids))])
        return Window(padded, len(ids), self._noise.frames(SPEECH_WINDOW, latent), is_last)

    def advance(self) -> None:
        if self._unread:
            self._text += self._unread
            self._speech += self._unread
            self._unread = 0
        else:
            self._speech += 1
            self._left -= 1
            self.launched += 1
