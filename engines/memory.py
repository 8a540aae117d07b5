"""Memory by measuring: of the host, of the GPU, and what glibc keeps of it for reuse."""

import ctypes
import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

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


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the host's memory and of the GPU's."""

    host: float = 0
    gpu: float = 0

    def __add__(self, other: Self) -> "Memory":
        return Memory(self.host + other.host, self.gpu + other.gpu)

    def beyond(self, other: Self) -> "Memory | None":
        """What of it exceeds another, in each kind; None if nothing does."""
        over = Memory(max(0, self.host - other.host), max(0, self.gpu - other.gpu))
        return over if over.host or over.gpu else None

    def overlaps(self, other: Self) -> bool:
        """Whether both have some of one kind."""
        return bool((self.host and other.host) or (self.gpu and other.gpu))


def used_memory() -> Memory:
    """What this process and its children have in the host's memory, and all processes in the
    GPU's."""
    used, _ = _gpu_memory()
    return Memory(sum(_resident()), used)


def free_memory(most_host: float | None = None) -> Memory:
    """The free memory, without bound where it cannot be read. `most_host` bounds what this process
    and its children may take."""
    host = free_host_memory()
    left = [float("inf") if host is None else host]
    if most_host is not None:
        left.append(max(0, most_host - sum(_resident())))
    return Memory(min(left), _gpu_memory()[1])


def _resident() -> Iterator[int]:
    process = psutil.Process()
    for each in (process, *process.children(recursive=True)):
        try:
            yield each.memory_info().rss
        except psutil.Error:  # it has just ended
            continue


def _gpu_memory() -> tuple[float, float]:
    """The used and the free memory of this process's GPU, by `nvidia-smi`: torch would make a CUDA
    context of some 300 MB for it."""
    if not (command := shutil.which("nvidia-smi")):
        return 0, float("inf")
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    asked = ["--query-gpu=memory.used,memory.free", "--format=csv,noheader,nounits", "-i", device]
    try:
        told = subprocess.run([command, *asked], capture_output=True, text=True, timeout=10)
        used, free = (float(number) * 2**20 for number in told.stdout.split(","))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0, float("inf")
    return used, free


def return_freed_memory() -> None:
    """Collects garbage and returns what glibc keeps of freed memory to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
