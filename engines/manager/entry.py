"""A model as its manager keeps it: how it is made, its object, its state and its figures."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from engines.manager.policy import Resident
from engines.memory import Memory


class Loadable(Protocol):
    """What can be managed."""

    @property
    def ready(self) -> bool: ...

    def load(self) -> None: ...

    def close(self) -> None: ...


M = TypeVar("M", bound=Loadable)


@dataclass(slots=True)
class Usage:
    """What happened to one model so far. `evictions` are the unloads that made room for another."""

    loads: int = 0
    failures: int = 0
    unloads: int = 0
    evictions: int = 0
    load_sec: float = 0.0
    unload_sec: float = 0.0
    resident: bool = False
    holds: int = 0
    size: Memory = field(default_factory=Memory)

    @property
    def figures(self) -> dict[str, float]:
        """The same as numbers by name, for metrics."""
        return {
            "loads": self.loads,
            "failures": self.failures,
            "unloads": self.unloads,
            "evictions": self.evictions,
            "load_seconds": self.load_sec,
            "unload_seconds": self.unload_sec,
            "resident": self.resident,
            "requests": self.holds,
            "host_memory_bytes": self.size.host,
            "gpu_memory_bytes": self.size.gpu,
        }


@dataclass(slots=True, eq=False)
class Entry(Generic[M]):
    name: str
    create: Callable[[], M]
    fixed: bool
    preloaded: bool
    usage: Usage
    state: Literal["unloaded", "loading", "resident", "unloading"] = "unloaded"
    model: M | None = None
    loading: Future[None] | None = None
    loaded_at: float = 0.0
    used_at: float = 0.0
    creating: threading.Lock = field(default_factory=threading.Lock)

    def as_resident(self) -> Resident:
        held = bool(self.usage.holds) or self.state != "resident" or self.loading is not None
        times = (self.loaded_at, self.used_at)
        return Resident(self.name, self.usage.size, *times, held, self.fixed, self.preloaded)
