"""An LRU cache that is bounded in bytes and never evicts a value in use."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    size: int
    users: int = 0


class LRU(Generic[Key, Value]):
    """An LRU cache of at most `most` bytes, with reference counts. Not for two threads at once.

    `size` gives a value's bytes. `used` is the sum in bytes. It exceeds `most` only while values in
    use are that large together.
    """

    def __init__(self, most: int, size: Callable[[Value], int]) -> None:
        self.most, self.used = most, 0
        self._size = size
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def acquire(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made by `make` if absent. It is not evicted before `release`."""
        entry = self._entries.get(key)
        if entry is None:
            value = make()
            entry = self._entries[key] = _Entry(value, self._size(value))
            self.used += entry.size
        entry.users += 1
        self._entries.move_to_end(key)
        self._trim()
        return entry.value

    def release(self, key: Key) -> None:
        self._entries[key].users -= 1
        self._trim()

    def clear(self) -> None:
        """Evicts all values that are not in use."""
        for key in [key for key, entry in self._entries.items() if not entry.users]:
            self._drop(key)

    def _trim(self) -> None:
        idle = [key for key, entry in self._entries.items() if not entry.users]
        for key in idle:
            if self.used <= self.most:
                return
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self.used -= self._entries.pop(key).size
