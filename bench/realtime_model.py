"""Random weights, presets and a tokenizer of a Realtime model: no checkpoint, no upstream.

The names, shapes and sizes are the published model's; `narrow` has its depth and little width.
"""

import zlib
from typing import Any

import torch
from torch import Tensor

from bench.random_model import layer_shapes, linear, speech_shapes
from engines.realtime.checkpoint import Sizes, sizes_of
from engines.realtime.presets import PARTS, Preset
from engines.vibevoice.checkpoint import EMBEDDING, SCALES

_HEARD = 0.01
"""How strongly a frame acts on the next one."""

SIZES = ("narrow", "tiny", "0.5b")


def config(size: str) -> dict[str, Any]:
    """The `config.json` of a size."""
    full, tiny = size == "0.5b", size == "tiny"
    depths = "1-1-1-1-1-1-1" if tiny else "3-3-3-3-3-3-8"
    filters = 32 if full else 2 if tiny else 4
    latent, hidden = (64, 896) if full else (8, 64)
    return {
        "model_type": "vibevoice_streaming",
        "architectures": ["VibeVoiceStreamingForConditionalGenerationInference"],
        "tts_backbone_num_hidden_layers": 2 if tiny else 20,
        "acoustic_vae_dim": latent,
        "acoustic_tokenizer_config": {
            "model_type": "vibevoice_acoustic_tokenizer",
            "encoder_n_filters": filters,
            "encoder_depths": depths,
            "encoder_ratios": [8, 5, 5, 4, 2, 2],
            "decoder_n_filters": filters,
            "vae_dim": latent,
        },
        "decoder_config": {
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": 4864 if full else 2 * hidden,
            "num_hidden_layers": 3 if tiny else 24,
            "num_attention_heads": 14 if full else 4,
            "num_key_value_heads": 2,
            "vocab_size": 151_936 if full else 448,
            "max_position_embeddings": 8192,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
        },
        "diffusion_head_config": {
            "model_type": "vibevoice_diffusion_head",
            "hidden_size": hidden,
            "head_layers": 1 if tiny else 4,
            "latent_size": latent,
        },
        "torch_dtype": "bfloat16" if full else "float32",
    }


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint, by name."""
    speech = sizes.speech
    hidden = speech.hidden
    found: dict[str, tuple[int, ...]] = {
        EMBEDDING: (speech.vocabulary, hidden),
        **dict.fromkeys(SCALES, ()),
        "model.tts_input_types.weight": (2, hidden),
        "model.tts_language_model.norm.weight": (hidden,),
    }
    models = (("language_model", sizes.text_layers), ("tts_language_model", speech.layers))
    for model, layers in models:
        for index in range(layers):
            found |= layer_shapes(f"model.{model}.layers.{index}", speech)
    found |= linear("tts_eos_classifier.fc1", hidden, hidden)
    found |= linear("tts_eos_classifier.fc2", hidden, 1)
    return found | speech_shapes(speech)


def tensors(size: str) -> dict[str, Tensor]:
    """The weights, in float32 on the CPU: the same on every machine, since each tensor is drawn by
    its name. All are of a size that keeps every part audible, and that rounding does not grow from
    frame to frame."""
    made = {}
    for name, shape in shapes(sizes_of(config(size))).items():
        draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(shape, generator=draw)
        if not shape:
            made[name] = torch.tensor(0.2 if "scaling" in name else -0.05)
        elif len(shape) > 1:
            made[name] = noise / noise[0].numel() ** 0.5
            if name == "model.acoustic_connector.fc2.weight":
                made[name] *= _HEARD
        elif "gamma" in name:
            made[name] = 0.5 + 0.1 * noise.clamp(-2, 2)
        elif name.endswith("bias"):
            made[name] = 0.05 * noise
        else:
            made[name] = 1 + 0.1 * noise
    return made


def preset_tensors(size: str, text: int = 20, frames: int = 15) -> dict[str, Tensor]:
    """A voice of `text` tokens and `frames` frames, as `presets.load_tensors` gives one."""
    sizes = sizes_of(config(size))
    speech = sizes.speech
    lengths = dict(zip(PARTS, (text, text + frames, 1, 1), strict=True))
    made = {}
    for part, length in lengths.items():
        draw = torch.Generator().manual_seed(zlib.crc32(part.encode()) + length)
        layers = speech.layers if "tts" in part else sizes.text_layers
        pair = (2, speech.kv_heads, speech.head_dim)
        made[f"{part}.cache"] = torch.randn(layers, length, *pair, generator=draw)
        made[f"{part}.hidden"] = torch.randn(speech.hidden, generator=draw)
    return made


def preset(size: str, text: int = 20, frames: int = 15) -> Preset:
    made = preset_tensors(size, text, frames)
    taken = ("lm.cache", "tts_lm.cache", "neg_tts_lm.cache", "neg_tts_lm.hidden")
    return Preset(*(made[name] for name in taken))


class Voices:
    """Stands for `Presets`: a voice by its lengths, such as `20 15`."""

    def __init__(self, size: str) -> None:
        self._size = size
        self._known: dict[str, Preset] = {}

    def get(self, name: str) -> Preset:
        if name not in self._known:
            self._known[name] = preset(self._size, *map(int, name.split()))
        return self._known[name]
