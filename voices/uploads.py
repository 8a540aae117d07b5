"""Uploaded voices: a recording in the voice folder, and a note with the consent beside it.

An upload is decoded first, and only its samples are stored, as `NAME.wav`. The note `NAME.json`
holds the consent. Only a voice with a note can be removed. Other people's JSON files are skipped;
`problems` names what is skipped and what a killed process left.

Path traversal: a name is checked before it becomes part of a path. A name to be removed is looked
up among the existing notes.
"""

import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from audio.pcm import SAMPLE_RATE, Samples
from request.errors import VoiceError
from voices.files import MOST_NOTE_BYTES, folded

MOST_VOICES = 500
MOST_CONSENT = 500
_OLD_SEC = 3600
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
        """The notes of all uploads that have a recording, by folded name."""
        return {folded(note.name): note for note in self._notes() if self._voice(note).is_file()}

    def problems(self) -> list[str]:
        """A line for each JSON file that is no note, and for each note without a recording."""
        notes = {note.name: note for note in self._notes()}
        lines = []
        for path in sorted(self._folder.glob("*.json")):
            note = notes.get(path.stem)
            if note is None:
                lines.append(f"{path.name[:60]!r} is no note of an uploaded voice")
            elif not self._voice(note).is_file():
                lines.append(f"{path.name[:60]!r} is a note without a recording")
        return lines

    def add(self, name: str, consent: str, samples: Samples, taken: set[str]) -> Note:
        """Stores a voice, whole or not at all. Raises `VoiceError`, and OSError for a full volume.

        `samples` has the shape (n,), at `SAMPLE_RATE`. `taken` are the names of all voices.
        """
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
            self._sweep()
            note = Note(name, consent.strip(), int(time.time()))
            # The note first: a crash between the two writes leaves a note without a voice, which
            # `add` overwrites. The other order would leave a voice that cannot be removed.
            self._write(self._note(note), json.dumps(asdict(note)).encode())
            try:
                self._write(self._voice(note), _wav(samples))
            except BaseException:
                self._note(note).unlink(missing_ok=True)
                raise
        return note

    def remove(self, name: str) -> bool:
        """Removes an upload. False if there is none of this name."""
        with self._lock:
            note = {folded(each.name): each for each in self._notes()}.get(folded(name))
            if note is None:
                return False
            self._voice(note).unlink(missing_ok=True)
            self._note(note).unlink(missing_ok=True)
            return True

    def _voice(self, note: Note) -> Path:
        return self._folder / f"{note.name}.wav"

    def _note(self, note: Note) -> Path:
        return self._folder / f"{note.name}.json"

    def _write(self, path: Path, data: bytes) -> None:
        hidden = self._folder / f".{path.name}.{os.getpid()}.tmp"
        try:
            with hidden.open("wb") as file:
                file.write(data)
                os.fsync(file.fileno())  # a network volume tells only here that it is full
            hidden.rename(path)
        finally:
            hidden.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Removes files that a killed process was writing: no write takes an hour."""
        for hidden in self._folder.glob(".*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - hidden.stat().st_mtime > _OLD_SEC:
                    hidden.unlink()

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


def _wav(samples: Samples) -> bytes:
    import soundfile

    # Into memory, 3 MB at most: on a full volume libsndfile leaves a file that is cut short.
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, "FLOAT", format="WAV")
    return file.getvalue()


def _read(path: Path) -> Note | None:
    """The note in a JSON file; None if the file is no note of ours."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(MOST_NOTE_BYTES))
        note = Note(str(fields["name"]), str(fields["consent"]), int(fields["created_at"]))
    # RecursionError: a nesting of thousands of levels. OverflowError: `created_at` is 1e999.
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return note if note.name == path.stem and NAME.fullmatch(note.name) else None
