"""The formats of an answer, and one continuous encoder for each.

The bytes are laid out as OpenAI's speech endpoint sends them: CBR mp3 without ID3 or Xing, Ogg
Opus, ADTS, FLAC and WAV. A stream cannot be rewound, so its header says that its length is unknown.
Who writes a file replaces the header by the exact one (`Encoder.head`).

Every encoder gets the same 16-bit samples (`pcm16`). So wav, pcm and flac of one answer decode to
equal samples.
"""

import struct
import weakref
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from audio.pcm import Samples
from request.errors import SpeechError

_ANY_RATE = range(8_000, 48_001)
_MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)


@dataclass(frozen=True, slots=True)
class Format:
    """A format by name: file extension without a dot, content type, and rates in Hz, ascending."""

    name: str
    extension: str
    content_type: str
    rates: Sequence[int]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Format("mp3", "mp3", "audio/mpeg", _MPEG_RATES),
            Format("opus", "opus", "audio/opus", _OPUS_RATES),
            Format("aac", "aac", "audio/aac", _MPEG_RATES),
            Format("flac", "flac", "audio/flac", _ANY_RATE),
            Format("wav", "wav", "audio/wav", _ANY_RATE),
            Format("pcm", "pcm", "audio/pcm", _ANY_RATE),
        )
    }
)


def codec_rate(format_name: str, wanted_rate: int) -> int:
    """The format's lowest rate that is not below the wanted one, else its highest, in Hz."""
    rates = FORMATS[format_name].rates
    return rates[min(bisect_left(rates, wanted_rate), len(rates) - 1)]


def pcm16(samples: Samples) -> NDArray[np.int16]:
    """Quantises finite float samples to 16 bits, same shape: times 32768, rounded, clipped.

    The factor is 32768 and not 32767, so that audio which was read from 16 bits is unchanged.
    """
    nearest: Samples = np.rint(samples * np.float32(32768))
    return nearest.clip(-32768, 32767).astype(np.int16)


def wav_header(rate: int, total_samples: int | None) -> bytes:
    """A WAV header for mono 16-bit samples at `rate` Hz: 44 bytes.

    A size that is unknown, or that 32 bits cannot hold, is 0xFFFFFFFF. Players then read to the
    end; they would take 0 for an empty file.
    """
    data = 0xFFFFFFFF if total_samples is None else 2 * total_samples
    riff = data + 36
    if riff > 0xFFFFFFFF:
        riff = data = 0xFFFFFFFF
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + layout + struct.pack("<4sI", b"data", data)
    )


@dataclass(frozen=True, slots=True)
class _Recipe:
    """FFmpeg's settings for a format. `bit_rate` is in bits/s, `gain` multiplies the samples."""

    muxer: str
    codec: Literal["libmp3lame", "libopus", "aac", "flac"]
    sample_format: Literal["s16", "fltp"]
    bit_rate: int | None = None
    gain: float = 1.0
    muxer_options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)


_RECIPES = {
    # At 128 kbit/s LAME's quality 7 is 1.5 times as fast as its default 3, and its SNR is no worse
    # (46 dB against 40). Below 16 kHz LAME's highest bit rate is 64 kbit/s. With CBR, LAME
    # multiplies samples by 0.95, which made mp3 0.45 dB softer than the rest. `gain` undoes it.
    "mp3": _Recipe(
        "mp3",
        "libmp3lame",
        "fltp",
        128_000,
        gain=1 / 0.95,
        muxer_options={"write_xing": "0", "id3v2_version": "0"},
        codec_options={"compression_level": "7"},
    ),
    # Pages of 100 ms, because Ogg's default of 1 s delays a stream by 1 s. With unconstrained VBR
    # the bit rate of the same speech rises from 56 to 86 kbit/s.
    "opus": _Recipe(
        "ogg",
        "libopus",
        "s16",
        56_000,
        muxer_options={"page_duration": "100000"},
        codec_options={"vbr": "constrained"},
    ),
    # FFmpeg's "fast" AAC coder is 4 times as fast, but it made a tone 0.25 dB louder.
    "aac": _Recipe("adts", "aac", "fltp", 64_000),
    # No padding: FFmpeg reserves 8 kB of zeros in the header for tags, and we write none.
    "flac": _Recipe("flac", "flac", "s16", muxer_options={"metadata_header_padding": "0"}),
}


_FLAC = b"fLaC\x00" + (34).to_bytes(3, "big")
"""How a FLAC file begins: the marker, then the kind and length of the block STREAMINFO."""


