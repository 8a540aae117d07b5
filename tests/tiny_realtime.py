"""Builds a tiny VibeVoice-Realtime checkpoint that ends its texts by itself, and its voices.

    python -m tests.tiny_realtime OUT

OUT gets the checkpoint, a tokenizer beside it, and `presets/` with two voices. Its speech is noise,
but its pace is not: as in `tiny_checkpoint`, the mean of (frames - PACE * tokens of text) decides,
here in the speech model's first layer, and the classifier ends the text once it is positive. No
code of upstream is needed.
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from bench.realtime_model import config, preset_tensors, tensors
from tests.tiny_checkpoint import write_tokenizer

PACE = 2.0
"""Frames for each token of text."""

VOICES = ("en-Carter_man", "en-Emma_woman")
_FRAME, _TEXT, _BALANCE = range(3)
_RESERVED = 3
_HEADS = 4


def tiny_realtime(folder: Path) -> Path:
    """Writes the checkpoint to `folder`, its voices to `folder/presets`, and returns `folder`."""
    tokenizer = folder / "qwen-tokenizer"
    tokenizer.mkdir(parents=True)
    write_tokenizer(tokenizer)
    (folder / "config.json").write_text(json.dumps(config("tiny")))
    processor = {"language_model_pretrained_name": tokenizer.name}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file(paced(tensors("tiny")), folder / "model.safetensors")
    write_presets(folder / "presets")
    return folder


def write_presets(folder: Path) -> None:
    folder.mkdir(parents=True)
    for index, name in enumerate(VOICES):
        voice = preset_tensors("tiny", text=12 + index, frames=9)
        for part in ("tts_lm", "neg_tts_lm"):
            voice[f"{part}.cache"][0, :, 1, 0] = 0  # what was said before does not count
        save_file(voice, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "language": "en"}))


def paced(made: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with three channels of the hidden state set aside for the pace."""
    width = made["model.tts_input_types.weight"].shape[1] // _HEADS
    made["model.language_model.embed_tokens.weight"][:, :_RESERVED] = 0
    made["model.acoustic_connector.fc2.weight"][:_RESERVED] = 0
    made["model.acoustic_connector.fc2.bias"][:_RESERVED] = 0
    made["model.acoustic_tokenizer.decoder.head.conv.conv.weight"].mul_(0.05)  # -26 dB
    types = made["model.tts_input_types.weight"]
    types[:, :_RESERVED] = 0
    types[0, _FRAME], types[1, _TEXT] = 1, 1
    for name, weight in made.items():
        if "language_model.layers" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_(0.05)[:_RESERVED] = 0
    layer = "model.tts_language_model.layers.0"
    made[f"{layer}.input_layernorm.weight"].fill_(1)
    attention = f"{layer}.self_attn"
    # With a zero query the first head attends evenly, so it takes the mean.
    made[f"{attention}.q_proj.weight"][:width] = 0
    made[f"{attention}.q_proj.bias"][:width] = 0
    made[f"{attention}.v_proj.weight"][0] = 0
    made[f"{attention}.v_proj.bias"][0] = 0
    made[f"{attention}.v_proj.weight"][0, _FRAME] = 1
    made[f"{attention}.v_proj.weight"][0, _TEXT] = -PACE
    made[f"{attention}.o_proj.weight"][_BALANCE, 0] = 30
    end = "tts_eos_classifier"
    for name in (f"{end}.fc1.weight", f"{end}.fc1.bias", f"{end}.fc2.weight"):
        made[name].zero_()
    made[f"{end}.fc1.weight"][0, _BALANCE] = 1
    made[f"{end}.fc2.weight"][0, 0] = 100
    made[f"{end}.fc2.bias"].fill_(-0.01)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build a tiny VibeVoice-Realtime checkpoint.")
    parser.add_argument("out", type=Path)
    tiny_realtime(parser.parse_args().out)
