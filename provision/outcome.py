"""What a start says, and how it fails: a refusal, or no room where it was to be built."""

import re
import sys

NO_ROOM = 28
"""The exit status of a step, and of the start, when the disk or the quota is full: ENOSPC's."""


class Refused(Exception):
    """The start ends with this sentence; with none where a step has said it already."""


class NoRoom(Exception):
    """The folder takes no more: another may."""


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


def is_full(output: str) -> bool:
    """Whether a command failed for want of room. A quota shows in its output alone."""
    return bool(_FULL.search(output))


def reason(output: str, ref: str) -> str:
    """Why a command failed, by its output; empty where that is not known."""
    found = (text for words, text in _REASONS.items() if re.search(words, output))
    return next(found, "").format(ref=ref)
