"""Models for onnxruntime on the CPU, each in one session that many speeches share.

`Cores` admits as many runs at a time as there are cores for them: two runs of two threads each on
two cores are slower than one after the other.
"""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.priority_lock import PriorityLock
from request.errors import Cancelled, EngineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MOST_THREADS = 4
"""Unless CPU_THREADS says otherwise."""


class Cores:
    """The cores of this machine, in places for one run each; `threads` work on a run."""

    def __init__(self, threads: int | None) -> None:
        count = os.cpu_count() or 1
        self.threads = min(threads or _MOST_THREADS, count)
        self.places = count // self.threads
        self.lock = PriorityLock(self.places)


def load_session(path: Path, name: str, threads: int) -> "InferenceSession":
    """The model at `path`. `name` says in an `EngineError` whose it is."""
    try:
        import onnxruntime
    except ImportError as missing:
        problem = f"{name} needs the Python package onnxruntime: run `pip install onnxruntime`"
        raise EngineError(problem) from missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait took 30 % more CPU time, and a run was no faster.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base
        problem = f"{name} cannot be loaded: {path.name} is no model for onnxruntime, or damaged"
        raise EngineError(problem) from error


class Runner:
    """Runs sessions for one speech. `cancel`, from any thread, also ends a run that has begun."""

    def __init__(self, cancelled: threading.Event) -> None:
        from onnxruntime import RunOptions

        self._cancelled, self._options = cancelled, RunOptions()
        self._options.log_severity_level = 4  # fatal: the end of a cancelled run is no error

    def cancel(self) -> None:
        self._options.terminate = True

    def run(self, session: "InferenceSession", inputs: Mapping[str, Any]) -> Any:
        """The first output. Raises `Cancelled` and `EngineError`."""
        try:
            return session.run(None, dict(inputs), self._options)[0]
        except Exception as error:  # onnxruntime's errors share no base
            if self._cancelled.is_set():
                raise Cancelled from None
            # Its message may quote what it was given.
            problem = f"the model failed on a piece of the text ({type(error).__name__})"
            raise EngineError(problem) from error
