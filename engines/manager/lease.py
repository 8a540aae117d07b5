"""A lease: the right to use a model, which stays while somebody has one."""

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from engines.manager.entry import Entry, M

if TYPE_CHECKING:
    from engines.manager.manager import ModelManager

T = TypeVar("T")


class Lease(Generic[M]):
    """The right to use a model until `release`, any number of times called. A context manager."""

    def __init__(self, manager: "ModelManager", entry: Entry[M]) -> None:
        self._manager, self._entry = manager, entry
        self._released = False

    @property
    def model(self) -> M:
        """The model's object, which may not be loaded yet. Making it may take a while."""
        return self._manager.model_of(self._entry)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and works."""
        return self._manager.is_ready(self._entry)

    def loading(self) -> "Future[None]":
        """The load that is under way or begins now. It ends with its outcome."""
        return self._manager.loading_of(self._entry)

    def load(self) -> None:
        """Loads the model if it is not loaded yet. Raises `EngineError`."""
        if not self.ready:
            self.loading().result()

    async def loaded(self) -> None:
        """The same without blocking. A load goes on if this is cancelled: others may wait too."""
        if not self.ready:
            await asyncio.shield(awaitable(self.loading()))

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._manager.release(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def awaitable(working: "Future[T]") -> "asyncio.Future[T]":
    """A future of this loop whose error, if nobody asks for it, asyncio does not log: its report
    has a traceback and may quote the text."""
    future = asyncio.wrap_future(working)
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future
