"""Memory that is still free, in bytes, before something large is put there."""

from pathlib import Path

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
