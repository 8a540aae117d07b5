"""The end of a request's work before its time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engines.base import Speech
from request.errors import Cancelled


class CancelToken:
    """Set by any thread, once and for ever; watched by the thread that works. `wake` is called
    after it was set, for those who wait on `event` in a lock of their own."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.event = threading.Event()
        self._wake = wake
        self._speech: Speech | None = None

    def cancel(self) -> None:
        self.event.set()
        speech = self._speech
        if speech is not None:
            speech.cancel()
        self._wake()

    def check(self) -> None:
        """Raises `Cancelled` once it is set."""
        if self.event.is_set():
            raise Cancelled

    @contextmanager
    def ends(self, speech: Speech) -> Iterator[None]:
        """While the block runs, `cancel` ends this speech too. The end of the block ends it."""
        self._speech = speech
        try:
            self.check()
            yield
        finally:
            self._speech = None
            speech.cancel()