def bytes_a_second(format_name: str, rate: int) -> int:
    """The approximate size of one second of speech at `rate` Hz, in bytes."""
    recipe = _RECIPES.get(format_name)
    if recipe is None:
        return 2 * rate
    if recipe.bit_rate is None:
        return round(1.2 * rate)  # flac: 64 % of the preview voice at 24 kHz, 39 % at 48 kHz
    # Below 16 kHz LAME's highest bit rate is 64 kbit/s.
    return min(recipe.bit_rate, 64_000 if rate < 16_000 else recipe.bit_rate) // 8


def formats_within(most: int, size: int, format_name: str, rate: int) -> list[str]:
    """The formats in which audio should have at most `most` bytes, if it has `size` in this one."""
    seconds = size / bytes_a_second(format_name, rate)
    sizes = {name: bytes_a_second(name, codec_rate(name, rate)) * seconds for name in FORMATS}
    return [name for name, expected in sizes.items() if expected <= most]


class _Sink:
    """The file object that FFmpeg writes to. It has no `seek`, so FFmpeg never patches a header."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class Encoder:
    """The streaming encoder of one answer, at `rate` Hz. Not for two threads at once.

    `head` is the exact header of a closed wav or flac, in place of the first bytes of the file; of
    other formats it is empty. The soundfile package opens no flac of unknown length. An encoder may
    be dropped without `close`: its FFmpeg threads end with it. Raises `ValueError` for a rate that
    the format does not have.
    """

    def __init__(self, format_name: str, rate: int) -> None:
        if rate not in FORMATS[format_name].rates:
            raise ValueError(f"{format_name} has no rate of {rate} Hz; codec_rate() finds one")
        self.head = b""
        self._name, self._rate = format_name, rate
        self._count = 0
        self._closed = False
        self._sink = _Sink()
        self._recipe = _RECIPES.get(format_name)
        if self._recipe is not None:
            self._open(self._recipe)
        if format_name == "wav":
            self._sink.write(wav_header(rate, None))

    def _open(self, recipe: _Recipe) -> None:
        # bitexact: no version strings and no random serials, so equal samples give equal bytes.
        options = {"fflags": "+bitexact", **recipe.muxer_options}
        self._container = av.open(self._sink, "w", format=recipe.muxer, options=options)
        # A container and its streams form a reference cycle. Without this, a dropped encoder and
        # its FFmpeg threads would live until the garbage collector runs.
        weakref.finalize(self, self._container.close).atexit = False
        options = {"flags": "+bitexact", **recipe.codec_options}
        self._stream = self._container.add_stream(recipe.codec, self._rate, options, layout="mono")
        self._stream.format = recipe.sample_format
        if recipe.bit_rate:
            self._stream.bit_rate = recipe.bit_rate
        self._container.start_encoding()

    def encode(self, samples: Samples) -> bytes:
        """Encodes the next (n,) samples and gives the bytes that are ready.

        The first call also gives the header. Raises `ValueError` after `close`.
        """
        if self._closed:
            raise ValueError("the encoder is closed")
        if len(samples):
            self._write(pcm16(samples))
            self._count += len(samples)
        return self._sink.take()

    def _write(self, pcm: NDArray[np.int16]) -> None:
        if self._recipe is None:
            self._sink.write(pcm.astype("<i2").tobytes())
            return
        data: NDArray[Any] = pcm
        if self._recipe.sample_format == "fltp":
            data = pcm * np.float32(self._recipe.gain / 32768)
        frame = av.AudioFrame.from_ndarray(data[np.newaxis], self._recipe.sample_format, "mono")
        frame.sample_rate = self._rate
        frame.pts = self._count
        self._container.mux(self._stream.encode(frame))

    def close(self) -> bytes:
        """The last bytes; empty when called again.

        Raises `SpeechError` when no sample was encoded, because no format has an empty file that
        all players open.
        """
        if self._closed:
            return b""
        self._closed = True
        if not self._count:
            raise SpeechError("there is no audio to encode")
        if self._name == "wav":
            self.head = wav_header(self._rate, self._count)
        if self._recipe is not None:
            packets = self._stream.encode(None)
            self._container.mux(packets)
            self._container.close()
            for packet in packets:
                if packet.has_sidedata("new_extradata"):  # of flac: STREAMINFO with count and MD5
                    streaminfo = bytes(packet.get_sidedata("new_extradata"))
                    self.head = _FLAC + streaminfo
        return self._sink.take()
