"""Builds a VibeVoice checkpoint of 1.2 million parameters that ends its texts by itself.

    python -m tests.tiny_checkpoint OUT [--code CLONE]

Upstream's classes load it like a published one. Its voice is noise, but its pace is not: the
weights are set by hand so that frames come in proportion to the prompt's text tokens and then stop.
Four channels of the hidden state carry that, untouched by the random rest:

    0  one, everywhere          2  one on text tokens
    1  one on generated frames  3  after the first layer: mean over the sequence of (1) - pace * (2)

While channel 3 is negative the output head prefers `<|vision_pad|>` (a frame), then end of text.
"""

import argparse
import json
from pathlib import Path
from typing import Any

PACE = 0.25
"""Frames for each text token."""

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_WORDS = (
    " Transform the text provided by various speakers into speech output, utilizing the distinct"
    " voice of each respective speaker.\n Voice input:\n Text input:\n Speech output:\n"
    " Speaker 0: Hello there, how are you today?\n Speaker 1: I am fine. Speaker 2: Speaker 3:"
)
_HIDDEN, _HEADS, _ACOUSTIC, _SEMANTIC = 64, 4, 8, 16
_ALWAYS, _FRAME, _TEXT, _BALANCE = range(4)
_RESERVED = 4


def tiny_checkpoint(folder: Path, code: Path | None = None, shard_size: str = "5GB") -> Path:
    """Writes the checkpoint to `folder`, its tokenizer beside it, and returns `folder`."""
    from engines.vibevoice.code import find_code, import_code

    upstream = import_code(find_code(code, None))
    tokenizer = folder / "qwen-tokenizer"
    tokenizer.mkdir(parents=True)
    write_tokenizer(tokenizer)
    tokens = upstream.Tokenizer.from_pretrained(tokenizer)
    network = _network(upstream, -(-len(tokens) // 64) * 64)
    _pace(network, tokens)
    _make_audible(network)
    network.save_pretrained(folder, max_shard_size=shard_size)
    processor = {
        "processor_class": "VibeVoiceProcessor",
        "speech_tok_compress_ratio": 3200,
        "db_normalize": True,
        "language_model_pretrained_name": tokenizer.name,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of 388 tokens with all of Qwen's marks."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([_WORDS] * 3, trainer)
    bpe.model.save(str(folder))
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {
            str(bpe.get_vocab_size() + place): {"content": token, "special": True, **flags}
            for place, token in enumerate(_SPECIAL)
        },
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _network(upstream: Any, vocabulary: int) -> Any:
    import torch

    codec = {
        "encoder_n_filters": 2,
        "encoder_depths": "1-1-1-1-1-1-1",
        "encoder_ratios": [8, 5, 5, 4, 2, 2],
    }
    config = upstream.Config(
        acoustic_tokenizer_config={**codec, "vae_dim": _ACOUSTIC, "decoder_n_filters": 2},
        semantic_tokenizer_config={**codec, "vae_dim": _SEMANTIC},
        decoder_config={
            "model_type": "qwen2",
            "hidden_size": _HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": _HEADS,
            "num_key_value_heads": 2,
            "vocab_size": vocabulary,
            "max_position_embeddings": 8192,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
        diffusion_head_config={
            "hidden_size": _HIDDEN,
            "latent_size": _ACOUSTIC,
            "head_layers": 1,
            "head_ffn_ratio": 2.0,
        },
        torch_dtype="float32",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return upstream.Model(config).eval()


def _pace(network: Any, tokens: Any) -> None:
    import torch

    model, language = network.model, network.model.language_model
    first_mark = tokens.convert_tokens_to_ids(_SPECIAL[0])
    with torch.no_grad():
        table = language.embed_tokens.weight
        table.mul_(0.05)[:, :_RESERVED] = 0
        table[:, _ALWAYS] = 4
        table[:first_mark, _TEXT] = 1
        for connector in (model.acoustic_connector, model.semantic_connector):
            connector.fc2.weight.mul_(0.05)[:_RESERVED] = 0
        model.acoustic_connector.fc2.bias[_ALWAYS] = 4
        model.semantic_connector.fc2.bias[_FRAME] = 1
        for layer in language.layers:
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                weight.mul_(0.05)[:_RESERVED] = 0
        # With a zero query the first head attends evenly, so it takes the mean.
        attention = language.layers[0].self_attn
        attention.q_proj.weight[: _HIDDEN // _HEADS] = 0
        attention.v_proj.weight[0] = 0
        attention.v_proj.weight[0, _FRAME] = 1
        attention.v_proj.weight[0, _TEXT] = -PACE
        attention.o_proj.weight[_BALANCE, 0] = 30
        network.lm_head.weight.zero_()
        network.lm_head.weight[tokens.speech_diffusion_id, _BALANCE] = -5
        network.lm_head.weight[tokens.eos_token_id, _BALANCE] = 5


def _make_audible(network: Any) -> None:
    """Random weights leave the head at zero, the decoder at -60 dB and the encoder deaf."""
    import torch

    model, codec = network.model, network.model.acoustic_tokenizer
    model.speech_scaling_factor.fill_(0.2)
    model.speech_bias_factor.fill_(-0.05)
    with torch.no_grad():
        for parameter in model.prediction_head.parameters():
            if parameter.dim() == 2 and not parameter.any():
                parameter.normal_(std=0.05)
        _last_layer(codec.decoder).weight.mul_(
            0.1 / codec.decode(5 * torch.randn(1, 20, _ACOUSTIC)).std()
        )
        heard = codec.encode(torch.randn(1, 1, 48_000) * 0.1).mean
        _last_layer(codec.encoder).weight.mul_(1 / heard.std(dim=1).mean())


def _last_layer(part: Any) -> Any:
    import torch

    return [layer for layer in part.head.modules() if isinstance(layer, torch.nn.Conv1d)][-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build a tiny VibeVoice test checkpoint.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--code", type=Path, help="a clone of VibeVoice")
    arguments = parser.parse_args()
    tiny_checkpoint(arguments.out, arguments.code)
