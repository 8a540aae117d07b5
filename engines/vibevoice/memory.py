"""The host's memory: what is still free before something large is put there, and what is kept."""

import ctypes
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT, _MOST_KEPT = 32 << 20, 256 << 20

_GROUPS = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_LIMITS = (  # cgroup v2, then v1
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_host_memory(groups: Path = _GROUPS, meminfo: Path = _MEMINFO) -> int | None:
    """The machine's available memory or what the container's limit leaves of it; None where
    neither can be read (not Linux)."""
    rooms = [
        room
        for room in (_available(meminfo), *(_left(groups, *names) for names in _LIMITS))
        if room is not None
    ]
    return min(rooms) if rooms else None


def _available(meminfo: Path) -> int | None:
    return _field(meminfo, "MemAvailable:", 1024)


def _left(groups: Path, limit: str, used: str, stat: str, reclaimable: str) -> int | None:
    try:
        most = int((groups / limit).read_text())  # "max": no limit
        now = int((groups / used).read_text())
    except (OSError, ValueError):
        return None
    # Files in the page cache count as used, though they go as soon as memory is asked for.
    return max(0, most - now + (_field(groups / stat, reclaimable, 1) or 0))


def _field(file: Path, name: str, unit: int) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.split()[:1] == [name]]
    return int(values[0]) * unit if values else None


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed of up to 32 MiB a piece. Otherwise it gives the activations of
    every frame back to the system, and at 16 slots a quarter of a frame's time goes into getting
    them anew. Without glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
