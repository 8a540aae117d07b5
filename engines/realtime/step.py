"""One step of a Realtime model: it reads text, or makes a frame of every slot.

A text step reads a window of up to five tokens: embedding, text model, speech model. A frame step:
latent, audio, connector, speech model, and whether the text ends there. Both branches of the
classifier-free guidance get the same frames, so they are one stacked batch; the negative branch
reads no text. Shapes are fixed and the host reads no value, so a step may be captured as a CUDA
graph. Masks decide everything that depends on a slot's state.
"""

from enum import IntEnum

import torch
from torch import Tensor

from engines.realtime.slots import SPEECH_WINDOW, TEXT_WINDOW, Slots
from engines.realtime.weights import RealtimeWeights
from engines.vibevoice.fast.graph_shape import TEXT_STEP, GraphShape
from engines.vibevoice.fast.layers.codec import Codec
from engines.vibevoice.fast.layers.head import Head
from engines.vibevoice.fast.layers.language import LanguageModel
from engines.vibevoice.fast.slots import IDLE
from engines.vibevoice.fast.step import connect


class Said(IntEnum):
    """What a frame step says of a slot that has made a frame.

    `PUT_OFF`: the model said an end before its text and goes on. `CUT`: it said one too many.
    """

    FRAME = 0
    END = 1
    PUT_OFF = 2
    CUT = 3


class Step:
    """The networks of a model, called as one step."""

    def __init__(self, weights: RealtimeWeights, capacity: int, *, flash: bool = False) -> None:
        self.weights = weights
        self.text = LanguageModel(weights.text, capacity, flash=flash)
        self.speech = LanguageModel(weights, capacity, flash=flash)
        self.decoder = Codec(weights.decoder, weights.architecture.decoder, decodes=True)
        self._window = torch.arange(TEXT_WINDOW, device=weights.device)
        self._heads: dict[int, Head] = {}

    def head(self, steps: int) -> Head:
        """The sampler for a number of solver steps, made once and cached."""
        if steps not in self._heads:
            self._heads[steps] = Head(self.weights, steps)
        return self._heads[steps]

    @torch.inference_mode()
    def __call__(self, slots: Slots, shape: GraphShape) -> None:
        if shape.steps == TEXT_STEP:
            self._read(slots, shape)
        else:
            self._speak(slots, shape)

    def _read(self, slots: Slots, shape: GraphShape) -> None:
        """Reads the window's text. Padding behind it is overwritten by what comes next."""
        count, weights = shape.slots, self.weights
        read = slots.unread[:count] * slots.active[:count]
        places, lengths = slots.text_lengths[:count], slots.lengths[:count, 0]
        x = weights.embedding[slots.ids[:count].flatten()]
        x = self.text.step(x, places[:, None] + self._window, slots.text_cache, shape.context)
        x = x + weights.types[1]
        positions = lengths[:, None] + self._window
        x = self.speech.step(x, positions, slots.cache, shape.context, every=2)
        last = x.view(count, TEXT_WINDOW, -1)[slots.every[:count], (read - 1).clamp(min=0)]
        hidden = slots.hidden[:count, 0]
        hidden.copy_(torch.where((read > 0)[:, None], last, hidden))
        places.add_(read)
        lengths.add_(read)
        slots.unread[:count].sub_(read)

    def _speak(self, slots: Slots, shape: GraphShape) -> None:
        count, weights = shape.slots, self.weights
        hidden, lengths, used = slots.hidden[:count], slots.lengths[:count], slots.used[:count]
        left, active, past = slots.left[:count], slots.active[:count], slots.past[:count]
        runs = active & (slots.steps[:count] == shape.steps) & (left > 0)

        # 1. The latent and its sound
        noise = slots.noise[slots.every[:count], used.clamp(max=SPEECH_WINDOW - 1)]
        latent = self.head(shape.steps)(hidden.flatten(0, 1), noise, slots.guidance[:count])
        sound = self.decoder(
            (latent / weights.scale - weights.bias)[:, None], slots.contexts(count)
        )
        slots.audio[:count] = sound[:, :, 0]
        past.copy_(torch.where(runs[:, None], slots.new[:count], past))

        # 2. Both branches hear the frame
        x = connect(weights.acoustic, latent) + weights.types[0]
        x = self.speech.step(
            x.repeat_interleave(2, 0), lengths.flatten(), slots.cache, shape.context
        )
        hidden.copy_(torch.where(runs[:, None, None], x.view(count, 2, -1), hidden))
        lengths.add_(runs[:, None])
        used.add_(runs)
        left.sub_(runs.long())

        # 3. Whether the text ends here
        says = runs & weights.classifier(x[::2])
        self._end(slots, count, runs, says)

    def _end(self, slots: Slots, count: int, runs: Tensor, says: Tensor) -> None:
        """Ends slots, or puts their end off.

        An end is early where text follows the window. The first `put_offs` of them are put off.
        Then the end counts again at the end of a window behind all of the text.
        """
        is_last, said = slots.is_last[:count], slots.says_end[:count]
        begins = says & ~is_last & ~said
        early = slots.early[:count].add_(begins)
        cut = begins & (early > slots.put_offs[:count])
        ends = says & is_last & ((early == 0) | (slots.left[:count] == 0))
        what = ends.long() + 2 * begins + cut  # see `Said`
        slots.chosen[:count] = torch.where(runs, what, IDLE)
        said.copy_(torch.where(runs, says, said))
        slots.active[:count].logical_and_(~(ends | cut))
