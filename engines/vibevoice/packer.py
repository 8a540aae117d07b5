"""Tensors of a checkpoint on their way into packed places on the device."""

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
    """A source: the safetensors files of a model's folder. Reads a tensor when asked for it."""

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
    """Puts tensors of a source where they belong, in one dtype on one device."""

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
        """The matrices one below the other, as (inputs, outputs)."""
        first = self.raw(names[0])
        shapes = [first.shape] + [self.raw(name).shape for name in names[1:]]
        packed = self.empty(sum(shape[0] for shape in shapes), *first.shape[1:])
        at = 0
        for name, shape in zip(names, shapes, strict=True):
            packed[at : at + shape[0]].copy_(self.raw(name))
            at += shape[0]
        return packed.t() if packed.dim() == 2 else packed

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def float(self, name: str) -> Tensor:
        return self.raw(name).to(self.device, torch.float32)

    def kept(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype).contiguous()
