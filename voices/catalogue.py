"""Catalogue of voices: finds the recording that a name means, in a folder of recordings.

Path traversal: a name is looked up in the table of found files, and never joined to a path. Of
several files with one stem, the first in the order of `EXTENSIONS` counts.
"""

import copy
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio.pcm import Samples
from audio.recording import TooShort, Unusable
from request.errors import VoiceError
from voices.files import Named, VoiceFile, VoiceFolder, folded, refusal

_LISTED = 10  # names in a message


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A voice by name, with the recording to clone it from.

    `samples` has the shape (n,): mono float32 at `SAMPLE_RATE`. It is None for an engine's own
    voice. `sha256` is the hex digest of the samples' bytes, or "" without samples.
    """

    name: str
    samples: Samples | None = None
    sha256: str = ""


NO_VOICE = Voice("none")
"""Stands for the model's own default voice, if there are no recordings."""


class VoiceMapper:
    """The voices of a folder by name, and an engine's own (`builtin`) under the remaining names.

    A name means, in this order and in any case:

    1. the voice whose file's stem it is;
    2. a voice of which it is an alias: the stem without language prefix or suffixes;
    3. the voice that `others` maps it to, such as one of OpenAI's names;
    4. a voice whose stem contains it.

    An upload is nobody else's voice, since its speaker agreed to that one name. It is meant by its
    stem alone, and never by one of `others`; it is neither the default nor a fallback.

    Where the engine does not clone (`clones` False), its own voices are all that is offered, and
    come first. A recording is found by its name alone, for the engine to refuse with its reason.

    Safe to share between threads. Calls read files, so they must not run in an event loop.
    """

    def __init__(
        self,
        directory: Path,
        *,
        default: str,
        builtin: Sequence[str] = (),
        strict: bool = False,
        others: Mapping[str, str] | None = None,
        clones: bool = True,
    ) -> None:
        self._default = default
        self._builtin = [Named(name) for name in builtin]
        self._strict = strict
        self._clones = clones or not builtin
        self._others = {folded(name): voice for name, voice in (others or {}).items()}
        self._folder = VoiceFolder(directory)
        self._lock = threading.RLock()

    def beside(self, builtin: Sequence[str], *, clones: bool = True) -> "VoiceMapper":
        """The same folder's voices beside those of another engine. Both share what is decoded."""
        other = copy.copy(self)
        other._builtin = [Named(name) for name in builtin]
        other._clones = clones or not builtin
        return other

    def setup_voice_presets(self) -> dict[str, Path]:
        """The usable files by voice name. Reads the folder again if it has changed."""
        with self._lock:
            self._folder.refresh()
            presets: dict[str, Path] = {}
            for file in self._folder.files:
                if not file.fault:
                    presets.setdefault(file.name, file.path)
            return presets

    def get_voice_path(self, name: str) -> Path | None:
        """The usable file that `name` means, exactly or in part; None if there is none."""
        if refusal(name):
            return None
        with self._lock:
            self._folder.refresh()
            for entry in (entry for tier in self._matches(name) for entry in tier):
                if isinstance(entry, VoiceFile) and not entry.fault:
                    return entry.path
        return None

    def names(self, uploads: bool = True) -> tuple[str, ...]:
        """All names of voices, or those of voices that anybody may be given."""
        with self._lock:
            self._folder.refresh()
            return self._names(uploads)

    def versions(self) -> dict[str, str]:
        """For each voice with a file, a text that changes when the file does."""
        with self._lock:
            self._folder.refresh()
            files = [file for file in self._folder.files if file.stamp and not file.fault]
            return {file.name: "-".join(f"{part:x}" for part in file.stamp or ()) for file in files}

    def rival(self, name: str) -> str | None:
        """The voice that shares a name or alias with a new voice `name`; None if there is none.

        Of uploads only the same name counts, and all of OpenAI's names are taken.
        """
        new = Named(name)
        if new.key in self._others:
            return name
        with self._lock:
            self._folder.refresh()
            for entry in dict.fromkeys([*self._offered(), *self._builtin]):
                if entry.aliases & ({new.key} if entry.uploaded else new.aliases):
                    return entry.name
        return None

    def problems(self) -> list[str]:
        """A line for each unusable audio file, or for a folder that cannot be read."""
        with self._lock:
            self._folder.refresh()
            return self._folder.problems

    def resolve(self, name: str | None, field: str = "speaker_name") -> tuple[Voice, list[str]]:
        """The voice that `name` means, and warnings for the answer.

        None and "" mean the default voice. `field` is the request's field in messages. Raises
        `VoiceError` for an impossible name and for a recording that is too short. With `strict` it
        also raises it for a name without a usable voice.
        """
        asked = name or ""
        if problem := refusal(asked):
            raise VoiceError(f"{_shown(asked)} cannot be a voice: it {problem}", field)
        named = bool(asked.strip())
        asked = asked.strip() or self._default
        notes: list[str] = []
        with self._lock:
            self._folder.refresh()
            meant = self._others.get(folded(asked))
            exact, alias, partial = self._matches(asked, uploads=named and not meant)
            if not exact and not alias and meant:
                exact, alias, others = self._matches(meant, uploads=False)
                partial = partial if not (exact or alias) else others
            for entry in (*exact, *alias, *partial):
                if not (named or self._clones or entry in self._builtin):
                    continue
                try:
                    voice, remarks = self._load(entry)
                except Unusable as error:
                    if named and entry not in partial:
                        problem = f"{_subject(entry, error)} {error}"
                        if self._strict or isinstance(error, TooShort):
                            raise VoiceError(problem, field) from error
                        notes.append(problem)
                    continue
                if named and entry in partial:
                    notes.append(f"{_shown(asked)} is taken for {_shown(voice.name)}")
                elif named and (rivals := _rivals(entry, alias)):
                    fits = f"{_shown(asked)} also fits {_listed(rivals)}"
                    notes.append(f"{fits}; {_shown(voice.name)} speaks")
                break
            else:
                if named and self._strict:
                    problem = f"no voice {_shown(asked)} ({self._available()})"
                    raise VoiceError(problem, field, code="voice_not_found")
                voice, remarks = self._first()
                speaker = "the model's own" if voice is NO_VOICE else _shown(voice.name)
                kind = "voice" if named else "default voice"
                notes.append(f"no {kind} {_shown(asked)}; {speaker} speaks ({self._available()})")
        notes += (f"voice {_shown(voice.name)} {remark}" for remark in remarks)
        return voice, [f"{field}: {note}" for note in notes]

    def _matches(
        self, name: str, uploads: bool = True
    ) -> tuple[list[Named], list[Named], list[Named]]:
        """Voices with this name, voices with this alias, and usable voices that contain it."""
        key = folded(name.strip())
        offered = self._offered(uploads=False)
        files = [file for file in self._folder.files if uploads or not file.uploaded]
        pool = list(dict.fromkeys([*files, *offered]))
        exact = sorted((e for e in pool if e.key == key), key=lambda e: e.name != name.strip())
        alias = [e for e in pool if e.key != key and key in e.aliases]
        partial = [e for e in offered if len(key) > 1 and key in e.key and e not in exact + alias]
        word = re.compile(rf"(?<![^\W_]){re.escape(key)}")  # "man": Carter_man before Alice_woman
        partial.sort(key=lambda e: (e.music, not word.search(e.key)))
        return exact, alias, partial

    def _offered(self, uploads: bool = True) -> Sequence[Named]:
        files = [f for f in self._folder.files if not f.fault and (uploads or not f.uploaded)]
        answered = {alias for file in files for alias in file.aliases}
        return [*files, *(entry for entry in self._builtin if entry.key not in answered)]

    def _names(self, uploads: bool = True) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.name for entry in self._offered(uploads)))

    def _available(self) -> str:
        names = self._names(uploads=False)
        return f"available: {_listed(names)}" if names else "there are no voice files"

    def _load(self, entry: Named) -> tuple[Voice, tuple[str, ...]]:
        if not isinstance(entry, VoiceFile):
            return Voice(entry.name), ()
        recording = self._folder.load(entry)
        return Voice(entry.name, recording.samples, recording.sha256), recording.remarks

    def _first(self) -> tuple[Voice, tuple[str, ...]]:
        while offered := self._offered(uploads=False):
            try:
                return self._load(offered[0])
            except Unusable:
                continue  # `load` marked the file as unusable, so `_offered` omits it
        return NO_VOICE, ()


def _rivals(entry: Named, alias: list[Named]) -> list[str]:
    """The names of other voices with the same alias."""
    others = alias[alias.index(entry) + 1 :] if entry in alias else []
    return [e.name for e in others if e.music == entry.music and e.key != entry.key]


def _subject(entry: Named, error: Unusable) -> str:
    if isinstance(entry, VoiceFile) and not isinstance(error, TooShort):
        return f"file {_shown(entry.path.name)}"
    return f"voice {_shown(entry.name)}"


def _shown(name: str) -> str:
    return repr(_cut(name))


def _listed(names: Sequence[str]) -> str:
    more = ["..."] if len(names) > _LISTED else []
    return ", ".join([*map(_cut, names[:_LISTED]), *more])


def _cut(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}..."
