"""Recordings: an audio file of any common kind, as the samples that a voice is cloned from.

Reading is bounded: files up to 64 MiB, 8 channels and 8 to 192 kHz, of which no more than 31 s are
decoded, into about 200 MB at worst. A file is only opened where it really lies in its folder.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio.pcm import SAMPLE_RATE, Samples, resample

EXTENSIONS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".webm", ".aac", ".opus")
MIN_SECONDS = 3
MAX_SECONDS = 30

_MAX_BYTES = 64 * 2**20
_MAX_CHANNELS = 8
_MIN_RATE, _MAX_RATE = 8_000, 192_000
_SILENCE = 1e-3  # a peak of -60 dBFS: what is left is hiss
_PADDING_S = 0.1  # AAC adds up to 40 ms to a clip; not worth a warning
_CONTAINERS = "mp3,mov,ogg,matroska,aac"  # FFmpeg follows a playlist by any name to other files
_FULL_SCALE = 2**30  # of 32-bit integers: the bit to spare takes up rounding, 24 are kept


class Unusable(Exception):
    """What is wrong with a file, as the rest of a sentence about it.

    It never reaches a caller: the message becomes a warning or part of a `VoiceError`.
    """


class TooShort(Unusable):
    """Nothing but the length is wrong."""


class Unreachable(Unusable):
    """The file system does not hand the file over. Another time it may."""


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """The first seconds of a file: `frames` is (n, 1 or 2); `seconds` is what the header says of
    the whole, 0.0 if nothing."""

    frames: Samples
    rate: int
    seconds: float
    damaged: bool = False


def probe(path: Path, folder: Path) -> None:
    """Raise `Unusable` if the header shows that `decode` would. Decodes only clips that seem short,
    because an estimated length may be wrong."""
    header = _read(path, folder, 0)
    if header.seconds < MIN_SECONDS:
        decode(path, folder)


def decode(path: Path, folder: Path) -> tuple[Samples, list[str]]:
    """The first 30 s, and remarks on the file that complete a sentence. Raises `Unusable`."""
    decoded = _read(path, folder, MAX_SECONDS + 1)
    seconds = len(decoded.frames) / decoded.rate
    if not seconds:
        raise Unusable("has no audio that can be decoded")
    if seconds < MIN_SECONDS:
        allowed = f"allowed: {MIN_SECONDS} to {MAX_SECONDS} s"
        raise TooShort(f"is {int(seconds * 100) / 100:g} s long; {allowed}")
    samples = _mono(decoded)
    if np.abs(samples).max() < _SILENCE:
        raise Unusable("is silent")
    remarks = []
    if seconds > MAX_SECONDS + _PADDING_S:
        remarks.append(f"is longer than {MAX_SECONDS} s; its first {MAX_SECONDS} s are used")
    if decoded.damaged:
        remarks.append("is damaged; what can be decoded of it is used")
    return samples, remarks


def _mono(decoded: _Decoded) -> Samples:
    warnings.filterwarnings("ignore", module=r"pydub\.")  # of a missing ffmpeg: it is not needed
    from pydub import AudioSegment

    peak = float(np.abs(decoded.frames).max())
    if not np.isfinite(peak):
        raise Unusable("has samples that are not numbers")
    gain = _FULL_SCALE / max(1.0, peak)  # float files may go beyond full scale
    segment = AudioSegment(
        data=(decoded.frames * np.float32(gain)).astype("<i4").tobytes(),
        sample_width=4,
        frame_rate=decoded.rate,
        channels=decoded.frames.shape[1],
    ).set_channels(1)
    if segment.duration_seconds > MAX_SECONDS:
        segment = segment[: MAX_SECONDS * 1000]
    samples = np.frombuffer(segment.raw_data, "<i4").astype(np.float32) / np.float32(_FULL_SCALE)
    return resample(samples, decoded.rate, SAMPLE_RATE)


def _read(path: Path, folder: Path, seconds: int) -> _Decoded:
    """The header and the first `seconds` of a file, each mixed down to two channels at most."""
    import av

    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise Unusable("leads outside the folder")
        if not real.is_file():
            raise Unusable("is not a file")
        with real.open("rb") as file:  # before the decoders: they do not tell what failed
            size = os.fstat(file.fileno()).st_size
        if size > _MAX_BYTES:
            raise Unusable(f"is larger than {_MAX_BYTES // 2**20} MiB")
        read = _read_soundfile if path.suffix.lower() in (".wav", ".flac") else _read_av
        return read(str(real), seconds)
    except (av.FFmpegError, RuntimeError, ValueError) as error:
        raise Unusable("is not readable as audio") from error
    except FileNotFoundError as error:
        raise Unreachable("is gone") from error
    except OSError as error:
        raise Unreachable("cannot be read") from error


def _read_soundfile(file: str, seconds: int) -> _Decoded:
    import soundfile

    with soundfile.SoundFile(file) as sound:
        rate = int(sound.samplerate)
        _check(rate, sound.channels)
        frames = sound.read(seconds * rate, dtype="float32", always_2d=True)
        return _Decoded(_folded(frames), rate, sound.frames / rate)


def _read_av(file: str, seconds: int) -> _Decoded:
    import av

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    with av.open(file, mode="r", options=options, metadata_errors="replace") as container:
        stream = next((s for s in container.streams.audio if s.codec_context), None)
        if stream is None:
            raise Unusable("has no audio that is understood")
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        _check(rate, channels)
        planar = av.AudioResampler(format="fltp")
        parts: list[Samples] = []
        count = 0
        damaged = False
        for packet in container.demux(stream) if seconds else ():
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                damaged = True
                continue
            for frame in frames:
                form = frame.sample_rate, frame.layout.nb_channels
                if not parts:  # HE-AAC only shows its real format here
                    _check(*form)
                    rate, channels = form
                if form != (rate, channels):
                    damaged = True
                    continue
                pieces = (piece.to_ndarray().T for piece in planar.resample(frame))
                parts += (_folded(np.asarray(piece, np.float32)) for piece in pieces)
                count += frame.samples
            if count >= seconds * rate:
                break
        duration = (container.duration or 0) / av.time_base
        audio = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        return _Decoded(audio[: seconds * rate], rate, duration, damaged)


def _check(rate: int, channels: int) -> None:
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise Unusable(f"is sampled at {rate} Hz; allowed: {_MIN_RATE} to {_MAX_RATE}")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise Unusable(f"has {channels} channels; allowed: 1 to {_MAX_CHANNELS}")


def _folded(frames: Samples) -> Samples:
    """More than two channels as their mean: pydub's own loop takes 1.4 s for six at 48 kHz."""
    if frames.shape[1] <= 2:
        return frames
    mean: Samples = frames.mean(axis=1, keepdims=True)
    return mean
