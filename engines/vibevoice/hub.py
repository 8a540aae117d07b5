"""Finds models in folders, in caches of the Hugging Face hub's layout, and on the hub.

A model that is complete on a disk is used without any network access.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from engines.vibevoice.download import COMMIT, download
from request.errors import EngineError

PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")
"""Where RunPod puts the model that an endpoint names in its `Model` field."""

_ID = re.compile(r"[a-z0-9][\w.-]{0,95}(?:/[a-z0-9][\w.-]{0,95})?", re.ASCII | re.IGNORECASE)

log = logging.getLogger("vibevoice")


class Incomplete(EngineError):
    """A folder lacks files of the model that it should hold."""


@dataclass(frozen=True, slots=True)
class Hub:
    """The places of models.

    `caches` have the hub's own layout and are searched in order. `models` has a folder for each
    model. Downloads go to `download_to`; None means the hub library's own cache.
    """

    caches: tuple[Path, ...] = ()
    models: Path | None = None
    download_to: Path | None = None
    token: str | None = None

    @classmethod
    def of(
        cls,
        volume: Path | None,
        hub_cache: Path | None = None,
        token: str | None = None,
        platform_cache: Path = PLATFORM_CACHE,
        more: Sequence[Path] = (),
    ) -> Self:
        """The usual places.

        It searches the platform's cache, `hub_cache`, the volume's `hf_cache` and `more`, then the
        volume's `models`. It downloads to `hub_cache`, else to the volume.
        """
        own = volume / "hf_cache" if volume else None
        return cls(
            caches=tuple(cache for cache in (platform_cache, hub_cache, own, *more) if cache),
            models=volume / "models" if volume else None,
            download_to=hub_cache or own,
            token=token,
        )

    def find(
        self,
        name: str,
        setting: str,
        check: Callable[[Path], object],
        files: Sequence[str],
        revision: str = "main",
    ) -> Path:
        """The folder of a model. Where no disk has it, `files` (glob patterns) are downloaded.

        See `local` for the arguments. Raises `EngineError`.
        """
        folder = self.local(name, setting, check, revision)
        if folder is None:
            folder = download(name, setting, files, self._downloads(), check, revision, self.token)
            log.info("%s: downloaded to %s", setting, folder)
        return folder

    def _downloads(self) -> Path:
        if self.download_to is not None:
            return self.download_to
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE)

    def local(
        self, name: str, setting: str, check: Callable[[Path], object], revision: str = "main"
    ) -> Path | None:
        """The folder of a model that is on this machine's disks, else None.

        `name` is a folder or a hub id. `setting` names it in messages. `check` raises `Incomplete`
        for a folder that a download would complete. `revision` applies to caches only, because a
        folder holds one revision. Raises `EngineError`.
        """
        folder = Path(name)
        with contextlib.suppress(RuntimeError):  # `~NAME` of a user whom this machine does not know
            folder = folder.expanduser()
        if name and folder.is_dir():
            check(folder)
            log.info("%s: the folder %s", setting, folder)
            return folder
        if not _ID.fullmatch(name):
            raise EngineError(f"{setting} is neither a folder that exists nor a hub id (ORG/NAME)")
        for candidate in self._candidates(name, revision):
            try:
                check(candidate)
            except Incomplete as problem:
                log.warning("%s: %s is passed over: %s", setting, candidate, problem)
            else:
                log.info("%s: found in %s", setting, candidate)
                return candidate
        return None

    def _candidates(self, name: str, revision: str) -> list[Path]:
        found = [snapshot(cache, name, revision) for cache in self.caches]
        if self.models is not None:
            found.append(self.models / name.rpartition("/")[2])
        return [folder for folder in found if folder is not None and folder.is_dir()]


def snapshot(cache: Path, name: str, revision: str = "main") -> Path | None:
    """A model's folder in a hub cache: the snapshot of a commit, branch or tag, or None.

    Where no ref names the commit of `main`, it is the newest snapshot.
    """
    root = cache / f"models--{name.replace('/', '--')}"
    ref = root / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    if COMMIT.fullmatch(commit) and (root / "snapshots" / commit).is_dir():
        return root / "snapshots" / commit
    if revision != "main":
        return None
    snapshots = [folder for folder in root.glob("snapshots/*") if folder.is_dir()]
    return max(snapshots, key=lambda folder: folder.stat().st_mtime, default=None)


def commit_of(folder: Path) -> str | None:
    """The commit of a snapshot in a hub cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None
