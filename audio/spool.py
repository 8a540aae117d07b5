"""A spool: audio in a temporary file, so that memory does not grow with its length."""

import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from audio.pcm import Samples

_BLOCK = 1 << 16
_BYTES = 4

Extent = tuple[int, int]
"""A range of a spool, in samples: the first index, and the one after the last."""


class Spool:
    """A temporary file of float32 samples, appended at its end and read by `Extent`.

    The first `append` creates the file in `folder`, or in the system's temporary folder. The file
    is deleted with the spool. `count` is its length in samples. Not for two threads at once.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.count = 0
        self._folder = folder
        self._file: IO[bytes] | None = None

    def append(self, samples: Samples) -> Extent:
        """Writes (n,) samples and gives their extent. Raises `OSError` where the disk is full."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (it outlives this call)
            weakref.finalize(self, self._file.close)
        self._file.seek(self.count * _BYTES)
        self._file.write(samples.astype(np.float32, copy=False).tobytes())
        start, self.count = self.count, self.count + len(samples)
        return start, self.count

    def read(self, extent: Extent) -> Iterator[Samples]:
        """The samples of an extent, in blocks of at most 65,536."""
        start, end = extent
        for at in range(start, end, _BLOCK):
            assert self._file is not None  # noqa: S101 - there is an extent, so there was an append
            self._file.seek(at * _BYTES)
            block = self._file.read(min(_BLOCK, end - at) * _BYTES)
            yield np.frombuffer(block, np.float32)

    def clear(self) -> None:
        """Empties the file. All extents become invalid."""
        self.count = 0
        if self._file is not None:
            self._file.truncate(0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
