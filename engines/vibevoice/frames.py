"""A queue of events from the thread that generates them to the thread that reads them.

No back-pressure: the generating thread never waits. Once memory holds `_IN_MEMORY` events, further
ones spill to a file.
"""

import threading
from collections import deque
from collections.abc import Iterator

import numpy as np

from audio.pcm import silence
from audio.spool import Extent, Spool
from engines.base import End, Frame
from request.errors import Cancelled

_IN_MEMORY = 256
"""Events held in memory: half a minute of audio, 3 MB."""


class Frames:
    """A queue of events between two threads. `put` never waits for the reader, and never raises: a
    full disk ends the queue with its error, and with it one request, not the thread of all."""

    def __init__(self, in_memory: int = _IN_MEMORY) -> None:
        self._changed = threading.Condition()
        self._near: deque[Frame | End] = deque()
        self._far: deque[tuple[int, Extent] | End] = deque()  # a frame's chunk, and its place
        self._spool = Spool()
        self._in_memory = in_memory
        self._closed = False
        self._finished = False
        self._error: BaseException | None = None

    def put(self, event: Frame | End) -> None:
        with self._changed:
            if self._closed or self._finished:
                return
            if self._far or len(self._near) >= self._in_memory:
                self._spill(event)
            else:
                self._near.append(event)
            self._changed.notify()

    def _spill(self, event: Frame | End) -> None:
        try:
            self._append(event)
        except OSError as error:
            self._finished, self._error = True, error

    def _append(self, event: Frame | End) -> None:
        if isinstance(event, Frame):
            self._far.append((event.chunk, self._spool.append(event.samples)))
        else:
            self._far.append(event)

    def _recall(self) -> Frame | End:
        entry = self._far.popleft()
        if isinstance(entry, End):
            event: Frame | End = entry
        else:
            chunk, extent = entry
            event = Frame(chunk, np.concatenate([silence(0), *self._spool.read(extent)]))
        if not self._far:
            self._spool.clear()
        return event

    def _has_news(self) -> bool:
        return bool(self._near or self._far or self._closed or self._finished)

    def finish(self, error: BaseException | None = None) -> None:
        """Ends the queue. The reader gets the remaining events, then `error` is raised there."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
            self._changed.notify()

    def close(self) -> None:
        """Drops all unread and all later events. The reader gets `Cancelled`."""
        with self._changed:
            self._closed = True
            self._near.clear()
            self._far.clear()
            self._spool.close()
            self._changed.notify()

    def __iter__(self) -> Iterator[Frame | End]:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news)
                if self._closed:
                    raise Cancelled
                if self._near:
                    event = self._near.popleft()
                elif self._far:
                    event = self._recall()
                elif self._error is not None:
                    raise self._error
                else:
                    return
            yield event
