"""A lease: the right to use a model, which stays while somebody has one."""

from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, Self

from engines.manager.entry import Entry, M

if TYPE_CHECKING:
    from engines.manager.manager import ModelManager


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

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._manager.release(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
