"""The engine's process with an engine in it that is lost as its texts say.

lost    the device fails after a frame, and for good: each speech from then on is `EngineLost`
crash   an error that nobody foresaw and that quotes the text
refused a connection of the engine's own to somewhere else fails
held    nothing comes until it is cancelled, which is logged
program its text is a file, for the number of a process that is left running by C's `system`
log     a line goes to the log, and one to stdout

While there is a file BROKEN in the folder that MODEL_PATH names, it cannot be loaded; with CUT it
dies of that as of a library that was cut off; with IMPORT a package of it cannot be imported; with
HANGS it cannot be closed.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engines import child
from engines.base import End, Engine, EngineSettings, Frame, Plan
from request.errors import EngineError, EngineLost
from tests.fake_engine import FakeEngine, FakeSpeech


@dataclass
class FragileEngine(FakeEngine):
    folder: Path = field(default_factory=Path)

    def load(self) -> None:
        if (self.folder / "CUT").exists():
            signal.raise_signal(signal.SIGBUS)  # in this thread, as the fault of a read is
        if (self.folder / "IMPORT").exists():
            failed = ImportError("libtorch_cpu.so: file too short")
            raise EngineError("the code cannot be imported") from failed
        if (self.folder / "BROKEN").exists():
            raise EngineError("MODEL_PATH: the model is broken")
        super().load()

    def close(self) -> None:
        while (self.folder / "HANGS").exists():
            time.sleep(0.01)

    def start(self, plan: Plan) -> FakeSpeech:
        self.load()
        return FragileSpeech(self, plan)


class FragileSpeech(FakeSpeech):
    def __iter__(self) -> Iterator[Frame | End]:
        text = self.plan.chunks[0].turns[0].text
        if "held" in text:
            self._cancelled.wait()
            logging.getLogger("vibevoice").warning("it was cancelled")
        for event in super().__iter__():
            if self._engine.lost:
                raise EngineLost("the GPU failed")
            yield event
            self._engine.lost = "lost" in text
            if "crash" in text:
                raise RuntimeError(text)
            if "refused" in text:
                raise ConnectionRefusedError(text)
            if "program" in text and not Path(text).exists():
                os.system(f"sleep 600 >/dev/null 2>&1 & echo $! >'{text}'")  # noqa: S605
            if "log" in text:
                logging.getLogger("vibevoice").warning("a line of the engine's")
                print("printed by a library", flush=True)  # noqa: T201


def create(name: str, settings: EngineSettings) -> Engine:
    assert name == "espeak"
    return FragileEngine(folder=Path(settings["model_path"]))


if __name__ == "__main__":
    child._END_SEC = 1
    child.main(create)
