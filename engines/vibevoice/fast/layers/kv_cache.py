"""Keys and values of every slot, in one static tensor."""

import torch
from torch import Tensor

from engines.vibevoice.architecture import Architecture


class KVCache:
    """`rows` sequences of up to `capacity` tokens. Row 2s is slot s's positive branch, row 2s + 1
    its negative one, so the first slots are always one view. All layers, unless `layers` says
    otherwise."""

    def __init__(
        self,
        sizes: Architecture,
        rows: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
        layers: int | None = None,
    ) -> None:
        # Zeros, since what is masked must still be a number.
        self.tensor = torch.zeros(
            layers or sizes.layers,
            rows,
            capacity,
            2,
            sizes.kv_heads,
            sizes.head_dim,
            device=device,
            dtype=dtype,
        )
        self._views: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}

    @staticmethod
    def size(sizes: Architecture, rows: int, capacity: int) -> int:
        """The values that such a cache has."""
        return rows * capacity * sizes.kv_values

    @property
    def capacity(self) -> int:
        return self.tensor.shape[2]

    def views(self, rows: int, context: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each layer what is written to, (rows, tokens, 2, heads, width), and the keys and
        values of the first `context` tokens, (rows, heads, tokens, width)."""
        key = (rows, context)
        if key not in self._views:
            self._views[key] = [
                (layer[:rows], *layer[:rows, :context].transpose(1, 3).unbind(2))
                for layer in self.tensor
            ]
        return self._views[key]

    def prefix(self, row: int, length: int) -> Tensor:
        """A copy of a row's first tokens."""
        return self.tensor[:, row, :length].clone()

    def put(self, row: int, prefix: Tensor) -> None:
        self.tensor[:, row, : prefix.shape[1]] = prefix

    def wipe(self, slot: int) -> None:
        """Takes what is no number out of a slot: it would come through every mask."""
        self.tensor[:, 2 * slot : 2 * slot + 2] = 0
