"""The sizes of a model's networks, read from its `config.json`.

Raises `Unsupported` for a network that `fast/step.py` cannot compute. The reference runtime may
still run such a model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from request.errors import EngineError

Section = Mapping[str, Any]


class Unsupported(EngineError):
    """A model or a machine that the fast runtime cannot run."""


@dataclass(frozen=True, slots=True)
class Net:
    """A codec's network: a stem, stages, and a head.

    Stage i has `depths[i]` blocks of `widths[i]` channels. A convolution of stride `strides[i - 1]`
    stands before every stage but the first. The stem takes `inputs` channels, and the head gives
    `outputs` channels.
    """

    inputs: int
    outputs: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]
    eps: float


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a model.

    A frame has `hop` samples. The acoustic codec encodes it to `latent` values, the semantic codec
    to `semantic` values. `voice_std` scales the noise that is added to a voice's latents (see
    `fast/layers/noise.py`).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    rope_theta: float
    eps: float
    head_layers: int
    head_feed_forward: int
    head_eps: float
    train_steps: int
    latent: int
    semantic: int
    hop: int
    decoder: Net
    encoder: Net
    listener: Net
    voice_std: float
    voice_noise: str

    @property
    def kv_values(self) -> int:
        """The number of key and value elements of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def architecture(config: Section) -> Architecture:
    """Reads a `config.json`. Raises `Unsupported`.

    `encoder` is the semantic codec's encoder, which encodes every generated frame. `listener` is
    the acoustic codec's encoder, which encodes the voices' recordings.
    """
    decoder = config["decoder_config"]
    acoustic, semantic = config["acoustic_tokenizer_config"], config["semantic_tokenizer_config"]
    head = config["diffusion_head_config"]
    _demand(decoder, "decoder_config", hidden_act="silu", rope_scaling=None)
    if decoder.get("use_sliding_window"):
        raise Unsupported("decoder_config.use_sliding_window is set")
    _demand(head, "diffusion_head_config", prediction_type="v_prediction")
    if head.get("ddpm_beta_schedule", "cosine") not in ("cosine", "squaredcos_cap_v2"):
        raise Unsupported("diffusion_head_config.ddpm_beta_schedule is not cosine")
    hidden, heads = int(decoder["hidden_size"]), int(decoder["num_attention_heads"])
    if head.get("hidden_size", hidden) != hidden:
        raise Unsupported("diffusion_head_config.hidden_size is not the decoder's")
    latent, heard = int(acoustic.get("vae_dim", 64)), int(semantic.get("vae_dim", 128))
    upsampling, listener = _decoder(acoustic, latent), _encoder(acoustic, latent)
    encoder = _encoder(semantic, heard)
    hop = math.prod(upsampling.strides)
    if not hop == math.prod(encoder.strides) == math.prod(listener.strides):
        raise Unsupported("the codecs' frames differ in length")
    return Architecture(
        hidden=hidden,
        layers=int(decoder["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(decoder.get("num_key_value_heads", heads)),
        head_dim=int(decoder.get("head_dim") or hidden // heads),
        feed_forward=int(decoder["intermediate_size"]),
        vocabulary=int(decoder["vocab_size"]),
        context=int(decoder.get("max_position_embeddings", 32_768)),
        rope_theta=float(decoder.get("rope_theta", 10_000)),
        eps=float(decoder.get("rms_norm_eps", 1e-6)),
        head_layers=int(head.get("head_layers", 4)),
        head_feed_forward=int(hidden * head.get("head_ffn_ratio", 3.0)),
        head_eps=float(head.get("rms_norm_eps", 1e-5)),
        train_steps=int(head.get("ddpm_num_steps", 1000)),
        latent=latent,
        semantic=heard,
        hop=hop,
        decoder=upsampling,
        encoder=encoder,
        listener=listener,
        voice_std=float(acoustic.get("fix_std", 0.5)),
        voice_noise=str(acoustic.get("std_dist_type", "gaussian")),
    )


_RATIOS = (8, 5, 5, 4, 2, 2)


def _encoder(codec: Section, outputs: int) -> Net:
    _check_codec(codec)
    depths = _depths(codec.get("encoder_depths", "3-3-3-3-3-3-8"))
    filters = int(codec.get("encoder_n_filters", 32))
    return Net(
        inputs=1,
        outputs=outputs,
        widths=tuple(filters << stage for stage in range(len(depths))),
        depths=depths,
        strides=tuple(reversed(codec.get("encoder_ratios") or _RATIOS)),
        eps=float(codec.get("layernorm_eps", 1e-5)),
    )


def _decoder(codec: Section, inputs: int) -> Net:
    _check_codec(codec)
    depths = codec.get("decoder_depths")
    reverse = _depths(codec.get("encoder_depths", "3-3-3-3-3-3-8"))[::-1]
    stages = reverse if depths is None else _depths(depths)
    filters = int(codec.get("decoder_n_filters", 32))
    return Net(
        inputs=inputs,
        outputs=1,
        widths=tuple(filters << stage for stage in reversed(range(len(stages)))),
        depths=stages,
        strides=tuple(codec.get("decoder_ratios") or codec.get("encoder_ratios") or _RATIOS),
        eps=float(codec.get("layernorm_eps", 1e-5)),
    )


def _check_codec(codec: Section) -> None:
    _demand(
        codec,
        "a tokenizer's config",
        causal=True,
        channels=1,
        conv_bias=True,
        conv_norm="none",
        mixer_layer="depthwise_conv",
        pad_mode="constant",
        layernorm="RMSNorm",
        layernorm_elementwise_affine=True,
        disable_last_norm=True,
    )
    if not codec.get("layer_scale_init_value", 1e-6) > 0:
        raise Unsupported("a tokenizer's config has no layer scale")


def _demand(section: Section, where: str, **values: object) -> None:
    for name, value in values.items():
        if section.get(name, value) != value:
            raise Unsupported(f"{name} in {where} is {section[name]!r}")


def _depths(value: str | Sequence[int]) -> tuple[int, ...]:
    return tuple(int(depth) for depth in (value.split("-") if isinstance(value, str) else value))
