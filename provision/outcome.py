"""The messages of a start, its two failures (refused, or no room on a disk), and its signals."""

import re
import signal
import sys
from pathlib import Path

NO_ROOM = 28
"""The exit status of a step, and of the start, when the disk or the quota is full: ENOSPC's."""


ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
"""The signals that end a process of ours. By default they end it without any clean-up."""


def end_alike() -> None:
    """Makes SIGHUP and SIGQUIT do what SIGTERM does, save where our caller ignores them."""
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup makes it
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))


class Refused(Exception):
    """The start fails with this message. It is empty where a step has printed its own already."""


class Unfit(Exception):
    """A folder cannot be built in, and the message says why. Another folder may do."""


class NoRoom(Unfit):
    """The disk or quota below a folder is full."""


_REASONS = {
    "Could not resolve host|Temporary failure in name resolution|Name or service not known"
    "|Network is unreachable|Connection refused|Failed to connect|timed out": (
        "no network, or the other side is not to be reached"
    ),
    "not our ref|couldn't find remote ref": "it has no '{ref}'; check VIBEVOICE_REF",
    "Repository not found|does not appear to be a git repository|could not read Username": (
        "there is no such repository that can be read; check VIBEVOICE_REPO"
    ),
    "THESE PACKAGES DO NOT MATCH THE HASHES": "a package is not the one that was pinned",
    "No matching distribution found": "a pinned package is on no index that was asked",
}
_FULL = re.compile("No space left|Disk quota exceeded|Errno 28|Errno 122")


def say(sentence: str) -> None:
    print(f"bootstrap: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


def told(problem: OSError, folder: Path) -> str:
    """Why a folder cannot be written to, as a sentence."""
    name = problem.filename or folder
    if isinstance(problem, FileExistsError | NotADirectoryError):
        return f"{name} is not a folder, as it has to be: move it away"
    return f"{name} cannot be written to ({problem.strerror})"


def is_full(output: str) -> bool:
    """Whether a command failed because of a full disk or quota, judged by its output.

    No system call reports the free space of a quota.
    """
    return bool(_FULL.search(output))


def reason(output: str, ref: str) -> str:
    """The cause of a command's failure, judged by its output; empty where it is unknown."""
    found = (text for words, text in _REASONS.items() if re.search(words, output))
    return next(found, "").format(ref=ref)
