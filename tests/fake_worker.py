"""A worker whose engine does what the job's text says; started as `python -m tests.fake_worker`.

    frames40   as many frames of 3200 samples (8), all at half of full scale
    delay50    milliseconds before each frame (0)
    held5      before the frame of that number it waits for the test's `go_on`
    fail3      the frame of that number, counted from 0, raises `EngineError`
    lost1      the engine is lost
    crash1     an error that nobody foresaw and that quotes the text and a path

All else is `handler.py`. What the engine does goes to the file JOURNAL, a line
`[time.monotonic(), what, text]` each, where `what` is "start", then "frame"s, perhaps "cancel", and
in the end "cancelled" (the reader left, too), "failed" or "end".
"""

import functools
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import handler
from engines.base import End, Frame, Plan
from request.errors import Cancelled, EngineLost
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine, FakeSpeech

SECRET_PATH = "/somewhere/secret"
JOURNAL = Path(os.environ.get("JOURNAL", "journal"))


class ToldEngine(FakeEngine):
    def start(self, plan: Plan) -> "ToldSpeech":
        self.load()
        return ToldSpeech(plan)


class ToldSpeech(FakeSpeech):
    def __init__(self, plan: Plan) -> None:
        self._text = " ".join(turn.text for chunk in plan.chunks for turn in chunk.turns)
        orders = {what: int(n) for what, n in re.findall(r"\b([a-z]+)(\d+)\b", self._text)}
        self._note("start")
        if "lost" in orders:
            raise EngineLost("the engine is gone")
        if "crash" in orders:
            raise RuntimeError(f"{SECRET_PATH} {self._text}")
        self._held = orders.get("held")
        engine = FakeEngine(
            audio=lambda _: np.full(3200 * orders.get("frames", 8), 0.5, np.float32),
            delay=orders.get("delay", 0) / 1000,
            fail_at=orders.get("fail"),
        )
        super().__init__(engine, plan)

    def cancel(self) -> None:
        if not self.cancelled:
            self._note("cancel")
        super().cancel()

    def __iter__(self) -> Iterator[Frame | End]:
        outcome, frames = "failed", 0
        try:
            for event in super().__iter__():
                if isinstance(event, Frame):
                    if frames == self._held:
                        self._hold()
                    frames += 1
                    self._note("frame")
                yield event
            outcome = "end"
        except (Cancelled, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            self._note(outcome)

    def _hold(self) -> None:
        told = JOURNAL.with_name("go")
        while not (told.exists() and self._text in told.read_text().splitlines()):
            if self._cancelled.wait(0.01):
                raise Cancelled

    def _note(self, what: str) -> None:
        with JOURNAL.open("a") as journal:
            journal.write(json.dumps([time.monotonic(), what, self._text]) + "\n")


@functools.cache
def inference() -> VibeVoiceInference:
    return VibeVoiceInference(handler.settings(), ToldEngine())


if __name__ == "__main__":
    handler.inference = inference
    handler.main()
