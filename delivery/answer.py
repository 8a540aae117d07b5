"""Delivers a finished audio file: as a link or inline, with a copy in the output folder.

A finished result is never lost. A file that is too large to be sent stays in the output folder,
and the error gives its name. Messages name files relative to the volume, never by a full path.
"""

import base64
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from delivery import s3
from delivery.bucket import Bucket
from request.errors import Cancelled, DeliveryError, RequestError

INLINE_LIMIT = 7 * 1024 * 1024
"""The largest audio that is sent inline, in bytes. RunPod refuses results above 10 MB for /run, and
a worker cannot tell /run from /runsync. base64 adds a third."""
FACTS_LIMIT = 200_000
"""The JSON beside the audio of an answer that always has room, in bytes."""
_MOST_FACTS = 900_000
"""The same where there is less audio. It also bounds a stream's last item."""
_ANSWER_LIMIT = 9_900_000

_MOST = f"an answer carries at most {INLINE_LIMIT / 1e6:.1f} MB"
_STORE = "S3_ENDPOINT_URL, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY and S3_BUCKET_NAME"
QUICKEST = 0.75
"""The shortest length of an answer as a share of the expected one. A request is refused only when
its audio would be too large even at this length."""

_OURS = re.compile(r"[A-Za-z0-9._-]{1,64}_[0-9a-f]{32}\.[a-z0-9]{2,5}(?:\.part)?")


