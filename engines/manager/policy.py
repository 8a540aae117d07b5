"""The eviction policy: which resident model is unloaded, and when. Pure: it is told the time.

A model that is held is never unloaded, nor is one that is `fixed`. To make room, the least recently
used goes first, once it was resident for the minimum. By time, a model goes that was not used for
its time to live; one that was preloaded stays.
"""

from collections.abc import Collection
from dataclasses import dataclass

from engines.memory import Memory


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is loaded or being loaded. `loaded_at` and `used_at` are seconds of one clock.
    A model that is being loaded or used is `held`."""

    name: str
    size: Memory
    loaded_at: float
    used_at: float
    held: bool = False
    fixed: bool = False
    preloaded: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What has to happen before a model is loaded.

    `evict` is the model to unload first; then ask again. Without one, the load has to wait, for
    `wait_sec` or, where that is None, until a model is no longer held. `never`: waiting is in vain.
    `load`: it may begin.
    """

    load: bool = False
    evict: str | None = None
    wait_sec: float | None = None
    never: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `cap` models are resident. A model stays for `least_sec` after its load, and for
    `ttl_sec` after its last use."""

    cap: int = 3
    ttl_sec: float = 600.0
    least_sec: float = 120.0

    def verdict(
        self, residents: Collection[Resident], need: Memory, free: Memory, now: float
    ) -> Verdict:
        """What makes room for a model of the size `need`, where `free` is what is left."""
        lacks = need.beyond(free)
        if len(residents) < self.cap and not lacks:
            return Verdict(load=True)
        movable = [each for each in residents if not each.fixed]
        gained = sum((each.size for each in movable), Memory())
        if len(residents) - len(movable) >= self.cap or need.beyond(free + gained):
            return Verdict(never=True)
        useful = [each for each in movable if not lacks or each.size.overlaps(lacks)]
        if name := self.oldest(useful, now):
            return Verdict(evict=name)
        waits = (each.loaded_at + self.least_sec - now for each in useful if not each.held)
        return Verdict(wait_sec=min(waits, default=None))

    def oldest(self, residents: Collection[Resident], now: float) -> str | None:
        """The least recently used of those that may be unloaded now."""
        idle = (each for each in residents if not (each.held or each.fixed))
        ripe = (each for each in idle if now - each.loaded_at >= self.least_sec)
        found = min(ripe, key=lambda each: each.used_at, default=None)
        return found.name if found else None

    def expired(self, residents: Collection[Resident], now: float) -> list[str]:
        """The models whose time is over."""
        return [each.name for each in residents if now >= self._end(each)]

    def next_expiry(self, residents: Collection[Resident]) -> float | None:
        """When the next model's time is over, if it is not used; None if there is none."""
        ends = [end for each in residents if (end := self._end(each)) < float("inf")]
        return min(ends, default=None)

    def _end(self, resident: Resident) -> float:
        if resident.held or resident.fixed or resident.preloaded:
            return float("inf")
        return max(resident.used_at + self.ttl_sec, resident.loaded_at + self.least_sec)
