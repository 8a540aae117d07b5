"""Request voices: recordings that come with a request.

A recording is checked by decoding it. It is identified by its hash, and never stored under a name
that the caller chose.
"""

import hashlib
import threading
from pathlib import Path

from cachetools import LRUCache

from audio.recording import Unusable, decode
from request.errors import VoiceError
from voices.catalogue import Voice

_KEPT = 32  # decoded recordings, 2.9 MB each at most


class RequestVoices:
    """Decodes request voices and keeps the last few. Safe to share between threads."""

    def __init__(self) -> None:
        self._known: LRUCache[str, tuple[Voice, list[str]]] = LRUCache(_KEPT)
        self._lock = threading.Lock()

    def resolve(self, data: bytes, folder: Path, field: str) -> tuple[Voice, list[str]]:
        """The voice in an audio file's bytes, and warnings for the answer. Raises `VoiceError`.

        `folder` is a temporary folder of the request. `field` is the request's field in messages.
        """
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            if known := self._known.get(digest):
                return known
        # The decoder chooses wav and flac by the file's suffix.
        suffix = {b"RIFF": ".wav", b"fLaC": ".flac"}.get(data[:4], ".audio")
        file = folder / f"recording{suffix}"
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
