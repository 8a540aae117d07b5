"""The model manager: loads models on first use, and unloads them to make room or by time.

A model is anything with `load()`, `ready` and `close()`: a speech engine or a recogniser. Whoever
uses one holds a lease. What is held is never unloaded, so nothing changes in the middle of an
answer. Unloading closes the model's object, and the next lease gets a new one.

Loads run in threads of their own, so requests for a resident model never wait behind one. Each load
is single-flight: all who ask meanwhile wait for its outcome. A failure is told to all of them, and
the next request loads again.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from engines.damage import leaving_word
from engines.manager.entry import Entry, Loadable, M, Usage
from engines.manager.lease import Lease
from engines.manager.policy import Policy, Resident, Verdict
from engines.memory import Memory, free_memory, return_freed_memory, used_memory
from request.errors import EngineError, SpeechError

_PATIENCE_SEC = 30.0
_LOOK_SEC = 0.5
"""How often a load that waits for room measures again: others may free memory, too."""

log = logging.getLogger("vibevoice")


class ModelManager:
    """The models of one worker. Any thread may call anything.

    At most `loads` models load at once. `free` and `used` measure memory. A load that finds no room
    waits `patience_sec` for it.
    """

    def __init__(
        self,
        policy: Policy,
        loads: int = 1,
        *,
        free: Callable[[], Memory] = free_memory,
        used: Callable[[], Memory] = used_memory,
        now: Callable[[], float] = time.monotonic,
        patience_sec: float = _PATIENCE_SEC,
    ) -> None:
        self._policy, self._free, self._used, self._now = policy, free, used, now
        self._patience = patience_sec
        self._entries: dict[str, Entry[Any]] = {}
        self._changed = threading.Condition()
        self._loaders = ThreadPoolExecutor(loads, thread_name_prefix="load")
        self._moves = 0  # models that were loaded or unloaded so far
        self._sweeper: threading.Thread | None = None
        self._closed = False

    def register(
        self,
        name: str,
        create: Callable[[], Loadable],
        *,
        fixed: bool = False,
        preloaded: bool = False,
        expected: Memory | None = None,
    ) -> None:
        """Adds a model. `expected` is its size before it was measured. A `fixed` model is never
        unloaded, a `preloaded` one never by time. Raises `EngineError` for a name that is taken."""
        if name in self._entries:
            raise EngineError(f"there are two models with the name {name}")
        usage = Usage(size=expected or Memory())
        self._entries[name] = Entry(name, create, fixed, preloaded, usage)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def usage(self, name: str) -> Usage:
        """What happened to a model so far, as a copy."""
        with self._changed:
            return replace(self._entries[name].usage)

    def lease(self, name: str) -> Lease[Any]:
        """Holds a model from now on. It returns at once; nothing is loaded."""
        with self._changed:
            entry = self._entries[name]
            entry.usage.holds += 1
        return Lease(self, entry)

    def unload(self, name: str) -> bool:
        """Unloads a model now. False where it is held, fixed or not resident."""
        with self._changed:
            entry = self._entries[name]
            if entry.as_resident().held or entry.fixed:
                return False
            model = self._taken(entry)
        self._unload(entry, model)
        return True

    def sweep(self) -> float | None:
        """Unloads the models whose time is over. Gives when the next one's is, if ever."""
        for name in self._policy.expired(self._residents(), self._now()):
            self.unload(name)
        return self._policy.next_expiry(self._residents())

    def watch(self) -> None:
        """Starts the thread that calls `sweep` when it is time, unless it runs."""
        if self._sweeper is not None:
            return
        self._sweeper = threading.Thread(target=self._watch, name="models", daemon=True)
        self._sweeper.start()

    def close(self) -> None:
        """Closes all models, held or not."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        for entry in self._entries.values():
            if entry.model is not None:
                entry.model.close()
        self._loaders.shutdown()
        if self._sweeper is not None:
            self._sweeper.join()

    def _watch(self) -> None:
        while True:
            until = self.sweep()
            with self._changed:
                if not self._closed:
                    self._changed.wait(None if until is None else max(0, until - self._now()))
                if self._closed:
                    return

    # What a lease may do.

    def model_of(self, entry: Entry[M]) -> M:
        with entry.creating:
            if entry.model is None:
                entry.model = entry.create()
            return entry.model

    def is_ready(self, entry: Entry[Any]) -> bool:
        model = entry.model
        return entry.state == "resident" and model is not None and bool(model.ready)

    def release(self, entry: Entry[Any]) -> None:
        with self._changed:
            entry.usage.holds -= 1
            entry.used_at = self._now()
            in_use = entry.usage.holds or entry.loading or entry.state != "unloaded"
            unused = not in_use and not entry.fixed
            model = entry.model
            if unused:
                entry.model = None
            self._changed.notify_all()
        if unused and model is not None:
            model.close()  # it may have started a process to be asked what it can do

    def loading_of(self, entry: Entry[Any]) -> "Future[None]":
        with self._changed:
            if entry.loading is None:
                entry.loading = self._loaders.submit(self._load, entry)
            return entry.loading

    def _load(self, entry: Entry[Any]) -> None:
        """In a thread of the loaders."""
        try:
            with leaving_word():
                if entry.state == "resident":  # it was lost, and comes back by itself
                    self.model_of(entry).load()
                else:
                    self._await_room(entry)
                    self._fill(entry)
                    self._settle(entry)
        finally:
            with self._changed:
                entry.loading = None
                self._changed.notify_all()

    def _await_room(self, entry: Entry[Any]) -> None:
        """Unloads others until the model fits, and counts it among the residents. Raises
        `EngineError` where there will be no room, or none soon."""
        with self._changed:
            self._changed.wait_for(lambda: entry.state != "unloading")
        until = self._now() + self._patience
        while not (verdict := self._make_room(entry, entry.usage.size, self._free())).load:
            if verdict.evict:
                continue
            left = until - self._now()
            if verdict.never:
                problem = f"the model {entry.name} does not fit beside those that have to stay"
                raise EngineError(problem, code="out_of_memory")
            if left <= 0 or (verdict.wait_sec or 0) > left or self._closed:
                problem = f"there is no room for the model {entry.name} while others are in use"
                retry_sec = math.ceil(verdict.wait_sec or self._patience)
                raise EngineError(problem, code="model_unavailable", retry_sec=retry_sec)
            with self._changed:
                self._changed.wait(min(left, verdict.wait_sec or left, _LOOK_SEC))

    def _make_room(self, entry: Entry[Any], need: Memory, free: Memory) -> Verdict:
        """One step: the model counts as loading, or another is unloaded, or neither."""
        with self._changed:
            others = [each for each in self._entries.values() if each is not entry]
            begun = (each.usage.size for each in others if each.state == "loading")
            residents = [each.as_resident() for each in others if each.state != "unloaded"]
            verdict = self._policy.verdict(residents, sum(begun, need), free, self._now())
            if verdict.load or (verdict.never and entry.fixed):
                entry.state = "loading"
                return Verdict(load=True)
        # The victim may be leased by now, or another load has unloaded it: then ask again.
        if verdict.evict:
            self._evict(verdict.evict, entry)
        return verdict

    def _evict(self, name: str, entry: Entry[Any]) -> bool:
        if evicted := self.unload(name):
            self._entries[name].usage.evictions += 1
            log.info("the model %s was unloaded to make room for %s", name, entry.name)
        return evicted

    def _fill(self, entry: Entry[Any]) -> None:
        """Loads a model that has room, and measures it. What others did meanwhile would count, so
        a size that is known stays then."""
        began, before, moves = self._now(), self._used(), self._moves
        try:
            self._load_or_evict(entry)
        except BaseException:
            self._failed(entry)
            raise
        grown = self._used().beyond(before) or Memory()
        with self._changed:
            entry.state, entry.usage.resident = "resident", True
            entry.loaded_at = entry.used_at = self._now()
            entry.usage.loads += 1
            entry.usage.load_sec += entry.loaded_at - began
            if self._moves == moves or not entry.usage.size.beyond(Memory()):
                entry.usage.size = grown
            self._moves += 1
            self._changed.notify_all()

    def _load_or_evict(self, entry: Entry[Any]) -> None:
        """Its size was not known, or memory went elsewhere: one model less, and again."""
        while True:
            try:
                self.model_of(entry).load()
                return
            except SpeechError as error:
                if error.problems[0].code != "out_of_memory":
                    raise
                oldest = self._policy.oldest(self._residents(), self._now())
                if not (oldest and self._evict(oldest, entry)):
                    raise

    def _settle(self, entry: Entry[Any]) -> None:
        """Where a size was not known before, too much may be loaded now: then others go."""
        while not min((free := self._free()).host, free.gpu):
            oldest = self._policy.oldest(self._residents(), self._now())
            if not (oldest and self._evict(oldest, entry)):
                return

    def _failed(self, entry: Entry[Any]) -> None:
        with self._changed:
            entry.state = "unloaded"
            entry.usage.failures += 1
            model = entry.model
            if not entry.fixed:  # the default's says whether the worker has to be replaced
                entry.model = None
        if not entry.fixed and model is not None:
            model.close()

    def _taken(self, entry: Entry[M]) -> M | None:
        """The object of a model that is about to be unloaded; a lease from now on gets another."""
        model, entry.model = entry.model, None
        entry.state, entry.usage.resident = "unloading", False
        return model

    def _unload(self, entry: Entry[Any], model: Loadable | None) -> None:
        began = self._now()
        try:
            if model is not None:
                model.close()
            return_freed_memory()
        finally:
            with self._changed:
                entry.state = "unloaded"
                entry.usage.unloads += 1
                self._moves += 1
                entry.usage.unload_sec += self._now() - began
                self._changed.notify_all()

    def _residents(self) -> list[Resident]:
        with self._changed:
            entries = [each for each in self._entries.values() if each.state == "resident"]
            return [each.as_resident() for each in entries]
