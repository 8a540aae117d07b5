"""Copies tensors of a checkpoint into packed tensors on the device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from engines.vibevoice.architecture import Unsupported

Source = Callable[[str], Tensor]
"""A tensor by its name in the checkpoint; raises `KeyError`."""


class Shards:
    """A source: the safetensors files of a model's folder. It reads each tensor on demand."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            names: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        else:
            names = {}
        files = sorted(set(names.values())) or ["model.safetensors"]
        self._handles: dict[str, Any] = {}
        for file in files:
            handle = safe_open(folder / file, framework="pt", device=str(device))
            self._handles |= dict.fromkeys(handle.keys(), handle)

    def __call__(self, name: str) -> Tensor:
        tensor: Tensor = self._handles[name].get_tensor(name)
        return tensor


class Packer:
    """Packs tensors of a source, in one dtype on one device."""

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype) -> None:
        self._source, self.device, self.dtype = source, device, dtype

    def raw(self, name: str) -> Tensor:
        try:
            return self._source(name)
        except KeyError:
            raise Unsupported(f"the model has no {name}") from None

    def one(self, name: str) -> Tensor:
        return self.raw(name).to(self.device, self.dtype, copy=True).contiguous()

    def rows(self, *names: str) -> Tensor:
        """Concatenates the matrices along their outputs, and gives an (inputs, outputs) view."""
        parts = [self.raw(name) for name in names]
        heights = [len(part) for part in parts]
        packed = self.empty(sum(heights), *parts[0].shape[1:])
        for place, part in zip(packed.split(heights), parts, strict=True):
            place.copy_(part)
        return packed.t() if packed.dim() == 2 else packed

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def float(self, name: str) -> Tensor:
        return self.raw(name).to(self.device, torch.float32)

    def kept(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype).contiguous()
