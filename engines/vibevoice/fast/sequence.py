"""A chunk in the fast runtime: its prompts, its progress, and the outputs of its steps."""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engines.base import End, Options, Plan, PlannedChunk, Reason, Samples, Turn
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.fast.graph_shape import context_for
from engines.vibevoice.fast.voice_cache import Recording, recordings
from engines.vibevoice.frames import Frames
from engines.vibevoice.prompt import (
    Prompt,
    Tokenizer,
    build_prompt,
    frame_limit,
    guidance_for,
)
from request.errors import EngineError
from text.chunks import spoken
from text.sentences import split_long
from text.writing_systems import letters

_SHORTEST = 4  # characters; from here on a half with its added full stop is shorter than the whole


@dataclass(frozen=True, slots=True)
class Part:
    """A prompt, and the most tokens (`limit`) that may be generated after it.

    A chunk has one part, or several where its tokens do not fit into a slot.
    """

    prompt: Prompt
    limit: int

    @property
    def tokens(self) -> int:
        """The number of tokens of the prompt."""
        return len(self.prompt.ids)

    @property
    def context(self) -> int:
        """The context of its graph shape, in tokens: the most it may need, rounded up."""
        return context_for(self.tokens + self.limit)


@dataclass(slots=True, eq=False, repr=False)
class Sequence:
    """A chunk from waiting to finished.

    `index` is the chunk's index in the plan. `parts` are the remaining parts, spoken one after the
    other; the first is running or next. `steps` is the number of solver steps. A `repeatable`
    sequence always runs in the one graph shape that its size determines.

    `slot` is where it runs. For the current part, `launched` counts steps and `seen` counts tokens
    that were read. `spoken`: a part had sound. `capped`: a part reached its limit. `early`: the
    model ended a part before its text. `device_sec` is its share of the loop's busy time, in
    seconds.
    """

    index: int
    chunk: PlannedChunk
    parts: deque[Part]
    steps: int
    repeatable: bool
    guidance: float
    voices: Mapping[int, Recording]
    group: "SequenceGroup" = field(init=False)
    slot: int = field(default=-1, init=False)
    launched: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)
    spoken: bool = field(default=False, init=False)
    capped: bool = field(default=False, init=False)
    early: bool = field(default=False, init=False)
    device_sec: float = field(default=0.0, init=False)

    @property
    def part(self) -> Part:
        return self.parts[0]

    @property
    def next_steps(self) -> int | None:
        """The solver steps of its next step, `TEXT_STEP` for one that reads text.

        None while it has to wait for text.
        """
        return self.steps

    @property
    def starves(self) -> bool:
        """Whether it waits for text, and all of its outputs were read: it needs no slot."""
        return False

    def advance(self) -> None:
        """Notes that its next step is launched."""
        self.launched += 1

    @property
    def is_over(self) -> bool:
        """Whether its part has reached its limit, by the outputs that were read."""
        return self.seen == self.part.limit

    @property
    def reach(self) -> int:
        """The most tokens that its next step attends to."""
        return self.part.tokens + min(self.launched, self.part.limit - 1)

    def finish_part(self) -> bool:
        """Moves to the next part. False where there is none."""
        self.parts.popleft()
        self.launched = self.seen = 0
        return bool(self.parts)

    @property
    def end(self) -> End:
        """The chunk's `End` event, after the last part has ended."""
        reason: Reason = "cap" if self.capped else "early" if self.early else "eos"
        return End(self.index, reason if self.spoken else "empty", self.chunk.seed, self.device_sec)


class Lease(Protocol):
    """A lease on the voice cache, which a group holds until it ends."""

    def release(self) -> None: ...


