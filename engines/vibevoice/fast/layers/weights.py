"""A model's weights, packed for the step.

Tensors are read one by one and copied into packed matrices on the device: query, key and value in
one, gate and up in one, all modulations of the diffusion head in one. Matrices are (inputs,
outputs) views, so a product is `x @ w`. Norm weights and layer scales of the codecs are folded into
the adjacent matrix. The language model's norm weights stay separate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.vibevoice.architecture import Architecture, Net
from engines.vibevoice.checkpoint import EMBEDDING, HEAD, SCALES
from engines.vibevoice.fast.layers.norm import RowNorm, paired
from engines.vibevoice.fast.layers.packer import Packer, Source

_CONNECTOR_EPS = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The weights of a layer of the language model."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Connector:
    """The connector from codec features to the language model's width: linear, norm, linear."""

    first: Tensor
    first_bias: Tensor
    norm: RowNorm
    weight: Tensor
    second: Tensor
    second_bias: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class HeadWeights:
    """The diffusion head's weights.

    The columns of `modulation` are the shifts of all layers and the final one, then their scales,
    then the gates of all layers. `norms` are the norm weights that the scales multiply.
    """

    inputs: Tensor
    condition: Tensor
    time: tuple[Tensor, Tensor]
    modulation: Tensor
    norms: Tensor
    gate_up: tuple[Tensor, ...]
    down: tuple[Tensor, ...]
    out: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A block of a codec: a depthwise convolution over time, (7, channels), then two linears."""

    taps: Tensor
    taps_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class CodecWeights:
    """A codec's weights. `scalers` are the stem and the strided convolutions (see `codec.py`)."""

    scalers: tuple[tuple[Tensor, Tensor], ...]
    stages: tuple[tuple[Block, ...], ...]
    head: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SpeechWeights:
    """The weights of a language model that makes latents, and of their decoder.

    `embedding` is (vocabulary, hidden). Without a `norm` the language model gives its last layer's
    output. `scale` and `bias` normalise the codec's latents.
    """

    architecture: Architecture
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor | None
    head: HeadWeights
    decoder: CodecWeights
    acoustic: Connector
    scale: float
    bias: float

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Weights(SpeechWeights):
    """All weights of steps and prefill.

    `choices` are the output head's columns for the few tokens that may be generated.
    """

    norm: Tensor
    choices: Tensor
    encoder: CodecWeights
    listener: CodecWeights
    semantic: Connector


@torch.inference_mode()
def load_weights(
    source: Source,
    architecture: Architecture,
    choices: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
) -> Weights:
    """Loads the weights. `choices` are the ids of the tokens that may be generated.

    Raises `Unsupported` where a tensor is missing.
    """
    pack = Packer(source, device, dtype)
    embedding = pack.one(EMBEDDING)
    acoustic, semantic = "model.acoustic_tokenizer", "model.semantic_tokenizer"
    return Weights(
        architecture=architecture,
        embedding=embedding,
        choices=_choices(source, embedding, choices),
        layers=tuple(
            load_layer(pack, f"model.language_model.layers.{index}", architecture)
            for index in range(architecture.layers)
        ),
        norm=paired(pack.one("model.language_model.norm.weight")),
        head=load_head(pack, "model.prediction_head", architecture),
        decoder=load_codec(pack, f"{acoustic}.decoder", architecture.decoder, decodes=True),
        encoder=load_codec(pack, f"{semantic}.encoder", architecture.encoder, decodes=False),
        listener=load_codec(pack, f"{acoustic}.encoder", architecture.listener, decodes=False),
        acoustic=load_connector(pack, "model.acoustic_connector"),
        semantic=load_connector(pack, "model.semantic_connector"),
        scale=pack.raw(SCALES[0]).item(),
        bias=pack.raw(SCALES[1]).item(),
    )


def _choices(source: Source, embedding: Tensor, choices: Sequence[int]) -> Tensor:
    try:
        head = source(HEAD)  # 1 GB in the 7B, freed before the layers are loaded
    except KeyError:  # tied
        head = embedding
    return head[list(choices)].to(embedding.device, embedding.dtype).t()


