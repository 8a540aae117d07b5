"""Inspects a Realtime model's folder by its JSON files and the headers of its weight files."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.vibevoice import checkpoint
from engines.vibevoice.architecture import Architecture, Unsupported, architecture
from engines.vibevoice.checkpoint import SCALES, Checkpoint
from request.errors import EngineError

_SETTING = "REALTIME_MODEL_PATH"
_KIND = "vibevoice_streaming"
_ADVICE = "use microsoft/VibeVoice-Realtime-0.5B"
_STRANGERS = "config.json and the weights are not of one model"
_UNWANTED = re.compile(r"lm_head\.|model\.semantic_|model\.acoustic_tokenizer\.encoder\.")


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a model: `speech` are those of the speech model, which makes the frames.

    The text model has `text_layers` of the same sizes.
    """

    speech: Architecture
    text_layers: int


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Reads a `config.json`. Raises `Unsupported`. The sizes of encoders are of no meaning."""
    decoder = config["decoder_config"]
    layers = int(decoder["num_hidden_layers"])
    speech_layers = int(config.get("tts_backbone_num_hidden_layers", 20))
    if not 0 < speech_layers < layers:
        raise Unsupported("tts_backbone_num_hidden_layers is not below num_hidden_layers")
    speech = architecture(
        {
            **config,
            "decoder_config": {**decoder, "num_hidden_layers": speech_layers},
            "semantic_tokenizer_config": config["acoustic_tokenizer_config"],
        }
    )
    return Sizes(speech, layers - speech_layers)


def inspect(folder: Path) -> Checkpoint:
    """Reads a checkpoint's description. Raises `Incomplete` where files are missing.

    Raises `EngineError` for any other format, and for missing and for strange tensors: upstream's
    class would fill missing ones with random numbers.
    """
    config = checkpoint.read(folder, "config.json", _SETTING)
    if config.get("model_type") != _KIND:
        kind = config.get("model_type")
        raise EngineError(f"{_SETTING}: this is no VibeVoice-Realtime but {kind!r}; {_ADVICE}")
    for section in ("decoder_config", "acoustic_tokenizer_config", "diffusion_head_config"):
        if not isinstance(config.get(section), dict):
            raise EngineError(f"{_SETTING}: config.json has no {section}")
    if config.get("quantization_config"):
        raise EngineError(f"{_SETTING}: quantised models are not supported; use the full weights")
    sizes = sizes_of(config)
    shapes = checkpoint.read_shapes(folder, _SETTING)
    _check_tensors(sizes, shapes)
    named = folder / "preprocessor_config.json"
    processor = checkpoint.read(folder, named.name, _SETTING) if named.is_file() else {}
    return Checkpoint(
        folder=folder,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        tied=False,
        context=sizes.speech.context,
        hop=sizes.speech.hop,
        normalise=False,
        tokenizer=checkpoint.tokenizer_of(folder, processor),
    )


def load_sizes(folder: Path) -> Sizes:
    return sizes_of(json.loads((folder / "config.json").read_bytes()))


def _check_tensors(sizes: Sizes, shapes: checkpoint.Shapes) -> None:
    """Raises `EngineError` for what is missing, does not fit, or has no place in this model.

    The tensors are those that the loader asks for: it is tried on tensors without values.
    """
    import torch

    from engines.realtime.weights import load_weights

    if strange := [name for name in shapes if _UNWANTED.match(name)]:
        raise EngineError(f"{_SETTING}: {strange[0]} has no place in this model; {_ADVICE}")
    meta = torch.device("meta")

    def source(name: str) -> torch.Tensor:
        return (
            torch.ones(())
            if name in SCALES and name in shapes
            else torch.empty(shapes[name], device=meta)
        )

    try:
        weights = load_weights(source, sizes, meta, torch.bfloat16)
    except Unsupported as missing:
        raise EngineError(f"{_SETTING}: {missing.problems[0].problem}; {_ADVICE}") from None
    except RuntimeError:
        raise EngineError(f"{_SETTING}: {_STRANGERS}") from None
    speech, layer = sizes.speech, weights.layers[0]
    attention = (speech.heads + 2 * speech.kv_heads) * speech.head_dim
    fit = {
        weights.embedding.shape: (speech.vocabulary, speech.hidden),
        layer.qkv.shape: (speech.hidden, attention),
        layer.gate_up.shape: (speech.hidden, 2 * speech.feed_forward),
        weights.head.inputs.shape: (speech.latent, speech.hidden),
        weights.decoder.head[1].shape: (speech.decoder.outputs,),
    }
    if any(found != wanted for found, wanted in fit.items()):
        raise EngineError(f"{_SETTING}: {_STRANGERS}")