class SequenceGroup:
    """The sequences of one speech, and the queue for their frames. Chunks without words have none.

    `waiting` are the sequences without a slot. `slots` are the slots of the others. `served` is
    (turn, got_slot): when the group last got a slot, or arrived. The smallest value is next.
    """

    def __init__(self, frames: Frames, sequences: Iterable[Sequence] = ()) -> None:
        self.frames = frames
        self.waiting: deque[Sequence] = deque()
        self.slots: set[int] = set()
        self.served = (0, False)
        self.cancelled = threading.Event()
        self.lease: Lease | None = None
        self.add(sequences)

    def add(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            sequence.group = self
            self.waiting.append(sequence)


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """A launched step and its sequences by slot, which may hold others when it is read.

    Once `done`, the host has `chosen` (slots,), the index of each new token, and `audio`
    (slots, samples).
    """

    sequences: Mapping[int, Sequence]
    chosen: Tensor
    audio: Tensor
    done: torch.cuda.Event | None

    def samples(self, slot: int) -> Samples:
        """A copy of a slot's frame."""
        return np.array(self.audio[slot].float().numpy())


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """A step's output for a sequence: its part's end (`eos`), or a frame's samples, or neither.

    `early`: the model ended the part before it had read all of its text.
    """

    sequence: Sequence
    eos: bool = False
    samples: Samples | None = None
    early: bool = False


class Normaliser(Protocol):
    """Upstream's levelling of a voice."""

    def __call__(self, audio: Samples) -> Samples: ...


class Preprocessor:
    """Turns plans into sequences for one model. Slots hold at most `longest` tokens.

    Safe for many threads.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        normaliser: Normaliser,
        checkpoint: Checkpoint,
        longest: int | None = None,
    ) -> None:
        self._longest = longest
        self._tokenizer, self._level, self._checkpoint = tokenizer, normaliser, checkpoint
        self._lock = threading.Lock()  # the tokenizer has state and is not thread-safe

    def sequences(self, plan: Plan) -> list[Sequence | None]:
        """A sequence for each chunk; None for a chunk without words.

        Raises `EngineError` for a chunk that does not fit into the model's context.
        """
        normalise = self._level if self._checkpoint.normalise else lambda samples: samples
        voices = recordings(plan.voices, normalise, self._checkpoint.hop)
        return [
            self._sequence(index, chunk, plan.options, voices)
            for index, chunk in enumerate(plan.chunks)
        ]

    def _sequence(
        self, index: int, chunk: PlannedChunk, options: Options, voices: Mapping[int, Recording]
    ) -> Sequence | None:
        frames = {speaker: voice.frames for speaker, voice in voices.items()}
        parts = deque(self._parts(chunk.turns, options, frames))
        if not parts:
            return None
        return Sequence(
            index=index,
            chunk=chunk,
            parts=parts,
            steps=options.steps,
            repeatable=options.repeatable,
            guidance=guidance_for(chunk.turns, options, self._checkpoint.is_small),
            voices={} if options.disable_prefill else voices,
        )

    def _parts(
        self, turns: Iterable[Turn], options: Options, frames: Mapping[int, int]
    ) -> Iterator[Part]:
        """The parts of turns: one if they fit into a slot, else several; none without words."""
        turns = spoken(turns)
        if not turns:
            return
        with self._lock:
            prompt = build_prompt(self._tokenizer, turns, frames)
        part = Part(prompt, frame_limit(prompt, options, self._checkpoint.context))
        if self._longest is None or part.context <= self._longest:
            yield part
            return
        for half in halves(turns, self._longest):
            yield from self._parts(half, options, frames)


def halves(turns: tuple[Turn, ...], longest: int) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """Cuts turns into two halves of about the same length.

    The cut is between turns, or in a single turn at the best place near its middle. Raises
    `EngineError` where there is nothing to cut.
    """
    if len(turns) > 1:
        ends = list(itertools.accumulate(len(turn.text) for turn in turns))
        cut = min(range(1, len(turns)), key=lambda at: abs(2 * ends[at - 1] - ends[-1]))
        return turns[:cut], turns[cut:]
    text, speaker = turns[0].text, turns[0].speaker
    spans = split_long(text, (0, len(text)), -(-letters(text) // 2))
    if len(spans) < 2 or len(text) < _SHORTEST:
        raise EngineError(
            f"the voices fill the {longest} tokens that this worker has memory for: use shorter"
            " voice recordings or fewer MAX_SLOTS"
        )
    middle = spans[1][0]
    return (Turn(speaker, text[:middle]),), (Turn(speaker, text[middle:]),)
