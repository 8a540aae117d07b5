"""Our own weights at published sizes, drawn where they are used: no checkpoint, no upstream.

The values keep every part audible, so that samples are finite and differ from slot to slot. On the
`meta` device a tensor has a shape and no values.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.vibevoice_reference import SIZES as PUBLISHED
from engines.base import SAMPLE_RATE, PlannedChunk, Turn
from engines.vibevoice.architecture import Architecture, Net, architecture
from engines.vibevoice.checkpoint import EMBEDDING, HEAD
from engines.vibevoice.fast.layers.weights import Weights, load_weights
from engines.vibevoice.fast.sequence import Part, Sequence
from engines.vibevoice.fast.step import Tokens
from engines.vibevoice.fast.voice_cache import Recording
from engines.vibevoice.prompt import Prompt

SIZES = ("tiny", *PUBLISHED)
_TIMES = 256  # waves of a diffusion timestep
_KERNEL = 7
_VOCABULARY = 448  # the tiny model's


def config(size: str) -> dict[str, Any]:
    """The `config.json` of a size, as far as our runtime reads it."""
    tiny = size == "tiny"
    hidden, feed_forward, heads, kv_heads, vocabulary, tied = (
        (64, 128, 4, 2, _VOCABULARY, False) if tiny else PUBLISHED[size]
    )
    depths = "1-1-1-1-1-1-1" if tiny else "3-3-3-3-3-3-8"
    filters = 2 if tiny else 32
    codec = {"encoder_n_filters": filters, "encoder_depths": depths, "decoder_n_filters": filters}
    return {
        "acoustic_tokenizer_config": {**codec, "vae_dim": 8 if tiny else 64},
        "semantic_tokenizer_config": {**codec, "vae_dim": 16 if tiny else 128},
        "decoder_config": {
            "hidden_size": hidden,
            "intermediate_size": feed_forward,
            "num_hidden_layers": 2 if tiny else 28,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32_768,
            "rope_theta": 1e6,
        },
        "diffusion_head_config": {"hidden_size": hidden, "head_layers": 1 if tiny else 4},
        "tie_word_embeddings": tied,
    }


class Tokenizer:
    """A token for each byte, and four that speak."""

    def __init__(self, vocabulary: int) -> None:
        ids = range(vocabulary - 4, vocabulary)
        self.eos_token_id, self.speech_start_id, self.speech_end_id, self.speech_diffusion_id = ids

    def encode(self, text: str, **_: bool) -> list[int]:
        return list(text.encode())


def shapes(sizes: Architecture, *, tied: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint that the fast runtime reads, by name."""
    hidden = sizes.hidden
    found: dict[str, tuple[int, ...]] = {
        EMBEDDING: (sizes.vocabulary, hidden),
        "model.language_model.norm.weight": (hidden,),
        "model.speech_scaling_factor": (),
        "model.speech_bias_factor": (),
    }
    if not tied:
        found[HEAD] = (sizes.vocabulary, hidden)
    for index in range(sizes.layers):
        found |= layer_shapes(f"model.language_model.layers.{index}", sizes)
    found |= speech_shapes(sizes)
    found |= _connector("model.semantic_connector", sizes.semantic, hidden)
    acoustic, semantic = "model.acoustic_tokenizer", "model.semantic_tokenizer"
    found |= dict(_codec(f"{acoustic}.encoder", sizes.listener, decodes=False))
    found |= dict(_codec(f"{semantic}.encoder", sizes.encoder, decodes=False))
    return found


Named = Iterator[tuple[str, tuple[int, ...]]]


