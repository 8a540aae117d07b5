"""Upstream's Realtime class on our random weights: what golden values are made of, or held against.

It needs a clone of upstream's code that has the class; the package has none.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.realtime_model import config, preset_tensors, tensors
from engines.realtime.presets import PARTS

THINNED = 16
FRAMES = 60


@dataclass(frozen=True)
class Case:
    """A text's tokens, and a voice. `bias` is added to the classifier's logit: -100 never ends."""

    number: int
    tokens: int
    text: int = 20
    frames: int = 15
    guidance: float = 1.5
    steps: int = 5
    bias: float = -100.0

    @property
    def ids(self) -> list[int]:
        draw = torch.Generator().manual_seed(self.number)
        return torch.randint(0, 380, (self.tokens,), generator=draw).tolist()


CASES = (
    Case(0, 23),
    Case(1, 5),
    Case(2, 3, text=7, frames=30),
    Case(3, 60, guidance=3.0),
    Case(4, 12, steps=10),
    Case(5, 1, guidance=0.7),
    Case(6, 24, bias=-0.9),
    Case(7, 8, bias=-0.65),
)


@dataclass(frozen=True)
class Heard:
    """What was made: (frames, latent), (frames, 2, hidden) before each frame, (frames, samples)."""

    latents: Tensor
    hidden: Tensor
    samples: Tensor


class Tokens:
    """What `generate` asks of a tokenizer."""

    bos_token_id = None
    eos_token_id = pad_token_id = pad_id = 3
    speech_start_id, speech_end_id, speech_diffusion_id = 12, 13, 14

    @staticmethod
    def convert_tokens_to_ids(_token: str) -> int:
        return 5


class Upstream:
    """Upstream's network with the weights of a size."""

    def __init__(self, clone: Path, size: str) -> None:
        if str(clone) not in sys.path:
            sys.path.insert(0, str(clone))
        module = importlib.import_module("vibevoice.modular.modeling_vibevoice_streaming_inference")
        configs = importlib.import_module("vibevoice.modular.configuration_vibevoice_streaming")
        kind = module.VibeVoiceStreamingForConditionalGenerationInference
        self.size = size
        self.network: Any = kind(configs.VibeVoiceStreamingConfig(**config(size))).eval()
        made = tensors(size)
        wanted = self.network.state_dict()
        missing = [name for name in wanted if name not in made and not _is_unused(name)]
        assert not missing, missing
        self.network.load_state_dict(made, strict=False)
        self._bias = made["tts_eos_classifier.fc2.bias"].clone()

    def prefilled(self, text: int, frames: int) -> dict[str, Any]:
        """A voice as upstream's pickles hold it."""
        cache_utils = importlib.import_module("transformers.cache_utils")
        outputs = importlib.import_module("transformers.modeling_outputs")
        made = preset_tensors(self.size, text, frames)
        found = {}
        for part in PARTS:
            pairs = made[f"{part}.cache"]
            cache = cache_utils.DynamicCache()
            for layer, pair in enumerate(pairs):
                keys, values = pair.permute(1, 2, 0, 3)[:, None]
                cache.update(keys.contiguous(), values.contiguous(), layer)
            hidden = torch.zeros(1, pairs.shape[1], made[f"{part}.hidden"].shape[0])
            hidden[0, -1] = made[f"{part}.hidden"]
            found[part] = outputs.BaseModelOutputWithPast(
                last_hidden_state=hidden, past_key_values=cache
            )
        return found

    @torch.no_grad()
    def generate(self, case: Case, frames: int = FRAMES) -> Heard:
        """Its own `generate`, up to its own end or the first window behind `frames`."""
        network = self.network
        network.tts_eos_classifier.fc2.bias.copy_(self._bias + case.bias)
        network.set_ddpm_inference_steps(case.steps)
        voice = self.prefilled(case.text, case.frames)
        conditions: list[Tensor] = []
        latents: list[Tensor] = []
        sample = network.sample_speech_tokens

        def noted(positive: Tensor, negative: Tensor, cfg_scale: float) -> Tensor:
            conditions.append(torch.stack([positive[0], negative[0]]))
            latents.append(sample(positive, negative, cfg_scale=cfg_scale))
            return latents[-1]

        ids = torch.tensor([case.ids])
        length = voice["tts_lm"].last_hidden_state.shape[1]
        torch.manual_seed(case.number)
        network.sample_speech_tokens = noted
        try:
            output = network.generate(
                input_ids=torch.full((1, case.text), Tokens.pad_id),
                attention_mask=torch.ones(1, case.text, dtype=torch.long),
                tts_lm_input_ids=torch.full((1, length), Tokens.pad_id),
                tts_lm_attention_mask=torch.ones(1, length, dtype=torch.long),
                tts_text_ids=ids,
                tokenizer=Tokens,
                cfg_scale=case.guidance,
                generation_config={"do_sample": False},
                all_prefilled_outputs=voice,
                stop_check_fn=lambda: len(latents) >= frames,
                show_progress_bar=False,
            )
        finally:
            del network.sample_speech_tokens
        samples = output.speech_outputs[0].reshape(-1, 3200)[:frames]
        count = len(samples)
        return Heard(torch.cat(latents)[:count], torch.stack(conditions)[:count], samples)


def _is_unused(name: str) -> bool:
    return name == "model.tts_language_model.embed_tokens.weight" or ".encoder." in name
