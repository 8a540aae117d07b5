"""Voice files: the recordings of a folder. Each is decoded once, and again if it changes.

Hidden files are ignored. A symbolic link to outside of the folder is never opened.
"""

import hashlib
import json
import re
import time
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

from cachetools import LRUCache

from audio.pcm import Samples
from audio.recording import EXTENSIONS, TooShort, Unreachable, Unusable, decode, probe
from request.values import MAX_NAME

_DECODED = 32  # recordings kept in memory, 2.9 MB each at most
_SETTLED_NS = 2_000_000_000  # a younger folder may change again without a new timestamp
_LANGUAGE = re.compile(r"^[a-z]{2}-(?=.)")
_Stamp = tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Something with a name and aliases, compared in any case."""

    name: str

    @property
    def key(self) -> str:
        """The name, folded."""
        return folded(self.name)

    @property
    def uploaded(self) -> bool:
        """Whether a caller uploaded it: then it speaks for those alone who ask for it by name."""
        return False

    @property
    def aliases(self) -> set[str]:
        """Folded names that mean it: of `en-Alice_woman` alice, alice_woman, en-alice, itself. An
        upload has its own name alone."""
        if self.uploaded:
            return {self.key}
        stems = (self.key, _LANGUAGE.sub("", self.key))
        parts = [stem.split("_") for stem in stems]
        return {"_".join(part[:n]) for part in parts for n in range(1, len(part) + 1)} - {""}

    @property
    def music(self) -> bool:
        """Whether the recording has background music, which the model imitates: listed last."""
        return "bgm" in self.key.split("_")


@dataclass(frozen=True, slots=True, eq=False)
class VoiceFile(Named):
    """A file with a recording. `fault` says why it is unusable, as the end of a sentence, or is "".
    `short`: it is unusable because it is too short. `stamp` is None if it must be probed again.
    `noted`: the note of an upload lies beside it."""

    path: Path
    stamp: _Stamp
    fault: str = ""
    short: bool = False
    noted: bool = False

    @property
    def uploaded(self) -> bool:
        return self.noted

    def failing(self, error: Unusable) -> "VoiceFile":
        """The same file, marked as unusable for this reason."""
        stamp = None if isinstance(error, Unreachable) else self.stamp
        return replace(self, stamp=stamp, fault=str(error), short=isinstance(error, TooShort))


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A decoded file: read-only samples of shape (n,), their hex digest, and remarks."""

    samples: Samples
    sha256: str
    remarks: tuple[str, ...]


class VoiceFolder:
    """The table of a folder's voice files. Not safe to share between threads by itself."""

    def __init__(self, path: Path) -> None:
        self.files: list[VoiceFile] = []
        self._path = path
        self._skipped: list[str] = []
        self._scanned: _Stamp = None
        self._decoded: LRUCache[tuple[Path, _Stamp], Recording] = LRUCache(_DECODED)

    @property
    def problems(self) -> list[str]:
        """A line for each unusable audio file, or for a folder that cannot be read."""
        faulty = (file for file in self.files if file.fault)
        return [*self._skipped, *(f"{file.path.name!r} {file.fault}" for file in faulty)]

    def refresh(self) -> None:
        """Reads the folder if it or one of its unusable files has changed."""
        stamp = _stamp(self._path)
        faulty = (file for file in self.files if file.fault)
        unchanged = self._scanned is not None and self._scanned == stamp
        if unchanged and all(_stamp(file.path) == file.stamp for file in faulty):
            return
        known = {(file.path, file.stamp): file for file in self.files}
        self.files, self._skipped, self._scanned = [], [], None
        try:
            paths = [p for p in self._path.iterdir() if p.suffix.lower() in EXTENSIONS]
        except FileNotFoundError:
            return  # a new machine has no folder, and no voices
        except OSError as error:
            self._skipped.append(f"the voice folder cannot be read: {error.strerror}")
            return
        if stamp and time.time_ns() - stamp[0] > _SETTLED_NS:
            self._scanned = stamp
        for path in paths:
            if problem := refusal(path.stem):
                self._skipped.append(f"{path.name[:60]!r} cannot be a voice: its name {problem}")
            elif not path.name.startswith("."):
                stamp = _stamp(path)
                self.files.append(known.get((path, stamp)) or self._probed(path, stamp))
        order = EXTENSIONS.index
        self.files.sort(key=lambda f: (f.music, f.key, f.name, order(f.path.suffix.lower())))

    def load(self, file: VoiceFile) -> Recording:
        """Decodes a file, or gives the kept samples if it is unchanged.

        Raises `Unusable`, and marks the file as such.
        """
        if file.fault:
            raise (TooShort if file.short else Unusable)(file.fault)
        source = (file.path, _stamp(file.path))
        if source not in self._decoded:
            try:
                samples, remarks = decode(file.path, self._path)
            except Unusable as error:
                faulty = replace(file, stamp=source[1]).failing(error)
                self.files[self.files.index(file)] = faulty
                raise
            samples.flags.writeable = False
            digest = hashlib.sha256(samples.tobytes()).hexdigest()
            self._decoded[source] = Recording(samples, digest, tuple(remarks))
        return self._decoded[source]

    def _probed(self, path: Path, stamp: _Stamp) -> VoiceFile:
        file = VoiceFile(unicodedata.normalize("NFC", path.stem), path, stamp)
        try:
            probe(path, self._path)
        except Unusable as error:
            return file.failing(error)
        return replace(file, noted=is_note(path.with_suffix(".json")))


MOST_NOTE_BYTES = 10_000


def is_note(path: Path) -> bool:
    """Whether a file is the note of an upload, or may be one that is damaged.

    Only JSON without a `consent` is certain to be something else.
    """
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(MOST_NOTE_BYTES))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(fields, dict) and "consent" in fields


def refusal(name: str) -> str:
    """Why nothing can have this name, as the end of a sentence; "" if something can."""
    if len(name) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return "contains control characters"
    return ""


def folded(name: str) -> str:
    """A name for comparison: case-folded and in NFC."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _stamp(path: Path) -> _Stamp:
    """Time of the last change in ns, and size in bytes; None if the path does not exist."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size
