"""One step: a forward pass of all networks, which generates a token and a frame of every slot.

In order: language model, token, latent, audio, next input. Shapes are fixed and the host reads no
value. So the same call may run eagerly or be captured as a CUDA graph. Masks decide everything that
depends on a slot's state.

Both branches of the classifier-free guidance get the same input in every step, since the last token
of a prompt and the first of the negative branch are both `speech_start`. So both run as one stacked
batch. The negative branch keeps a token only where a latent was generated. It restarts at
`speech_start`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.layers.codec import Codec
from engines.vibevoice.fast.layers.head import Head
from engines.vibevoice.fast.layers.language import LanguageModel
from engines.vibevoice.fast.layers.weights import Connector, Weights
from engines.vibevoice.fast.slots import IDLE, Slots
from engines.vibevoice.prompt import Tokenizer


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of the tokens that may be generated.

    `choices` has them in ascending order. Of equal logits the first wins, as in upstream's argmax
    over the vocabulary.
    """

    start: int
    end: int
    diffusion: int
    eos: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        return cls(
            tokenizer.speech_start_id,
            tokenizer.speech_end_id,
            tokenizer.speech_diffusion_id,
            tokenizer.eos_token_id,
        )

    @property
    def choices(self) -> tuple[int, ...]:
        return tuple(sorted((self.start, self.end, self.diffusion, self.eos)))


class Step:
    """The networks of a model, called as one step."""

    def __init__(
        self, weights: Weights, tokens: Tokens, capacity: int, *, flash: bool = False
    ) -> None:
        self.weights, self.tokens = weights, tokens
        self._flash = flash
        sizes = weights.architecture
        self.grow(capacity)
        self.decoder = Codec(weights.decoder, sizes.decoder, decodes=True)
        self.encoder = Codec(weights.encoder, sizes.encoder, decodes=False)
        self._heads: dict[int, Head] = {}
        choices = tokens.choices
        self._diffusion, self._start, self._end, self._eos = (
            choices.index(token)
            for token in (tokens.diffusion, tokens.start, tokens.end, tokens.eos)
        )
        self._embedded = weights.embedding[list(choices)]

    def grow(self, capacity: int) -> None:
        """Prepares for sequences of up to `capacity` tokens."""
        self.language = LanguageModel(self.weights, capacity, flash=self._flash)

    def head(self, steps: int) -> Head:
        """The sampler for a number of solver steps, made once and cached."""
        if steps not in self._heads:
            self._heads[steps] = Head(self.weights, steps)
        return self._heads[steps]

    @torch.inference_mode()
    def __call__(self, slots: Slots, shape: GraphShape) -> None:
        count, weights = shape.slots, self.weights
        x, lengths, past = slots.x[:count], slots.lengths[:count], slots.past[:count]

        # 1. Both branches of the language model, and which token comes
        hidden = self.language.step(
            x.repeat_interleave(2, 0), lengths.flatten(), slots.cache, shape.context
        )
        logits = torch.addmm(slots.preference[:count], hidden[::2], weights.choices)
        choice = logits.argmax(1)

        # 2. What it means for the slots
        active = slots.active[:count]
        runs = active & (slots.steps[:count] == shape.steps)
        speaks = runs & (choice == self._diffusion)
        starts = runs & (choice == self._start)
        ends = runs & (choice == self._end)
        used = slots.used[:count]
        noise = slots.noise[slots.every[:count], used]
        used.add_(speaks)
        lengths[:, 0].add_(runs)
        lengths[:, 1].add_(speaks).mul_(~starts)
        left = slots.left[:count].sub_(runs.long())
        active.logical_and_(~(runs & ((choice == self._eos) | (left == 0))))
        slots.chosen[:count] = torch.where(runs, choice, IDLE)

        # 3. The latent, its sound, and how that is heard
        latent = self.head(shape.steps)(hidden, noise, slots.guidance[:count])
        decoding, encoding = slots.contexts(count)
        sound = self.decoder((latent / weights.scale - weights.bias)[:, None], decoding)
        heard = self.encoder(sound, encoding)[:, 0]
        slots.audio[:count] = sound[:, :, 0]
        new = slots.new[:count]
        past.copy_(torch.where(speaks[:, None], new, past * ~ends[:, None]))

        # 4. The next input
        spoken = connect(weights.acoustic, latent) + connect(weights.semantic, heard)
        told = torch.where(runs[:, None], self._embedded[choice], x)
        x.copy_(torch.where(speaks[:, None], spoken, told))


def connect(connector: Connector, features: Tensor) -> Tensor:
    """Maps codec features (rows, values) to the language model's inputs (rows, hidden)."""
    h = torch.addmm(connector.first_bias, features, connector.first)
    h = connector.norm(h, connector.weight)
    return torch.addmm(connector.second_bias, h, connector.second)
