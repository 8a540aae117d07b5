"""The reference runtime: upstream's own `generate`, one chunk at a time.

Speeches take turns chunk by chunk, in the order of arrival. Each speech has a thread while it is
iterated, and none before or after.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from engines.base import (
    End,
    Frame,
    Options,
    Plan,
    PlannedChunk,
    Reason,
    Samples,
    Turn,
    Voice,
)
from engines.priority_lock import PriorityLock
from engines.vibevoice.frames import Frames
from request.errors import EngineLost


class Speaker(Protocol):
    """A loaded model that speaks one chunk at a time: see `model.Model`."""

    @property
    def details(self) -> dict[str, str]: ...

    def prepare(self, voices: Sequence[Voice]) -> Any: ...

    def speak(
        self,
        chunk: PlannedChunk,
        voices: Any,
        options: Options,
        emit: Callable[[Samples], None],
        stopped: Callable[[], bool],
    ) -> Reason: ...


class Reference:
    """A loaded model and the lock under which speeches take turns."""

    def __init__(self, model: Speaker) -> None:
        self.model = model
        self.line = PriorityLock()
        self.lost: EngineLost | None = None

    @property
    def details(self) -> Mapping[str, str]:
        return {**self.model.details, "runtime": "reference"}

    @property
    def figures(self) -> Mapping[str, float]:
        return {}

    def make_trial(self) -> None:
        """Generates a few frames, so that an unfit device fails the start. Raises `EngineError`."""
        chunk = PlannedChunk((Turn(0, "One."),), seed=0)
        few = Options(frames_per_token=0, min_frames=3)
        self.model.speak(chunk, self.model.prepare([]), few, lambda _: None, lambda: False)

    def start(self, plan: Plan) -> "VibeVoiceSpeech":
        return VibeVoiceSpeech(self, plan)

    def close(self) -> None:
        """Ends the runtime, and waits for the chunk that is being generated."""
        with self.line.enter(threading.Event()):
            pass


class VibeVoiceSpeech:
    """See `engines.base.Speech`."""

    def __init__(self, runtime: Reference, plan: Plan) -> None:
        self._runtime = runtime
        self._plan = plan
        self._cancelled = threading.Event()
        self._frames = Frames()

    def cancel(self) -> None:
        self._cancelled.set()
        self._frames.close()
        self._runtime.line.wake()

    def __iter__(self) -> Iterator[Frame | End]:
        worker = threading.Thread(target=self._work, name="vibevoice", daemon=True)
        worker.start()
        try:
            yield from self._frames
        finally:
            self.cancel()
            worker.join()

    def _work(self) -> None:
        try:
            self._speak()
        except EngineLost as error:
            self._runtime.lost = error
            self._frames.finish(error)
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            self._frames.finish(error)
        else:
            self._frames.finish()

    def _speak(self) -> None:
        plan, model = self._plan, self._runtime.model
        recordings = model.prepare(plan.voices)
        for index, chunk in enumerate(plan.chunks):
            emit = partial(self._emit, index)
            with self._runtime.line.enter(self._cancelled):
                began = time.monotonic()
                reason = model.speak(chunk, recordings, plan.options, emit, self._cancelled.is_set)
                took = time.monotonic() - began
            self._frames.put(End(index, reason, chunk.seed, took))

    def _emit(self, index: int, samples: Samples) -> None:
        self._frames.put(Frame(index, samples))
