"""Where models lie: folders, caches in the layout of the Hugging Face hub, and the hub itself.

What is complete on a disk is used without asking the network.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speech.errors import EngineError

PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")
"""Where RunPod puts the model that an endpoint names in its `Model` field."""

_ID = re.compile(r"[a-z0-9][\w.-]{0,95}(?:/[a-z0-9][\w.-]{0,95})?", re.ASCII | re.IGNORECASE)

log = logging.getLogger("vibevoice")


class Incomplete(EngineError):
    """A folder lacks files of the model that it should hold."""


@dataclass(frozen=True, slots=True)
class Hub:
    """`caches` have the hub's own layout and are searched in order, `models` has a folder for each
    model; downloads go to `download_to` (None: the hub library's own cache)."""

    caches: tuple[Path, ...] = ()
    models: Path | None = None
    download_to: Path | None = None
    token: str | None = None

    def find(
        self, name: str, setting: str, check: Callable[[Path], object], files: Sequence[str]
    ) -> Path:
        """The folder of a model, downloaded if need be: then `files` (patterns) are fetched.

        See `local`. Raises `EngineError`.
        """
        folder = self.local(name, setting, check)
        if folder is None:
            folder = self._download(name, setting, files)
            check(folder)
            log.info("%s: downloaded to %s", setting, folder)
        return folder

    def local(self, name: str, setting: str, check: Callable[[Path], object]) -> Path | None:
        """The folder of a model that is on this machine's disks, else None. `name` is a folder or a
        hub id, `setting` what it is called in messages. `check` raises `Incomplete` for a folder
        that a download would complete. Raises `EngineError`."""
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            check(folder)
            log.info("%s: the folder %s", setting, folder)
            return folder
        if not _ID.fullmatch(name):
            raise EngineError(f"{setting} is neither a folder that exists nor a hub id (ORG/NAME)")
        for candidate in self._candidates(name):
            try:
                check(candidate)
            except Incomplete as problem:
                log.warning("%s: %s is passed over: %s", setting, candidate, problem)
            else:
                log.info("%s: found in %s", setting, candidate)
                return candidate
        return None

    def _candidates(self, name: str) -> list[Path]:
        found = [snapshot(cache, name) for cache in self.caches]
        if self.models is not None:
            found.append(self.models / name.rpartition("/")[2])
        return [folder for folder in found if folder is not None and folder.is_dir()]

    def _download(self, name: str, setting: str, files: Sequence[str]) -> Path:
        from huggingface_hub import snapshot_download

        log.info("%s: downloading %s", setting, name)
        try:
            folder = snapshot_download(
                name, cache_dir=self.download_to, token=self.token, allow_patterns=list(files)
            )
        except (OSError, ValueError) as problem:  # the library's own errors are either
            log.warning("%s: the download of %s failed: %s", setting, name, problem)
            raise EngineError(
                f"{setting}: {name} is on no disk of this worker and its download failed"
                f" ({type(problem).__name__}): check the name, the network and the space on the"
                " volume, and set HF_TOKEN if it is a private model"
            ) from problem
        return Path(folder)


def snapshot(cache: Path, name: str) -> Path | None:
    """A model's folder in a hub cache: the snapshot of `main`, else the newest one."""
    root = cache / f"models--{name.replace('/', '--')}"
    main = root / "refs" / "main"
    if main.is_file():
        named = root / "snapshots" / main.read_text().strip()
        if named.is_dir():
            return named
    snapshots = [folder for folder in root.glob("snapshots/*") if folder.is_dir()]
    return max(snapshots, key=lambda folder: folder.stat().st_mtime, default=None)


def revision(folder: Path) -> str | None:
    """The commit of a snapshot in a hub cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None
