"""espeak-ng by ctypes, from the package espeakng-loader (library and data, no system package).

The C library has global state and is not thread-safe. So it is loaded once in a process and used by
one thread at a time: call `say` and `phonemes` only while holding its `PriorityLock`. Nothing else
in the process may use it. What comes out depends on the arguments alone, never on earlier calls.
"""

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from engines.priority_lock import PriorityLock
from request.errors import EngineError

_VOLUME = 60  # espeak's default of 100 drives Mandarin to 1.4 times full scale, into its limiter
_BUFFER_MS = 500  # milliseconds of speech between two checks of `cancelled`: below 1 ms of work

# Constants of espeak's C API: synchronous output, no exit() where data is missing, UTF-8, a pause
# at the end as after any sentence, and the parameter of the volume.
_SYNCHRONOUS, _STAY, _UTF8, _END_PAUSE, _VOLUME_PARAMETER = 2, 0x8000, 1, 0x1000, 2
_IPA = 2

# This voice speaks before every text, and its audio is dropped. The beginning of some texts (single
# letters in Burmese and Thai) depends on the sound before, which must not be another request's.
_PRIMER = "gmw/en-US"

_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Library:
    """The loaded library. `rate` is the rate of its samples in Hz. Only `load` makes it, once."""

    def __init__(self) -> None:
        import espeakng_loader

        self.line = PriorityLock()
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self._data = Path(espeakng_loader.get_data_path())
        self.rate: int = self._lib.espeak_Initialize(
            _SYNCHRONOUS, _BUFFER_MS, os.fsencode(self._data), _STAY
        )
        if self.rate <= 0:
            raise OSError("espeak-ng finds its data unusable")
        self._lib.espeak_SetParameter(_VOLUME_PARAMETER, _VOLUME, 0)
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._callback = _Callback(self._collect)
        self._lib.espeak_SetSynthCallback(self._callback)
        # Both stay open as long as the library lives.
        self._voice_file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._primer_file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._primer_file.write(self._voice(_PRIMER))
        self._made: list[bytes] = []
        self._stopped: Callable[[], bool] = bool

    def say(
        self,
        text: str,
        language: str,
        variant: str,
        pitch: tuple[int, int],
        seed: int,
        cancelled: threading.Event,
    ) -> NDArray[np.int16]:
        """Speaks a text without control characters; gives 16-bit samples, shape (n,).

        `language` and `variant` are files of espeak's data. `pitch` is (base, top) in Hz. Once
        `cancelled` is set, the samples so far are given.
        """
        self._stopped = cancelled.is_set
        self._prime("hi")
        self._write_voice(self._voice(language, variant, pitch))
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed & 0x7FFFFFFF))
        self._synthesise(text)
        pcm = np.frombuffer(b"".join(self._made), np.int16)
        self._made.clear()
        return pcm

    def phonemes(self, text: str, language: str) -> str:
        """The International Phonetic Alphabet of a text without control characters.

        `language` is a file of espeak's data. Its clauses are joined with spaces; punctuation and
        the marks of words in another language are left out.
        """
        self._stopped = bool
        self._prime("")  # else what a cancelled text left unread would be read here
        self._write_voice(self._voice(language))
        utf8 = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(utf8))
        clauses: list[str] = []
        while rest.value:
            clause = self._lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
            clauses.append(_LANGUAGE_SWITCH.sub("", clause.decode()))
        return " ".join(clauses)

    @cache  # noqa: B019 - there is one library, and each file read would wait for the GIL
    def _voice(
        self, language: str, variant: str = "m3", pitch: tuple[int, int] = (80, 120)
    ) -> bytes:
        """The bytes of a voice file for espeak.

        Flutter (a wobble of the pitch) and roughness use counters that espeak never resets. With
        them the samples would depend on earlier calls. Only a voice file can turn them off.
        """
        return b"%s\n%s\npitch %d %d\nflutter 0\nroughness 8\n" % (
            (self._data / "lang" / language).read_bytes(),
            (self._data / "voices" / "!v" / variant).read_bytes(),
            *pitch,
        )

    def _write_voice(self, voice: bytes) -> None:
        os.pwrite(self._voice_file.fileno(), voice, 0)
        os.ftruncate(self._voice_file.fileno(), len(voice))
        self._set_voice(self._voice_file)

    def _set_voice(self, file: BinaryIO) -> None:
        # By file descriptor, because espeak cuts a path at 60 bytes and lowercases it.
        if self._lib.espeak_SetVoiceByFile(b"/dev/fd/%d" % file.fileno()):
            raise EngineError("espeak-ng does not take the preview voice's file")

    def _prime(self, text: str) -> None:
        self._set_voice(self._primer_file)
        self._synthesise(text)
        self._made.clear()

    def _synthesise(self, text: str) -> None:
        utf8 = text.encode()
        flags = _UTF8 | _END_PAUSE
        if self._lib.espeak_Synth(utf8, len(utf8) + 1, 0, 1, 0, flags, None, None):
            raise EngineError("the preview voice could not speak this text")

    def _collect(self, wave: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if wave and count:
            self._made.append(ctypes.string_at(wave, 2 * count))
        return self._stopped()


_library = cache(Library)
_loading = threading.Lock()


def load() -> Library:
    """The library of this process. Raises `EngineError` where it or its data is missing."""
    try:
        with _loading:
            return _library()
    except (ImportError, OSError, RuntimeError) as problem:
        raise EngineError(
            "the preview voice needs the Python package espeakng-loader, which is missing or"
            " damaged: run `pip install --force-reinstall espeakng-loader`"
        ) from problem
