"""Who speaks: voices as vectors, and the vectors of one recording as speakers.

The encoder is GE2E's (Wan et al. 2018, "Generalized end-to-end loss for speaker verification") with
the weights that Resemblyzer ships. Vectors of one voice point in one direction, so the cosine
between two of them says how alike their voices are.
"""

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio.pcm import SAMPLE_RATE, Samples, resample
from request.errors import EngineError

Vector = NDArray[np.float32]
"""A voice: 256 values, of length 1."""

RATE = 16_000
_WINDOW, _HOP, _BANDS = 400, 160, 40
_FRAMES = 160  # 1.6 s, which the network was trained on
_STEP = 80
_BATCH = 64
_LOUDNESS = 10 ** (-30 / 20)
_ALIKE = 0.72  # see docs/transcription.md: below it two groups of vectors are two speakers
_KNOWN = 0.65
_LONG_SEC = 1.2


def available() -> bool:
    """Whether the encoder's weights and torch are installed."""
    return all(importlib.util.find_spec(name) for name in ("resemblyzer", "torch"))


class SpeakerEncoder:
    """Turns speech into vectors. The weights are loaded at the first use; any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._network: Any = None

    def embed(self, samples: Samples, rate: int = SAMPLE_RATE) -> Vector:
        """The voice in (n,) samples at `rate` Hz: the mean over windows of 1.6 s.

        Of less than 1.6 s it is uncertain. Raises `EngineError` where the weights are missing.
        """
        import torch

        heard = resample(samples, rate, RATE)
        level = float(np.sqrt(np.mean(np.square(heard)))) if len(heard) else 0.0
        if level:
            heard = heard * np.float32(max(1.0, _LOUDNESS / level))
        windows = _windows(mel_spectrogram(heard))
        with self._lock, torch.inference_mode():
            network = self._loaded()
            parts = [
                network(torch.from_numpy(windows[at : at + _BATCH])).numpy()
                for at in range(0, len(windows), _BATCH)
            ]
        return _unit(np.concatenate(parts).mean(axis=0))

    def _loaded(self) -> Any:
        if self._network is None:
            self._network = _network()
        return self._network


def mel_spectrogram(samples: Samples) -> NDArray[np.float32]:
    """The power of 40 mel bands, shape (frames, 40), of (n,) samples at 16 kHz.

    Frames of 25 ms, 10 ms apart, around their middle. It equals librosa's `melspectrogram` with its
    defaults, which the network was trained on; there is no logarithm.
    """
    padded = np.pad(samples, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    spectrum = np.fft.rfft(frames * _hann(), axis=1)
    power = (np.abs(spectrum) ** 2).astype(np.float32)
    bands: NDArray[np.float32] = power @ _filters()
    return bands


@cache
def _hann() -> NDArray[np.float32]:
    phase = 2 * np.pi * np.arange(_WINDOW) / _WINDOW
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


@cache
def _filters() -> NDArray[np.float32]:
    """Slaney's mel filters, shape (201, 40): triangles of equal area, linear below 1 kHz."""
    edges = _hertz(np.linspace(0, _mel(RATE / 2), _BANDS + 2))
    bins = np.fft.rfftfreq(_WINDOW, 1 / RATE)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    triangles = np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low)
    return triangles.astype(np.float32)


_LINEAR_HZ, _MELS_AT_LINEAR, _LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27


def _mel(hertz: float) -> float:
    if hertz < _LINEAR_HZ:
        return hertz * _MELS_AT_LINEAR / _LINEAR_HZ
    return float(_MELS_AT_LINEAR + np.log(hertz / _LINEAR_HZ) / _LOG_STEP)


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mels * _LINEAR_HZ / _MELS_AT_LINEAR
    curved = _LINEAR_HZ * np.exp(_LOG_STEP * (mels - _MELS_AT_LINEAR))
    return np.where(mels < _MELS_AT_LINEAR, linear, curved)


def _windows(mels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Windows of 160 frames, 80 apart, shape (n, 160, 40); the last one ends with the speech."""
    if len(mels) <= _FRAMES:
        return np.pad(mels, ((0, _FRAMES - len(mels)), (0, 0)))[None]
    starts = [*range(0, len(mels) - _FRAMES, _STEP), len(mels) - _FRAMES]
    return np.stack([mels[at : at + _FRAMES] for at in starts])


def _network() -> Any:
    """The network: three LSTMs of 256, and a layer on the last one's last state."""
    found = importlib.util.find_spec("resemblyzer")
    if found is None or not found.submodule_search_locations:
        raise EngineError("speakers need the package Resemblyzer, for the encoder's weights")
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(_BANDS, 256, 3, batch_first=True)
            self.linear = torch.nn.Linear(256, 256)

        def forward(self, mels: torch.Tensor) -> torch.Tensor:
            _, (hidden, _) = self.lstm(mels)
            vectors = torch.relu(self.linear(hidden[-1]))
            return torch.nn.functional.normalize(vectors, dim=1)

    file = Path(found.submodule_search_locations[0]) / "pretrained.pt"
    # Only tensors are read: a pickle could run code.
    weights = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    network = Encoder().eval()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network


def _unit(vector: NDArray[Any]) -> Vector:
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / (length or 1.0), np.float32)


def grouped(
    vectors: Sequence[Vector], seconds: Sequence[float], known: Sequence[Vector] = ()
) -> list[int]:
    """The speaker of each stretch of speech, as a number.

    A speaker of `known` has its index there; others count on, in order of appearance. Stretches of
    1.2 s or more decide how many speakers there are, by average linkage. A shorter one goes to the
    speaker that it is most like.
    """
    if not vectors:
        return []
    long = [at for at, each in enumerate(seconds) if each >= _LONG_SEC] or list(range(len(vectors)))
    centres = list(_centres([vectors[at] for at in long], [seconds[at] for at in long]))
    voices = np.stack([*known, *(c for c in centres if not _is_one_of(c, known))] or centres)
    chosen = [int(np.argmax(voices @ vector)) for vector in vectors]
    order = {each: each for each in range(len(known))}
    for each in chosen:
        order.setdefault(each, len(order))
    return [order[each] for each in chosen]


def _is_one_of(centre: Vector, known: Sequence[Vector]) -> bool:
    return any(float(centre @ voice) >= _KNOWN for voice in known)


def _centres(vectors: Sequence[Vector], seconds: Sequence[float]) -> Iterator[Vector]:
    """The mean vector of each group, weighted by time."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) == 1:
        yield vectors[0]
        return
    stacked = np.stack(vectors)
    labels = fcluster(linkage(stacked, "average", "cosine"), 1 - _ALIKE, "distance")
    weights = np.asarray(seconds)[:, None]
    for label in np.unique(labels):
        mine = labels == label
        yield _unit((stacked[mine] * weights[mine]).sum(axis=0))
