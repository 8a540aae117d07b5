"""Voices that come with a request instead of lying in the folder.

What a caller sends is checked by decoding it. It is known by its hash and never stored under a name
of the caller's.
"""

import hashlib
import threading
from pathlib import Path

from cachetools import LRUCache

from audio.recording import Unusable, decode
from request.errors import VoiceError
from voices.catalogue import Voice

_KEPT = 32


class RequestVoices:
    """Decoded guests, the last few of them. Safe to share between threads."""

    def __init__(self) -> None:
        self._known: LRUCache[str, tuple[Voice, list[str]]] = LRUCache(_KEPT)
        self._lock = threading.Lock()

    def resolve(self, data: bytes, folder: Path, field: str) -> tuple[Voice, list[str]]:
        """The voice in a recording's bytes, and warnings for the answer. `folder` is a temporary
        one of the request's; `field` is what messages call the recording. Raises `VoiceError`."""
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            if known := self._known.get(digest):
                return known
        # Where the format is wav or flac the decoder goes by the name.
        suffix = {b"RIFF": ".wav", b"fLaC": ".flac"}.get(data[:4], ".audio")
        file = folder / f"guest{suffix}"
        file.write_bytes(data)
        try:
            samples, remarks = decode(file, folder)
        except Unusable as problem:
            raise VoiceError(f"the recording {problem}", field) from problem
        finally:
            file.unlink()
        samples.flags.writeable = False
        voice = Voice(
            f"guest-{digest[:12]}", samples, hashlib.sha256(samples.tobytes()).hexdigest()
        )
        known = (voice, [f"{field}: the recording {remark}" for remark in remarks])
        with self._lock:
            self._known[digest] = known
        return known
