"""Frames between VibeVoice's thread and the reader's."""

import errno
import os
import threading

import numpy as np
import pytest

from engines.base import End, Frame
from engines.vibevoice.frames import Frames
from request.errors import Cancelled


def frame(number: int, length: int = 5) -> Frame:
    return Frame(number // 10, np.full(length, number, np.float32))


def read(frames: Frames) -> list[int | str]:
    return [int(event.samples[0]) if isinstance(event, Frame) else event.reason for event in frames]


@pytest.mark.parametrize("in_memory", [0, 1, 7, 100])
def test_what_memory_does_not_hold_comes_back_from_disk_in_order(in_memory: int) -> None:
    frames = Frames(in_memory)
    for number in range(30):
        frames.put(frame(number, length=1 + number % 4))
        if number % 10 == 9:
            frames.put(End(number // 10, "eos", 3))
    frames.finish()
    events = list(frames)
    lengths = [len(event.samples) for event in events if isinstance(event, Frame)]
    assert lengths == [1 + number % 4 for number in range(30)]
    assert [event.chunk for event in events] == [0] * 11 + [1] * 11 + [2] * 11
    frames.close()


def test_memory_stays_bounded_and_the_file_shrinks_when_read() -> None:
    frames = Frames(in_memory=2)
    reader = iter(frames)
    for lap in range(3):
        for number in range(50):
            frames.put(frame(number))
        assert len(frames._near) == 2
        assert [int(next(reader).samples[0]) for _ in range(50)] == list(range(50)), lap  # type: ignore[union-attr]
        assert frames._spool.count == 0
    frames.close()


def test_a_reader_waits_for_the_maker() -> None:
    frames = Frames(in_memory=3)

    def make() -> None:
        for number in range(200):
            frames.put(frame(number))
        frames.finish()

    maker = threading.Thread(target=make)
    maker.start()
    assert read(frames) == list(range(200))
    maker.join(10)
    frames.close()


def test_an_error_is_raised_after_the_frames() -> None:
    frames = Frames(in_memory=1)
    for number in range(3):
        frames.put(frame(number))
    frames.finish(ValueError("broken"))
    reader = iter(frames)
    assert [int(next(reader).samples[0]) for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="broken"):
        next(reader)
    frames.close()


def test_closing_wakes_the_reader_and_drops_everything() -> None:
    frames = Frames(in_memory=1)
    outcome: list[object] = []

    def work() -> None:
        try:
            outcome.append(read(frames))
        except Cancelled as cancelled:
            outcome.append(cancelled)

    reader = threading.Thread(target=work)
    reader.start()
    frames.close()
    reader.join(10)
    assert isinstance(outcome[0], Cancelled)
    frames.put(frame(1))
    with pytest.raises(Cancelled):
        list(frames)


def test_a_full_disk_ends_one_queue_with_its_error_and_not_the_thread_that_fills_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = Frames(in_memory=3)
    heard: list[int] = []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for number in range(3):
        frames.put(frame(number))
    monkeypatch.setattr(frames._spool, "append", full)
    frames.put(frame(3))
    monkeypatch.undo()
    frames.put(frame(4))  # would leave a gap
    frames.finish()  # is no clean end
    with pytest.raises(OSError, match="No space left on device"):
        for event in frames:
            assert isinstance(event, Frame)
            heard.append(int(event.samples[0]))
    assert heard == [0, 1, 2]
    frames.close()
