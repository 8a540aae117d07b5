"""A Realtime model's weights, packed for its steps."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engines.realtime.checkpoint import Sizes
from engines.vibevoice.checkpoint import EMBEDDING, SCALES
from engines.vibevoice.fast.layers.norm import paired
from engines.vibevoice.fast.layers.packer import Packer, Source
from engines.vibevoice.fast.layers.weights import (
    Layer,
    SpeechWeights,
    load_codec,
    load_connector,
    load_head,
    load_layer,
)


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """The classifier of the end: linear, ReLU, linear to one logit."""

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        """Whether the text ends after hidden states (rows, hidden): (rows,) of truth values."""
        h = torch.addmm(self.first_bias, hidden, self.first).relu_()
        logits = torch.addmm(self.second_bias, h, self.second)[:, 0]
        return torch.sigmoid(logits) > 0.5  # a small positive logit rounds to 0.5, as upstream's


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RealtimeWeights(SpeechWeights):
    """The weights of both language models.

    `layers` and `norm` are those of the speech model. `types` (2, hidden) is added to its inputs:
    row 0 to frames, row 1 to text.
    """

    text_layers: tuple[Layer, ...]
    types: Tensor
    classifier: Classifier

    @property
    def text(self) -> SpeechWeights:
        """The text model, which has no norm behind its last layer."""
        return replace(self, layers=self.text_layers, norm=None)


@torch.inference_mode()
def load_weights(
    source: Source, sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> RealtimeWeights:
    """Loads the weights. Raises `Unsupported` where a tensor is missing."""
    pack, speech = Packer(source, device, dtype), sizes.speech
    end = "tts_eos_classifier"

    def layers(name: str, count: int) -> tuple[Layer, ...]:
        return tuple(load_layer(pack, f"model.{name}.layers.{at}", speech) for at in range(count))

    return RealtimeWeights(
        architecture=speech,
        embedding=pack.one(EMBEDDING),
        text_layers=layers("language_model", sizes.text_layers),
        layers=layers("tts_language_model", speech.layers),
        norm=paired(pack.one("model.tts_language_model.norm.weight")),
        types=pack.one("model.tts_input_types.weight"),
        head=load_head(pack, "model.prediction_head", speech),
        decoder=load_codec(pack, "model.acoustic_tokenizer.decoder", speech.decoder, decodes=True),
        acoustic=load_connector(pack, "model.acoustic_connector"),
        classifier=Classifier(
            pack.rows(f"{end}.fc1.weight"),
            pack.one(f"{end}.fc1.bias"),
            pack.rows(f"{end}.fc2.weight"),
            pack.one(f"{end}.fc2.bias"),
        ),
        scale=pack.raw(SCALES[0]).item(),
        bias=pack.raw(SCALES[1]).item(),
    )
