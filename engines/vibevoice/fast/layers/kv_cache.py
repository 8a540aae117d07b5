"""The KV cache: keys and values of every slot, in one static tensor."""

import torch
from torch import Tensor

from engines.vibevoice.architecture import Architecture


class KVCache:
    """The keys and values of `rows` sequences of up to `capacity` tokens.

    Row 2s is the positive branch of slot s, row 2s + 1 its negative branch. So the first n slots
    are one view. `layers` None means all layers.
    """

    def __init__(
        self,
        sizes: Architecture,
        rows: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
        layers: int | None = None,
    ) -> None:
        # Zeros, because a masked value must not be NaN: NaN times 0 is NaN.
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
        self._views: dict[tuple[int, int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}

    @staticmethod
    def size(sizes: Architecture, rows: int, capacity: int) -> int:
        """The number of elements of such a cache."""
        return rows * capacity * sizes.kv_values

    @property
    def capacity(self) -> int:
        return self.tensor.shape[2]

    def views(self, rows: int, context: int, every: int = 1) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Views of each layer, of `rows` rows: the first and each `every`-th after it.

        The first view is for writing: (rows, tokens, 2, heads, width). Then the keys and the values
        of the first `context` tokens: (rows, heads, tokens, width) each.
        """
        key = (rows, context, every)
        if key not in self._views:
            chosen = self.tensor[:, : rows * every : every]
            self._views[key] = [
                (layer, *layer[:, :context].transpose(1, 3).unbind(2)) for layer in chosen
            ]
        return self._views[key]

    def prefix(self, row: int, length: int) -> Tensor:
        """A copy of the keys and values of a row's first `length` tokens."""
        return self.tensor[:, row, :length].clone()

    def put(self, row: int, prefix: Tensor) -> None:
        self.tensor[:, row, : prefix.shape[1]] = prefix

    def wipe(self, slot: int) -> None:
        """Zeroes a slot's rows. A NaN in them would pass every mask."""
        self.tensor[:, 2 * slot : 2 * slot + 2] = 0
