"""Uploaded voices: a recording in the voice folder, and a note with the consent beside it.

An upload is decoded first, and only its samples are stored, as `NAME.wav`. The note `NAME.json`
holds the consent. Only a voice with a note can be removed.

Path traversal: a name is checked before it becomes part of a path. A name to be removed is looked
up among the existing notes.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from audio.pcm import SAMPLE_RATE, Samples
from request.errors import VoiceError
from voices.files import folded

MOST_VOICES = 500
MOST_CONSENT = 500
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _.-]{0,62}[A-Za-z0-9_-])?")


@dataclass(frozen=True, slots=True)
class Note:
    """The note of an upload. `created_at` is Unix time in seconds."""

    name: str
    consent: str
    created_at: int


class VoiceStore:
    """The uploads in a voice folder. Safe to share between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def notes(self) -> dict[str, Note]:
        """All notes by folded name."""
        return {folded(note.name): note for note in self._notes()}

    def add(self, name: str, consent: str, samples: Samples, taken: set[str]) -> Note:
        """Stores a voice. Raises `VoiceError`.

        `samples` has the shape (n,), at `SAMPLE_RATE`. `taken` are the names of all voices.
        """
        import soundfile

        check_name(name)
        if not 1 <= len(consent.strip()) <= MOST_CONSENT:
            problem = "is too long" if consent.strip() else "is empty"
            allowed = f"1 to {MOST_CONSENT} characters that say who agreed"
            raise VoiceError(problem, "consent", allowed=allowed)
        with self._lock:
            if folded(name) in {folded(each) for each in taken}:
                raise VoiceError(f"there is a voice {name!r} already", "name")
            if len(self.notes()) >= MOST_VOICES:
                problem = f"there are {MOST_VOICES} voices already; remove one first"
                raise VoiceError(problem, "name")
            self._folder.mkdir(parents=True, exist_ok=True)
            note = Note(name, consent.strip(), int(time.time()))
            # The note first: a crash between the two writes leaves a note without a voice, which
            # `add` overwrites. The other order would leave a voice that cannot be removed.
            self._write(f"{name}.json", json.dumps(asdict(note)).encode())
            hidden = self._folder / f".{name}.{os.getpid()}.tmp"
            try:
                soundfile.write(hidden, samples, SAMPLE_RATE, "FLOAT", format="WAV")
                hidden.rename(self._folder / f"{name}.wav")
            finally:
                hidden.unlink(missing_ok=True)
        return note

    def remove(self, name: str) -> bool:
        """Removes an upload. False if there is none of this name."""
        with self._lock:
            note = self.notes().get(folded(name))
            if note is None:
                return False
            (self._folder / f"{note.name}.wav").unlink(missing_ok=True)
            (self._folder / f"{note.name}.json").unlink(missing_ok=True)
            return True

    def _write(self, name: str, data: bytes) -> None:
        hidden = self._folder / f".{name}.{os.getpid()}.tmp"
        hidden.write_bytes(data)
        hidden.rename(self._folder / name)

    def _notes(self) -> Iterator[Note]:
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.json")):
            if note := _read(path):
                yield note


def check_name(name: str) -> None:
    """Raises `VoiceError` for a name that no upload can have."""
    if not NAME.fullmatch(name):
        raise VoiceError(
            f"{name[:40]!a} cannot be a voice's name",
            "name",
            allowed="1 to 64 letters, digits, spaces, dots, dashes and underscores, the first a "
            "letter or digit",
        )


def _read(path: Path) -> Note | None:
    """The note in a JSON file; None if the file is no note of ours."""
    try:
        fields = json.loads(path.read_bytes()[:10_000])
        note = Note(str(fields["name"]), str(fields["consent"]), int(fields["created_at"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return note if note.name == path.stem and NAME.fullmatch(note.name) else None
