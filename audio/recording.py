"""Recordings: decodes an audio file to samples, to clone a voice from or to hear what was said.

Reading is bounded: a file has at most 8 channels and a rate of 8 to 192 kHz. Of a voice's file, at
most 64 MiB, 31 s are decoded, into about 200 MB at worst. What is to be heard is decoded whole, in
pieces, onto disk. A link that leads out of the folder is refused.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audio.pcm import SAMPLE_RATE, Resampler, Samples, resample
from audio.spool import Spool

EXTENSIONS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".webm", ".aac", ".opus")
MIN_SECONDS = 3
MAX_SECONDS = 30

_MAX_BYTES = 64 * 2**20
_MAX_CHANNELS = 8
_MIN_RATE, _MAX_RATE = 8_000, 192_000
_SILENCE = 1e-3  # a peak of -60 dBFS; below it there is only noise
_PADDING_S = 0.1  # AAC adds up to 40 ms to a clip, which is no reason for a warning
_CONTAINERS = "mp3,mov,ogg,matroska,aac"  # no playlists: FFmpeg would open the files they name
_PIECE = 1 << 16
_FULL_SCALE = 2**30  # in 32-bit integers: one bit of headroom for rounding; float32 keeps 24


class Unusable(Exception):
    """A file that cannot be used as a voice.

    The message completes a sentence that begins with the file's name. It never reaches a caller by
    itself: it becomes a warning or a part of a `VoiceError`.
    """


class TooShort(Unusable):
    """A recording that is fine except that it is shorter than `MIN_SECONDS`."""


class Unreachable(Unusable):
    """A file that the file system does not give. A later attempt may succeed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """The first seconds of a file. `frames` has shape (n, channels), with 1 or 2 channels.

    `rate` is in Hz. `seconds` is the whole file's length by its header, 0.0 where it has none.
    `damaged` means that decoding stopped at an error.
    """

    frames: Samples
    rate: int
    seconds: float
    damaged: bool = False


def probe(path: Path, folder: Path) -> None:
    """Checks the header of a file in `folder`. Raises `Unusable` where `decode` would.

    A clip whose header says that it is too short is decoded, because some headers only estimate.
    """
    header = _read(path, folder, 0)
    if header.seconds < MIN_SECONDS:
        decode(path, folder)


def decode(path: Path, folder: Path) -> tuple[Samples, list[str]]:
    """Decodes the first 30 s of a file in `folder`. Raises `Unusable`.

    Gives samples of shape (n,) at `SAMPLE_RATE`, and remarks. A remark completes a sentence that
    begins with the file's name.
    """
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
    # Of a missing ffmpeg binary, which we do not use.
    warnings.filterwarnings("ignore", module=r"pydub\.")
    from pydub import AudioSegment

    peak = float(np.abs(decoded.frames).max())
    if not np.isfinite(peak):
        raise Unusable("has samples that are not numbers")
    gain = _FULL_SCALE / max(1.0, peak)  # the samples of a float file may exceed full scale
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


def decode_whole(
    path: Path, folder: Path, spool: Spool, *, longest_sec: float, check: Callable[[], None]
) -> list[str]:
    """Decodes a file in `folder` to the end of `spool`, as mono audio at `SAMPLE_RATE`.

    It is decoded in pieces, so that memory does not grow with its length. `check` is called for
    each and may raise. Gives remarks as `decode`. Raises `Unusable`, also for a file of more than
    `longest_sec`: a small file may hold days of silence.
    """
    converter: Resampler | None = None
    first, damaged = spool.count, False
    most = round((longest_sec + _PADDING_S) * SAMPLE_RATE)
    with _readable(path, folder, None) as file:
        for frames, rate in _pieces(file):
            check()
            if frames is None:
                damaged = True
                continue
            converter = converter or Resampler(rate, SAMPLE_RATE)
            spool.append(converter.feed(_mean(frames)))
            if spool.count - first > most:
                raise Unusable(f"is longer than {longest_sec:g} s")
    if converter is None:
        raise Unusable("has no audio that can be decoded")
    spool.append(converter.flush())
    return ["is damaged; what can be decoded of it is used"] if damaged else []


