"""How a finished answer reaches its caller: as a link or inline, with a copy on the volume.

A finished result is never lost: what is too large to be sent stays in the output folder, and the
error says under which name. Messages name files relative to the volume, never by a full path.
"""

import base64
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speech import s3
from speech.bucket import Bucket
from speech.errors import Cancelled, DeliveryError

INLINE_LIMIT = 7 * 1024 * 1024
"""Bytes of audio that fit into an answer: RunPod refuses a result of /run above 10 MB, a worker
cannot see how a job came, and base64 adds a third."""
FACTS_LIMIT = 200_000
"""Bytes that are left for all else in an answer. A stream's last item has no more either."""

_OURS = re.compile(r"[A-Za-z0-9._-]{1,64}_[0-9a-f]{32}\.[a-z0-9]{2,5}(?:\.part)?")


@dataclass(frozen=True, slots=True)
class Outputs:
    """The folder that keeps copies, and for how long."""

    folder: Path
    save: bool = True
    retention_days: float = 2


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the answer says about its audio, and what went wrong on the way."""

    fields: dict[str, str]
    warnings: tuple[str, ...] = ()


def deliver(
    audio: Path,
    owner: str,
    outputs: Outputs,
    content_type: str = "application/octet-stream",
    bucket: Bucket | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Delivered:
    """Hands over the file at `audio`: as a link where there is a bucket, else in base64. `owner` is
    the session or job that its copies are named after.

    An upload that fails is a warning where the audio fits into an answer. Raises `DeliveryError`
    where it does not, `Cancelled` once `cancelled()` is true.
    """
    fits = audio.stat().st_size <= INLINE_LIMIT
    warnings: list[str] = []
    fields: dict[str, str] = {}
    if bucket is not None:
        try:
            fields["audio_url"] = s3.upload(bucket, audio, owner, content_type, cancelled)
        except DeliveryError as error:
            warnings.append(str(error))
    if not fields and fits:
        fields["audio_base64"] = base64.b64encode(audio.read_bytes()).decode("ascii")
    kept = ""
    if cancelled():
        raise Cancelled
    if outputs.save or not fields:
        try:
            kept = f"{outputs.folder.name}/{keep(audio, owner, outputs.folder)} in VIBEVOICE_VOLUME"
        except OSError as error:
            warnings.append(_no_copy(error))
    if not fields:
        if not kept:
            spare = _spare()
            kept = f"{spare.name}/{keep(audio, owner, spare)} in the worker's temporary folder"
        raise DeliveryError(_too_large(audio.stat().st_size, kept, warnings))
    return Delivered(fields, tuple(warnings))


def _too_large(size: int, kept: str, warnings: list[str]) -> str:
    return (
        f"the audio has {size / 1e6:.1f} MB, and an answer carries at most "
        f"{INLINE_LIMIT / 1e6:.1f} MB; with S3_ENDPOINT_URL, S3_ACCESS_KEY_ID, "
        f"S3_SECRET_ACCESS_KEY and S3_BUCKET_NAME set the answer is a link instead, and a "
        f"compressed output_format is smaller"
        f"{''.join(f'; {warning}' for warning in warnings)}. It is kept as {kept}"
    )


def copied(audio: Path, owner: str, outputs: Outputs) -> Delivered:
    """For audio that has reached its caller already: keeps the copy that is wanted."""
    if not outputs.save:
        return Delivered({})
    try:
        keep(audio, owner, outputs.folder)
    except OSError as error:
        return Delivered({}, (_no_copy(error),))
    return Delivered({})


def _spare() -> Path:
    """Takes what the volume does not take."""
    return Path(tempfile.gettempdir()) / "vibevoice-output"


def _no_copy(error: OSError) -> str:
    return f"no copy was kept on the volume: {error.strerror}"


def keep(audio: Path, owner: str, folder: Path) -> str:
    """Copies a file into the folder, whole or not at all. Gives the copy's name.

    Raises OSError when the folder cannot take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", owner)[:64] or "job"
    name = f"{stem}_{uuid.uuid4().hex}{audio.suffix}"
    part = folder / f"{name}.part"
    try:
        shutil.copyfile(audio, part)
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)
    return name


def cleanup_old_files(outputs: Outputs, now: float | None = None) -> int:
    """Removes copies of ours that are past their retention. Gives their number.

    Only files with the names that `keep` makes are touched; a file that another worker removed
    first is no error.
    """
    oldest = (time.time() if now is None else now) - outputs.retention_days * 86_400
    return sum(_remove_older(folder, oldest) for folder in (outputs.folder, _spare()))


def _remove_older(folder: Path, oldest: float) -> int:
    removed = 0
    if not folder.is_dir():
        return removed
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _OURS.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            try:
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    Path(entry.path).unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # another worker was first
    return removed
