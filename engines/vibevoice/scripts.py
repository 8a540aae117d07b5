"""Chunks of a plan as work for a slot: prompts, limits, levelled voices."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from engines.base import Options, Plan, PlannedChunk, Samples
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.prompt import Prompt, Tokenizer, build_prompt, frame_limit, spoken
from engines.vibevoice.scheduler import Work
from engines.vibevoice.voice_cache import Recording, recordings


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
    """Writes scripts for one model. Safe to use from many threads."""

    def __init__(
        self, tokenizer: Tokenizer, normaliser: Normaliser, checkpoint: Checkpoint
    ) -> None:
        self._tokenizer, self._level, self._checkpoint = tokenizer, normaliser, checkpoint
        self._lock = threading.Lock()  # the tokenizer changes its state when it is used

    def prepare(self, plan: Plan) -> list[Script | None]:
        """The work for each chunk, None where it has no words. Raises `EngineError` for a chunk
        that does not fit into the model's context."""
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
        turns = spoken(chunk.turns)
        if not turns:
            return None
        with self._lock:
            prompt = build_prompt(self._tokenizer, turns, frames)
        return Script(
            index=index,
            seed=chunk.seed,
            tokens=len(prompt.ids),
            limit=frame_limit(prompt, options, self._checkpoint.context),
            steps=options.steps,
            repeatable=options.repeatable,
            chunk=chunk,
            prompt=prompt,
            voices={} if options.disable_prefill else voices,
            guidance=options.cfg_scale,
        )