def _mean(frames: Samples) -> Samples:
    mono: Samples = frames.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise Unusable("has samples that are not numbers")
    return np.clip(mono, -1, 1)


def _read(path: Path, folder: Path, seconds: int) -> _Decoded:
    """Decodes the first `seconds` of a file, mixed down to at most two channels."""
    with _readable(path, folder, _MAX_BYTES) as file:
        read = _read_soundfile if _is_soundfiles(file) else _read_av
        return read(file, seconds)


@contextmanager
def _readable(path: Path, folder: Path, most_bytes: int | None) -> Iterator[str]:
    """The resolved path of a file that may be decoded. Decoding errors become `Unusable`."""
    import av

    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise Unusable("leads outside the folder")
        if not real.is_file():
            raise Unusable("is not a file")
        with real.open("rb") as file:  # first, because a decoder's error does not say what failed
            size = os.fstat(file.fileno()).st_size
        if most_bytes is not None and size > most_bytes:
            raise Unusable(f"is larger than {most_bytes // 2**20} MiB")
        yield str(real)
    except (av.FFmpegError, RuntimeError, ValueError) as error:
        raise Unusable("is not readable as audio") from error
    except FileNotFoundError as error:
        raise Unreachable("is gone") from error
    except OSError as error:
        raise Unreachable("cannot be read") from error


def _is_soundfiles(file: str) -> bool:
    return file.lower().endswith((".wav", ".flac"))


def _pieces(file: str) -> Iterator[tuple[Samples | None, int]]:
    """A whole file as arrays of shape (n, channels), each with its rate; None where damaged."""
    if not _is_soundfiles(file):
        with _opened(file) as (container, stream):
            yield from _av_frames(container, stream)
        return
    import soundfile

    with soundfile.SoundFile(file) as sound:
        rate = int(sound.samplerate)
        _check(rate, sound.channels)
        while len(frames := sound.read(_PIECE, dtype="float32", always_2d=True)):
            yield frames, rate


def _read_soundfile(file: str, seconds: int) -> _Decoded:
    import soundfile

    with soundfile.SoundFile(file) as sound:
        rate = int(sound.samplerate)
        _check(rate, sound.channels)
        frames = sound.read(seconds * rate, dtype="float32", always_2d=True)
        return _Decoded(_folded(frames), rate, sound.frames / rate)


def _read_av(file: str, seconds: int) -> _Decoded:
    import av

    with _opened(file) as (container, stream):
        rate = stream.codec_context.sample_rate
        parts: list[Samples] = []
        count, damaged = 0, False
        for frames, rate_now in _av_frames(container, stream) if seconds else ():
            if frames is None:
                damaged = True
                continue
            rate = rate_now
            parts.append(_folded(frames))
            count += len(frames)
            if count >= seconds * rate:
                break
        duration = (container.duration or 0) / av.time_base
        audio = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        return _Decoded(audio[: seconds * rate], rate, duration, damaged)


@contextmanager
def _opened(file: str) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first stream of audio."""
    import av

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    with av.open(file, mode="r", options=options, metadata_errors="replace") as container:
        stream = next((s for s in container.streams.audio if s.codec_context), None)
        if stream is None:
            raise Unusable("has no audio that is understood")
        _check(stream.codec_context.sample_rate, stream.codec_context.channels)
        yield container, stream


def _av_frames(container: Any, stream: Any) -> Iterator[tuple[Samples | None, int]]:
    """As `_pieces`. Frames of another rate or layout than the first count as damage."""
    import av

    planar = av.AudioResampler(format="fltp")
    first: tuple[int, int] | None = None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            yield None, 0
            continue
        for frame in frames:
            form = frame.sample_rate, frame.layout.nb_channels
            if first is None:  # HE-AAC only shows its real format here
                _check(*form)
                first = form
            if form != first:
                yield None, 0
                continue
            for piece in planar.resample(frame):
                yield np.asarray(piece.to_ndarray().T, np.float32), form[0]


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
