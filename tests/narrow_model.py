"""Models of real depth and little width with random weights, and upstream's `generate` on them."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from engines.vibevoice.architecture import Architecture, architecture
from engines.vibevoice.code import find_code, import_code
from engines.vibevoice.fast.layers.weights import Weights, load_weights
from engines.vibevoice.fast.step import Tokens

TOKENS = Tokens(start=12, end=13, diffusion=14, eos=3)
VOCABULARY = 32


def narrow_network(
    layers: int = 28,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    filters: int = 4,
    depths: str = "3-3-3-3-3-3-8",
    latent: int = 8,
    semantic: int = 16,
    head_layers: int = 4,
    vocabulary: int = VOCABULARY,
    seed: int = 0,
    code: Path | None = None,
) -> Any:
    """Upstream's network, in float32. All weights are of a size that keeps every part audible."""
    upstream = import_code(find_code(code, None))
    codec = {
        "encoder_n_filters": filters,
        "encoder_depths": depths,
        "encoder_ratios": [8, 5, 5, 4, 2, 2],
    }
    config = upstream.Config(
        acoustic_tokenizer_config={**codec, "vae_dim": latent, "decoder_n_filters": filters},
        semantic_tokenizer_config={**codec, "vae_dim": semantic},
        decoder_config={
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": 4096,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
        diffusion_head_config={
            "hidden_size": hidden,
            "head_layers": head_layers,
            "latent_size": latent,
        },
        torch_dtype="float32",
        tie_word_embeddings=False,
    )
    network = upstream.Model(config).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) / weight[0].numel() ** 0.5)
            elif "gamma" in name:
                weight.copy_(0.25 + 0.5 * torch.rand(weight.shape, generator=draw))
            elif name.endswith("bias"):
                weight.copy_(0.05 * torch.randn(weight.shape, generator=draw))
            else:
                weight.copy_(1 + 0.1 * torch.randn(weight.shape, generator=draw))
        network.model.speech_scaling_factor.fill_(0.2)
        network.model.speech_bias_factor.fill_(-0.05)
    return network


def sizes_of(network: Any) -> Architecture:
    return architecture(json.loads(network.config.to_json_string(use_diff=False)))


def weights_of(network: Any, tokens: Tokens = TOKENS, dtype: Any = None) -> Weights:
    """The same weights in our places."""
    tensors = network.state_dict()
    return load_weights(
        tensors.__getitem__,
        sizes_of(network),
        tokens.choices,
        network.device,
        dtype or network.dtype,
    )


class _Tokenizer:
    bos_token_id = None
    eos_token_id = pad_token_id = TOKENS.eos
    speech_start_id, speech_end_id = TOKENS.start, TOKENS.end
    speech_diffusion_id = TOKENS.diffusion


def generate(
    network: Any,
    ids: Sequence[int],
    schedule: Sequence[int],
    *,
    seed: int = 0,
    steps: int = 10,
    guidance: float = 1.3,
) -> Any:
    """Upstream's own audio, flat, of a prompt without voices. The tokens that come are given."""
    module = importlib.import_module("vibevoice.modular.modeling_vibevoice_inference")
    left = list(schedule)

    def forced(_ids: Any, scores: Any) -> Any:
        only = torch.full_like(scores, float("-inf"))
        only[:, left.pop(0) if left else TOKENS.eos] = 0
        return only

    nothing = (None, torch.zeros(0, network.config.decoder_config.hidden_size, dtype=network.dtype))
    prompt = torch.tensor([list(ids)])
    network.set_ddpm_inference_steps(steps)
    with (
        mock.patch.object(network, "_process_speech_inputs", lambda *_, **__: nothing),
        mock.patch.object(module, "VibeVoiceTokenConstraintProcessor", lambda *_, **__: forced),
    ):
        torch.manual_seed(seed)
        output = network.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            tokenizer=_Tokenizer(),
            cfg_scale=guidance,
            speech_tensors=torch.zeros(1, 3200),
            speech_masks=torch.zeros(1, 1, dtype=torch.bool),
            speech_input_mask=torch.zeros_like(prompt, dtype=torch.bool),
            generation_config={"do_sample": False},
            max_new_tokens=len(schedule) + 1,
            max_length_times=1000,
            show_progress_bar=False,
        )
    return output.speech_outputs[0].flatten()
