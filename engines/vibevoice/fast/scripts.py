"""Chunks of a plan as work for a slot: prompts, limits, levelled voices."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.base import Options, Plan, PlannedChunk, Samples, Turn
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.fast.graph_shape import context_for
from engines.vibevoice.fast.scheduler import Work
from engines.vibevoice.fast.voice_cache import Recording, recordings
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

_SHORTEST = 4  # characters: a half, with the full stop that it gets, is shorter than the whole


class Normaliser(Protocol):
    """Upstream's levelling of a voice."""

    def __call__(self, audio: Samples) -> Samples: ...


@dataclass(frozen=True, slots=True, eq=False)
class Script(Work):
    """A chunk with its prompt, ready for a slot."""

    chunk: PlannedChunk
    prompt: Prompt
    voices: Mapping[int, Recording]
    guidance: float


class Scripts:
    """Writes scripts for one model, in slots that hold `longest` tokens at most. Safe to use from
    many threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        normaliser: Normaliser,
        checkpoint: Checkpoint,
        longest: int | None = None,
    ) -> None:
        self._longest = longest
        self._tokenizer, self._level, self._checkpoint = tokenizer, normaliser, checkpoint
        self._lock = threading.Lock()  # the tokenizer changes its state when it is used

    def prepare(self, plan: Plan) -> list[Script | None]:
        """The work for each chunk, None where it has no words. One that is too long for a slot is
        cut: its parts are spoken one after the other. Raises `EngineError` for a chunk that does
        not fit into the model's context."""
        normalise = self._level if self._checkpoint.normalise else lambda samples: samples
        voices = recordings(plan.voices, normalise, self._checkpoint.hop)
        frames = {speaker: voice.frames for speaker, voice in voices.items()}
        return [
            self._script(index, chunk, plan.options, voices, frames)
            for index, chunk in enumerate(plan.chunks)
        ]

    def _script(
        self,
        index: int,
        chunk: PlannedChunk,
        options: Options,
        voices: Mapping[int, Recording],
        frames: Mapping[int, int],
    ) -> Script | None:
        script = None
        for prompt, limit in reversed(list(self._parts(chunk.turns, options, frames))):
            script = Script(
                index=index,
                seed=chunk.seed,
                tokens=len(prompt.ids),
                limit=limit,
                steps=options.steps,
                repeatable=options.repeatable,
                chunk=chunk,
                prompt=prompt,
                voices={} if options.disable_prefill else voices,
                guidance=guidance_for(chunk.turns, options, self._checkpoint.is_small),
                rest=script,
            )
        return script

    def _parts(
        self, turns: Sequence[Turn], options: Options, frames: Mapping[int, int]
    ) -> Iterator[tuple[Prompt, int]]:
        """The prompts of turns, and the most tokens that may come after each: one where they fit
        into a slot, none where they have no words."""
        turns = spoken(turns)
        if not turns:
            return
        with self._lock:
            prompt = build_prompt(self._tokenizer, turns, frames)
        limit = frame_limit(prompt, options, self._checkpoint.context)
        if self._longest is None or context_for(len(prompt.ids) + limit) <= self._longest:
            yield prompt, limit
            return
        for half in halves(turns, self._longest):
            yield from self._parts(half, options, frames)


def halves(turns: Sequence[Turn], longest: int) -> tuple[Sequence[Turn], Sequence[Turn]]:
    """Turns in two parts of about the same length: cut between turns, or one at the best place
    about its middle. Raises `EngineError` where there is nothing to cut."""
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
    return [Turn(speaker, text[:middle])], [Turn(speaker, text[middle:])]
