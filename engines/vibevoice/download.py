"""Atomic downloads from the Hugging Face hub into a cache of the hub's own layout.

A commit's files are downloaded to `.COMMIT.part`, where a later attempt resumes. The folder is
renamed to `snapshots/COMMIT` once all files have their full size and `check` has passed. Only then
does `refs/REVISION` name the commit. So the hub is asked for a revision once, and a kill at any
moment leaves no half model. Single-flight: a file lock lets one process download, and others wait.
"""

import errno
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from request.errors import EngineError

REPORT_SEC = 15.0
COMMIT = re.compile("[0-9a-f]{40}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM_TEXT = re.compile("no space left|quota exceeded|os error (28|122)", re.IGNORECASE)
_GB = 1e9

log = logging.getLogger("vibevoice")


class NoRoom(EngineError):
    """The disk or the volume's quota has no room for the download."""


def download(
    name: str,
    setting: str,
    files: Sequence[str],
    cache: Path,
    check: Callable[[Path], object],
    revision: str = "main",
    token: str | None = None,
) -> Path:
    """Downloads a model's `files` (glob patterns), and gives the snapshot's folder.

    `setting` names the model in messages. `check` gets the folder of a complete download; what it
    raises is passed on. Raises `EngineError`.
    """
    from filelock import FileLock
    from huggingface_hub import snapshot_download

    try:
        commit, sizes = _ask(name, files, revision, token)
        root = cache / f"models--{name.replace('/', '--')}"
        final, part = root / "snapshots" / commit, root / f".{commit}.part"
        locks = cache / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        # The hub library locks single files only. Another worker must not rename the folder.
        with FileLock(locks / f"{root.name}.download"):
            if not _is_there(final, part, check):
                part.mkdir(parents=True, exist_ok=True)
                size = sum(sizes.values())
                _check_room(part, size, name)
                log.info("%s: downloading %s, %s", setting, name, _gb(size))
                _drop_torn_notes(part)
                with _reporting(part, size, setting):
                    snapshot_download(
                        name, revision=commit, local_dir=part, token=token,
                        allow_patterns=list(files),
                    )  # fmt: skip
                _publish(part, final, sizes, check)
            if not COMMIT.fullmatch(revision):
                _name(root / "refs" / revision, commit)
    except NoRoom:
        raise
    except (OSError, ValueError, RuntimeError) as problem:  # bases of the library's own errors
        if _is_no_room(problem):
            raise NoRoom(f"{setting}: no space for {name}: {_text(problem)}") from problem
        log.warning("%s: the download of %s failed: %s", setting, name, _text(problem))
        raise EngineError(
            f"{setting}: {name} is on no disk of this worker and its download failed:"
            f" {_meaning(problem, revision, bool(token))}"
        ) from problem
    return final


def _ask(
    name: str, files: Sequence[str], revision: str, token: str | None
) -> tuple[str, dict[str, int]]:
    """Asks the hub for a revision: its commit, and its files with their sizes in bytes."""
    from huggingface_hub import HfApi

    info = HfApi(token=token).model_info(name, revision=revision, files_metadata=True)
    return str(info.sha), {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if any(fnmatch(file.rfilename, pattern) for pattern in files)
    }


def _is_there(final: Path, part: Path, check: Callable[[Path], object]) -> bool:
    """Whether another process has finished the download. A damaged snapshot becomes `part`."""
    if not final.is_dir():
        return False
    try:
        check(final)
    except EngineError:
        set_aside(final, part)
        return False
    return True


def set_aside(final: Path, part: Path) -> None:
    """Moves a damaged snapshot to `part`. The library compares hashes and keeps its good files."""
    if part.exists():
        shutil.rmtree(final)
    else:
        final.rename(part)


def _check_room(part: Path, size: int, name: str) -> None:
    have = _bytes_in(part)
    free = shutil.disk_usage(part).free  # a network volume reports its cluster's, not the quota's
    if size - have > free:
        raise NoRoom(f"no space for {name}: it needs {_gb(size - have)} and {_gb(free)} are free")


def _drop_torn_notes(part: Path) -> None:
    """Removes half-written metadata files. huggingface_hub 0.36 fails on them (its issue 3609)."""
    for note in (part / ".cache").rglob("*.metadata"):
        if note.read_bytes().count(b"\n") < 3:
            note.unlink()


def _publish(
    part: Path, final: Path, sizes: Mapping[str, int], check: Callable[[Path], object]
) -> None:
    short = [name for name, size in sizes.items() if not _is_whole(part / name, size)]
    if short or not sizes:
        raise OSError(errno.EIO, f"files are missing or cut off: {', '.join(short) or 'all'}")
    shutil.rmtree(part / ".cache", ignore_errors=True)  # the library's metadata for resuming
    check(part)
    for name in sizes:
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
    final.parent.mkdir(exist_ok=True)
    part.rename(final)


def _is_whole(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _name(ref: Path, commit: str) -> None:
    ref.parent.mkdir(parents=True, exist_ok=True)
    fresh = ref.with_name(f".{ref.name}.{os.getpid()}")
    fresh.write_text(commit)
    fresh.replace(ref)


@contextmanager
def _reporting(part: Path, size: int, setting: str) -> Iterator[None]:
    """Logs the progress of a download. The library's own bars are unreadable in a log."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    ended = threading.Event()

    def report() -> None:
        before, start = _bytes_in(part), time.monotonic()
        while not ended.wait(REPORT_SEC):
            have = _bytes_in(part)
            rate = (have - before) / (time.monotonic() - start) / 1e6
            log.info("%s: %s of %s, %.0f MB/s", setting, _gb(have), _gb(size), rate)

    reporter = threading.Thread(target=report, name="download", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:  # renamed since it was listed
                continue
    return total


def _gb(size: float) -> str:
    return f"{size / _GB:.2f} GB"


def _is_no_room(problem: BaseException) -> bool:
    number = getattr(problem, "errno", None)
    return number in _NO_ROOM or bool(_NO_ROOM_TEXT.search(str(problem)))


def _text(problem: BaseException) -> str:
    text = re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", str(problem))  # a query may hold a signature
    lines = text.strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:200]}" if lines else type(problem).__name__


def _meaning(problem: Exception, revision: str, with_token: bool) -> str:
    """What the user can do about an error. The library's text is left out: it may hold paths."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RevisionNotFoundError
    from requests.exceptions import RequestException

    response = getattr(problem, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(problem, RevisionNotFoundError):
        return f"it has no revision {revision!r} (404); check MODEL_REVISION"
    if isinstance(problem, GatedRepoError) and with_token:
        return f"HF_TOKEN's account has not accepted its terms ({status}); do so on its page"
    if status == 401:
        return (
            "the hub refuses HF_TOKEN (401); make a new one, or unset it for a public model"
            if with_token
            else "it does not exist or is private (401); check the name or set HF_TOKEN"
        )
    if status == 403:
        return "HF_TOKEN may not read it (403); give the token that right, or take another"
    if status == 404:
        seen_by = "HF_TOKEN's account sees" if with_token else "there is"
        return f"{seen_by} no model of that name (404); check the name"
    if status is not None:
        return f"the hub answered {status}; try again later"
    if isinstance(problem, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids it"
    if isinstance(problem, RequestException | ConnectionError | TimeoutError):
        return "no network, or the hub is not to be reached"
    return (
        f"{type(problem).__name__}; check the name, the network and the space on the volume, and"
        " set HF_TOKEN if it is a private model"
    )