@dataclass(frozen=True, slots=True)
class Outputs:
    """The output folder: whether it keeps copies (`save`), and for how many days."""

    folder: Path
    save: bool = True
    retention_days: float = 2


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outcome of a delivery.

    `fields` go into the answer: `audio_url` or `audio_base64`. `warnings` are sentences about what
    failed on the way.
    """

    fields: dict[str, str]
    warnings: tuple[str, ...] = ()


class Delivery:
    """The delivery of one answer: a link where there is a bucket, else base64.

    `owner` is the id of the session or job; copies and objects are named after it. `fitting` gives
    the formats in which audio of a size would fit; without it the caller reaches the output folder,
    and sets the worker up. `seconds` is the time spent in this delivery so far.
    """

    def __init__(
        self,
        owner: str,
        outputs: Outputs,
        bucket: Bucket | None = None,
        fitting: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self._owner, self._outputs, self._bucket = owner, outputs, bucket
        self._fitting = fitting
        self.seconds = 0.0
        self._url = ""
        self._warnings: list[str] = []

    def foresee(self, size: int) -> str:
        """Checks before any synthesis whether an answer of about `size` bytes can be delivered.

        Gives a warning for the caller, or "" where it fits or a bucket takes it. Raises
        `RequestError` where it cannot fit, and no copy would be kept or reached.
        """
        if self._bucket is not None or size <= INLINE_LIMIT:
            return ""
        problem = f"the audio will have about {size / 1e6:.1f} MB, and {_MOST}"
        cannot_fit = size * QUICKEST > INLINE_LIMIT
        if self._fitting and cannot_fit:
            allowed = allowed_instead(self._fitting(size))
            raise RequestError(problem, "output_format", code="audio_too_large", allowed=allowed)
        if not self._outputs.save and cannot_fit:
            allowed = (
                "a shorter text, a smaller output_format, or a worker "
                f"with {_STORE}, or with SAVE_OUTPUT"
            )
            raise RequestError(problem, "text", allowed=allowed)
        return f"{problem}: it will be kept on the volume; with {_STORE} the answer is a link"

    def reaches(self, audio: Path, content_type: str, cancelled: Callable[[], bool]) -> bool:
        """Whether the file can be delivered: it fits into an answer, or its upload succeeded.

        A file that is too large for an answer is uploaded here, at most once. After that, `deliver`
        must get the same file. Raises `Cancelled` once `cancelled()` is true.
        """
        with self._timed():
            return _fits(audio) or self._upload(audio, content_type, cancelled)

    def deliver(
        self,
        audio: Path,
        content_type: str = "application/octet-stream",
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Delivered:
        """Delivers the file at `audio`, and keeps a copy where `Outputs.save` is set.

        A failed upload is a warning where the audio fits into an answer. Where it does not fit, the
        file is kept and `DeliveryError` is raised. Raises `Cancelled` once `cancelled()` is true.
        """
        with self._timed():
            return self._deliver(audio, content_type, cancelled)

    def _deliver(self, audio: Path, content_type: str, cancelled: Callable[[], bool]) -> Delivered:
        fields: dict[str, str] = {}
        if self._upload(audio, content_type, cancelled):
            fields["audio_url"] = self._url
        elif _fits(audio):
            fields["audio_base64"] = base64.b64encode(audio.read_bytes()).decode("ascii")
        if cancelled():
            raise Cancelled
        kept, folder = "", self._outputs.folder
        if self._outputs.save or not fields:
            try:
                kept = f"{folder.name}/{keep(audio, self._owner, folder)} in VIBEVOICE_VOLUME"
            except OSError as error:
                self._warnings.append(_no_copy(error))
        if not fields:
            if not kept:
                spare = _spare()
                copy = keep(audio, self._owner, spare)
                kept = f"{spare.name}/{copy} in the worker's temporary folder"
            raise self._too_large(audio.stat().st_size, kept)
        return Delivered(fields, tuple(self._warnings))

    def _too_large(self, size: int, kept: str) -> DeliveryError:
        problem, allowed = f"the audio has {size / 1e6:.1f} MB, and {_MOST}", None
        if self._fitting:
            allowed = allowed_instead(self._fitting(size))
        else:
            warnings = "".join(f"; {warning}" for warning in self._warnings)
            problem += (
                f"; with {_STORE} set the answer is a link instead, and a compressed output_format "
                f"is smaller{warnings}. It is kept as {kept}"
            )
        return DeliveryError(problem, "output_format", code="audio_too_large", allowed=allowed)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds += time.monotonic() - start

    def _upload(self, audio: Path, content_type: str, cancelled: Callable[[], bool]) -> bool:
        if self._bucket is not None:
            bucket, self._bucket = self._bucket, None
            try:
                self._url = s3.upload(bucket, audio, self._owner, content_type, cancelled)
            except DeliveryError as error:
                self._warnings.append(str(error))
        return bool(self._url)


def _fits(audio: Path) -> bool:
    return audio.stat().st_size <= INLINE_LIMIT


def allowed_instead(formats: Sequence[str]) -> str:
    """What is allowed in place of audio that is too large, where these formats would fit."""
    return ", ".join([*formats, "a shorter text"])


def facts_limit(delivered: "Delivered") -> int:
    """How large the JSON beside a delivered audio may be, in bytes."""
    inline = len(delivered.fields.get("audio_base64", ""))
    return max(FACTS_LIMIT, min(_MOST_FACTS, _ANSWER_LIMIT - inline))


def copied(audio: Path, owner: str, outputs: Outputs) -> Delivered:
    """Keeps a copy of audio that was streamed to its caller already, where `outputs.save` is set.

    A copy that cannot be kept is a warning.
    """
    if not outputs.save:
        return Delivered({})
    try:
        keep(audio, owner, outputs.folder)
    except OSError as error:
        return Delivered({}, (_no_copy(error),))
    return Delivered({})


def _spare() -> Path:
    """The folder on the container's disk for results that the volume does not take."""
    return Path(tempfile.gettempdir()) / "vibevoice-output"


def _no_copy(error: OSError) -> str:
    return f"no copy was kept on the volume: {error.strerror}"


def keep(audio: Path, owner: str, folder: Path) -> str:
    """Copies a file into the folder atomically, and gives the copy's file name.

    Raises `OSError` when the folder cannot take it.
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
    """Removes copies that are older than the retention, and gives their number.

    Only files named as `keep` names them are removed. `now` is Unix time in seconds. A file that
    another worker removed first is no error.
    """
    oldest = (time.time() if now is None else now) - outputs.retention_days * 86_400
    return sum(_remove_older(folder, oldest) for folder in (outputs.folder, _spare()))


def _remove_older(folder: Path, oldest: float) -> int:
    removed = 0
    for file in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another worker was first
            state = file.lstat()
            ours = _OURS.fullmatch(file.name) and stat.S_ISREG(state.st_mode)
            if ours and state.st_mtime < oldest:
                file.unlink()
                removed += 1
    return removed
