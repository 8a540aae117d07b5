"""The prompt of a chunk: token ids, and the places of the voices' frames.

It equals the prompt of upstream's processor for the same script, with two differences. A control
token's name in a text is read as text (no prompt injection), and no line is ever dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.base import Options, Turn
from request.errors import EngineError
from text.pace import is_short

_SHORT_GUIDANCE = 3.0
_SYSTEM = (
    " Transform the text provided by various speakers into speech output, utilizing the distinct"
    " voice of each respective speaker.\n"
)


class Tokenizer(Protocol):
    """The methods of upstream's tokenizer that we use."""

    speech_start_id: int
    speech_end_id: int
    speech_diffusion_id: int
    eos_token_id: int

    def encode(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool
    ) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """The token ids of a prompt.

    `is_voice` says for each id whether a frame of a voice replaces its embedding. `text_tokens` is
    the number of ids of the turns. The first `shared` ids are the same for every text.
    """

    ids: tuple[int, ...]
    is_voice: tuple[bool, ...]
    text_tokens: int
    shared: int


def build_prompt(
    tokenizer: Tokenizer, turns: Sequence[Turn], voice_frames: Mapping[int, int]
) -> Prompt:
    """The prompt for turns that have words (see `spoken`).

    `voice_frames` has the number of frames of each speaker's recording, by speaker, in the order in
    which the model gets them. Speakers without a recording are left out.
    """
    ids: list[int] = encode(tokenizer, _SYSTEM)
    is_voice = [False] * len(ids)
    if voice_frames:
        ids += encode(tokenizer, " Voice input:\n")
        newline = encode(tokenizer, "\n")
        for speaker, frames in voice_frames.items():
            ids += [*encode(tokenizer, f" Speaker {speaker}:"), tokenizer.speech_start_id]
            is_voice += [False] * (len(ids) - len(is_voice)) + [True] * frames
            ids += [tokenizer.speech_diffusion_id] * frames
            ids += [tokenizer.speech_end_id, *newline]
    ids += encode(tokenizer, " Text input:\n")
    shared = len(ids)
    script = [
        token
        for turn in turns
        for token in encode(tokenizer, f" Speaker {turn.speaker}: {turn.text}\n")
    ]
    ids += [*script, *encode(tokenizer, " Speech output:\n"), tokenizer.speech_start_id]
    is_voice += [False] * (len(ids) - len(is_voice))
    return Prompt(tuple(ids), tuple(is_voice), len(script), shared)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text's token ids; a control token's name in it is read as text."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def guidance_for(turns: Sequence[Turn], options: Options, is_small: bool) -> float:
    """The scale of classifier-free guidance for a chunk.

    From a few words and a low scale the 1.5B makes noise or other words. Its authors advise 3 for
    them (microsoft/VibeVoice, issue 103).
    """
    is_open = options.cfg_is_default and is_small
    if is_open and is_short(" ".join(turn.text for turn in turns)):
        return max(options.cfg_scale, _SHORT_GUIDANCE)
    return options.cfg_scale


def frame_limit(prompt: Prompt, options: Options, context: int) -> int:
    """The most tokens that may be generated after a prompt; `context` is the model's, in tokens.

    Raises `EngineError` where the prompt leaves too few.
    """
    wanted = max(options.min_frames, round(options.frames_per_token * prompt.text_tokens))
    room = context - len(prompt.ids)
    if room < min(wanted, options.min_frames):
        raise EngineError(
            f"the text and the voices fill the model's context of {context} tokens: use shorter"
            " chunks (MAX_CHUNK_CHARS) or shorter voice recordings"
        )
    return min(wanted, room)
