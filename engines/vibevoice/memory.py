"""The host's memory: how much is free, and how much glibc keeps for reuse."""

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
    """The free memory in bytes: the machine's, or less where the container's limit leaves less.

    None where neither can be read, as on other systems than Linux.
    """
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
    # cgroups count the page cache as used, but the kernel frees it on demand.
    return max(0, most - now + (_field(groups / stat, reclaimable, 1) or 0))


def _field(file: Path, name: str, unit: int) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.split()[:1] == [name]]
    return int(values[0]) * unit if values else None


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks of up to 32 MiB for reuse. Without glibc nothing changes.

    By default glibc returns the activations of every step to the system. At 16 slots on a CPU a
    quarter of a step's time went into allocating them again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
