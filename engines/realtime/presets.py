"""The voices of a Realtime model: presets, each a prompt that both language models have read.

A preset is a safetensors file and its manifest, `NAME.safetensors` and `NAME.json`, as
`python -m tools.presets convert` makes them of upstream's pickles. The server never reads a pickle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.realtime.checkpoint import Sizes
from request.errors import EngineError

PARTS = ("lm", "tts_lm", "neg_lm", "neg_tts_lm")
"""Upstream's names: the text and the speech model's prompt, and those of the negative branch."""


@dataclass(frozen=True, slots=True, eq=False)
class Preset:
    """A voice. Keys and values are (layers, tokens, 2, heads, width).

    `negative_hidden` (hidden,) is the negative branch's last state. Upstream's negative text prompt
    has no influence on anything, so it is left out.
    """

    text: Tensor
    speech: Tensor
    negative: Tensor
    negative_hidden: Tensor


def list_presets(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The manifests by voice name, in order. A preset without one does not count."""
    found: dict[str, Mapping[str, Any]] = {}
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if not file.with_suffix(".safetensors").is_file():
            continue
        try:
            manifest = json.loads(file.read_bytes())
        except ValueError:
            continue
        if isinstance(manifest, dict):
            found[file.stem] = manifest
    return found


class Presets:
    """The presets of a folder, each read once and then kept on the device.

    A voice takes 2 to 4 MB. Raises `EngineError`. Not for two threads at once.
    """

    def __init__(
        self, folder: Path, sizes: Sizes, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._folder, self._sizes = folder, sizes
        self._device, self._dtype = device, dtype
        self._known: dict[str, Preset] = {}

    def get(self, name: str) -> Preset:
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> Preset:
        tensors = load_tensors(self._folder, name)
        speech = self._sizes.speech
        layers = {"lm": self._sizes.text_layers, "tts_lm": speech.layers}
        for part in PARTS:
            pair = (2, speech.kv_heads, speech.head_dim)
            cache, hidden = tensors[f"{part}.cache"], tensors[f"{part}.hidden"]
            wanted = (layers[part.removeprefix("neg_")], cache.shape[1], *pair)
            if cache.shape != wanted or hidden.shape != (speech.hidden,):
                raise EngineError(f"the voice {name} was made for another model")
        if tensors["neg_tts_lm.cache"].shape[1] != 1:
            raise EngineError(f"the voice {name} has a negative prompt of more than one token")
        taken = ("lm.cache", "tts_lm.cache", "neg_tts_lm.cache", "neg_tts_lm.hidden")
        return Preset(*(tensors[each].to(self._device, self._dtype) for each in taken))


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a preset: `PART.cache` and `PART.hidden` of each part.

    Raises `EngineError` where the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as problem:
        raise EngineError(f"the voice {name} cannot be read: convert it again") from problem
    wanted = {f"{part}.{what}" for part in PARTS for what in ("cache", "hidden")}
    if tensors.keys() != wanted or any(tensors[f"{part}.cache"].dim() != 5 for part in PARTS):
        raise EngineError(f"the voice {name} is no preset: convert it again")
    return tensors