def speech_shapes(sizes: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors that make frames of hidden states, and hear them."""
    return {
        **dict(_head(sizes)),
        **_connector("model.acoustic_connector", sizes.latent, sizes.hidden),
        **dict(_codec("model.acoustic_tokenizer.decoder", sizes.decoder, decodes=True)),
    }


def layer_shapes(layer: str, sizes: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors of a language model's layer."""
    hidden, heads = sizes.hidden, sizes.heads * sizes.head_dim
    found: dict[str, tuple[int, ...]] = {}
    for name, width in (("q", heads), *((n, sizes.kv_heads * sizes.head_dim) for n in "kv")):
        found |= linear(f"{layer}.self_attn.{name}_proj", hidden, width)
    found[f"{layer}.self_attn.o_proj.weight"] = (hidden, heads)
    found |= _gated(f"{layer}.mlp", hidden, sizes.feed_forward)
    found[f"{layer}.input_layernorm.weight"] = (hidden,)
    found[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
    return found


def _connector(name: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    first, second = linear(f"{name}.fc1", width, hidden), linear(f"{name}.fc2", hidden, hidden)
    return {**first, **second, f"{name}.norm.weight": (hidden,)}


def linear(name: str, inputs: int, *outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (*outputs, inputs), f"{name}.bias": outputs[:1]}


def _gated(name: str, hidden: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.gate_proj.weight": (width, hidden),
        f"{name}.up_proj.weight": (width, hidden),
        f"{name}.down_proj.weight": (hidden, width),
    }


def _head(sizes: Architecture) -> Named:
    name, hidden = "model.prediction_head", sizes.hidden
    yield f"{name}.noisy_images_proj.weight", (hidden, sizes.latent)
    yield f"{name}.cond_proj.weight", (hidden, hidden)
    yield f"{name}.t_embedder.mlp.0.weight", (hidden, _TIMES)
    yield f"{name}.t_embedder.mlp.2.weight", (hidden, hidden)
    for index in range(sizes.head_layers):
        yield f"{name}.layers.{index}.norm.weight", (hidden,)
        yield f"{name}.layers.{index}.adaLN_modulation.1.weight", (3 * hidden, hidden)
        yield from _gated(f"{name}.layers.{index}.ffn", hidden, sizes.head_feed_forward).items()
    yield f"{name}.final_layer.linear.weight", (sizes.latent, hidden)
    yield f"{name}.final_layer.adaLN_modulation.1.weight", (2 * hidden, hidden)


def _codec(name: str, net: Net, *, decodes: bool) -> Named:
    inputs = net.inputs
    for stage, (width, depth) in enumerate(zip(net.widths, net.depths, strict=True)):
        taps = 2 * net.strides[stage - 1] if stage else _KERNEL
        scaler = f"{name}.{'up' if decodes else 'down'}sample_layers.{stage}.0"
        if decodes and stage:
            yield f"{scaler}.convtr.convtr.weight", (inputs, width, taps)
            yield f"{scaler}.convtr.convtr.bias", (width,)
        else:
            yield f"{scaler}.conv.conv.weight", (width, inputs, taps)
            yield f"{scaler}.conv.conv.bias", (width,)
        for index in range(depth):
            block = f"{name}.stages.{stage}.{index}"
            for norm in ("norm.weight", "ffn_norm.weight", "gamma", "ffn_gamma"):
                yield f"{block}.{norm}", (width,)
            yield from linear(f"{block}.mixer.conv.conv.conv", _KERNEL, width, 1).items()
            yield from linear(f"{block}.ffn.linear1", width, 4 * width).items()
            yield from linear(f"{block}.ffn.linear2", 4 * width, width).items()
        inputs = width
    yield from linear(f"{name}.head.conv.conv", _KERNEL, net.outputs, inputs).items()


class RandomTensors:
    """A source of tensors, each drawn when it is asked for."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        self._shapes = shapes
        self._device = device
        self._dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        on_meta = device.type == "meta"
        self._draw = None if on_meta else torch.Generator(device).manual_seed(0)

    def __call__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if not shape:
            return torch.tensor(0.2 if "scaling" in name else -0.05)
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        if len(shape) > 1:
            return tensor.normal_(std=tensor[0].numel() ** -0.5, generator=self._draw)
        if re.search(r"gamma$|bias$", name):
            return tensor.fill_(0.3 if "gamma" in name else 0.0)
        return tensor.fill_(1.0)


def random_weights(size: str, device: torch.device) -> tuple[Weights, Tokenizer]:
    """Drawn on the device: bfloat16, on a CPU float32."""
    asked = config(size)
    sizes = architecture(asked)
    source = RandomTensors(shapes(sizes, tied=asked["tie_word_embeddings"]), device)
    tokenizer = Tokenizer(sizes.vocabulary)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    choices = Tokens.of(tokenizer).choices
    return load_weights(source, sizes, choices, device, dtype), tokenizer


def checkpoint_of(weights: Weights) -> Any:
    """What a batch asks of its checkpoint."""
    sizes = weights.architecture
    return SimpleNamespace(hop=sizes.hop, context=sizes.context, normalise=False)


def sequence(slot: int, voices: int = 0, *, name: str = "a", hop: int = 3200) -> Sequence:
    """A chunk on its way into a slot: 300 tokens of text behind so many voices of 30 s. Voices of
    another name were not heard before."""
    frames = 30 * SAMPLE_RATE // hop
    noise = np.random.default_rng(1).standard_normal(frames * hop).astype(np.float32)
    heard = {speaker: Recording(0.05 * noise, frames, (name, speaker)) for speaker in range(voices)}
    is_voice = (False,) * 40 + (True,) * (voices * frames) + (False,) * 320
    prompt = Prompt((7,) * len(is_voice), is_voice, 280, len(is_voice) - 300)
    chunk = PlannedChunk((Turn(0, "text"),), seed=1)
    made = Sequence(0, chunk, deque([Part(prompt, 400)]), 10, False, 1.3, heard)
    made.slot = slot
    return made