def load_layer(pack: Packer, name: str, sizes: Architecture) -> Layer:
    attention, mlp = f"{name}.self_attn", f"{name}.mlp"
    projections = [f"{attention}.{which}_proj" for which in "qkv"]
    qkv = pack.rows(*(f"{projection}.weight" for projection in projections))
    qkv_bias = pack.rows(*(f"{projection}.bias" for projection in projections))
    out = pack.rows(f"{attention}.o_proj.weight")
    queries = sizes.heads * sizes.head_dim
    for heads in (qkv.t()[:queries], qkv_bias[:queries], out):
        _interleave(heads, sizes)
    return Layer(
        norm=paired(pack.one(f"{name}.input_layernorm.weight")),
        qkv=qkv,
        qkv_bias=qkv_bias,
        out=out,
        mlp_norm=paired(pack.one(f"{name}.post_attention_layernorm.weight")),
        gate_up=pack.rows(f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"),
        down=pack.rows(f"{mlp}.down_proj.weight"),
    )


def _interleave(heads: Tensor, sizes: Architecture) -> None:
    """Reorders the rows of queries in place: (key heads, groups, width) to (groups, key heads,
    width). So the output of attention has the layout that the next product reads."""
    groups = sizes.heads // sizes.kv_heads
    by_key = heads.unflatten(0, (sizes.kv_heads, groups, sizes.head_dim))
    heads.copy_(by_key.transpose(0, 1).flatten(0, 2))


def load_connector(pack: Packer, name: str) -> Connector:
    return Connector(
        first=pack.rows(f"{name}.fc1.weight"),
        first_bias=pack.one(f"{name}.fc1.bias"),
        norm=RowNorm(_CONNECTOR_EPS, pack.device, pack.dtype),
        weight=paired(pack.one(f"{name}.norm.weight")),
        second=pack.rows(f"{name}.fc2.weight"),
        second_bias=pack.one(f"{name}.fc2.bias"),
    )


def load_head(pack: Packer, name: str, architecture: Architecture) -> HeadWeights:
    layers = [f"{name}.layers.{index}" for index in range(architecture.head_layers)]
    hidden = architecture.hidden
    modulation = pack.empty(3 * len(layers) + 2, hidden, hidden)
    for index, layer in enumerate([*layers, f"{name}.final_layer"]):
        parts = pack.raw(f"{layer}.adaLN_modulation.1.weight").unflatten(0, (-1, hidden))
        for part, matrix in enumerate(parts):  # shift, scale and, but for the final layer, gate
            modulation[part * (len(layers) + 1) + index].copy_(matrix)
    norms = [pack.one(f"{layer}.norm.weight") for layer in layers]
    return HeadWeights(
        inputs=pack.rows(f"{name}.noisy_images_proj.weight"),
        condition=pack.rows(f"{name}.cond_proj.weight"),
        time=(
            pack.rows(f"{name}.t_embedder.mlp.0.weight"),
            pack.rows(f"{name}.t_embedder.mlp.2.weight"),
        ),
        modulation=modulation.flatten(0, 1).t(),
        norms=torch.stack([*norms, torch.ones_like(norms[0])]),
        gate_up=tuple(
            pack.rows(f"{layer}.ffn.gate_proj.weight", f"{layer}.ffn.up_proj.weight")
            for layer in layers
        ),
        down=tuple(pack.rows(f"{layer}.ffn.down_proj.weight") for layer in layers),
        out=pack.rows(f"{name}.final_layer.linear.weight"),
    )


def load_codec(pack: Packer, name: str, net: Net, decodes: bool) -> CodecWeights:
    scalers = []
    for index in range(len(net.widths)):
        layer = f"{name}.{'up' if decodes else 'down'}sample_layers.{index}.0"
        if decodes and index:
            weight = pack.float(f"{layer}.convtr.convtr.weight")  # inputs, outputs, 2 * stride
            bias = pack.float(f"{layer}.convtr.convtr.bias")
            # A row for each input, now and one before; a column for each output, sample by sample.
            halves = weight.unflatten(2, (2, -1)).permute(2, 0, 3, 1)
            matrix, bias = halves.flatten(2).flatten(0, 1), bias.repeat(halves.shape[2])
            scalers.append((pack.kept(matrix), pack.kept(bias)))
        else:
            scalers.append(_convolution(pack, f"{layer}.conv.conv"))
    return CodecWeights(
        scalers=tuple(scalers),
        stages=tuple(
            tuple(_block(pack, f"{name}.stages.{stage}.{index}") for index in range(depth))
            for stage, depth in enumerate(net.depths)
        ),
        head=_convolution(pack, f"{name}.head.conv.conv"),
    )


def _convolution(pack: Packer, name: str) -> tuple[Tensor, Tensor]:
    """A convolution as a matrix of (kernel * inputs, outputs), and its bias."""
    weight = pack.float(f"{name}.weight")
    return pack.kept(weight.permute(2, 1, 0).flatten(0, 1)), pack.one(f"{name}.bias")


def _block(pack: Packer, name: str) -> Block:
    convolution, ffn = f"{name}.mixer.conv.conv.conv", f"{name}.ffn"
    norm, scale = pack.float(f"{name}.norm.weight"), pack.float(f"{name}.gamma")
    ffn_norm, ffn_scale = pack.float(f"{name}.ffn_norm.weight"), pack.float(f"{name}.ffn_gamma")
    taps = pack.float(f"{convolution}.weight")[:, 0].t()
    return Block(
        taps=pack.kept(taps * norm * scale),
        taps_bias=pack.kept(pack.float(f"{convolution}.bias") * scale),
        up=pack.kept(pack.float(f"{ffn}.linear1.weight") * ffn_norm).t(),
        up_bias=pack.one(f"{ffn}.linear1.bias"),
        down=pack.kept(pack.float(f"{ffn}.linear2.weight") * ffn_scale[:, None]).t(),
        down_bias=pack.kept(pack.float(f"{ffn}.linear2.bias") * ffn_scale),
    )
