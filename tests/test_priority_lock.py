"""The engines' lock that serves in the order of need."""

import threading

import pytest

from engines.priority_lock import PriorityLock
from request.errors import Cancelled


def test_it_serves_in_the_order_of_arrival() -> None:
    line, served, never = PriorityLock(), [], threading.Event()

    def work(number: int) -> None:
        with line.enter(never):
            served.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    with line.enter(never):
        for place, thread in enumerate(threads):
            thread.start()
            while len(line._waiting) < place + 1:
                thread.join(0.001)
        assert served == []
    for thread in threads:
        thread.join(10)
    assert served == list(range(8))


def test_who_needs_it_sooner_is_served_before_who_came_earlier() -> None:
    line, served, never = PriorityLock(), [], threading.Event()

    def work(due: float) -> None:
        with line.enter(never, due):
            served.append(due)

    threads = [threading.Thread(target=work, args=(due,)) for due in (7, 3, 9, 1, 5)]
    with line.enter(never, due=8):
        for place, thread in enumerate(threads):
            thread.start()
            while len(line._waiting) < place + 1:
                thread.join(0.001)
    for thread in threads:
        thread.join(10)
    assert served == [1, 3, 5, 7, 9]


def test_a_cancelled_waiter_leaves_the_line() -> None:
    line, never, cancelled = PriorityLock(), threading.Event(), threading.Event()
    outcome: list[str] = []

    def work() -> None:
        try:
            with line.enter(cancelled):
                outcome.append("served")
        except Cancelled:
            outcome.append("cancelled")

    thread = threading.Thread(target=work)
    with line.enter(never):
        thread.start()
        while not line._waiting:
            thread.join(0.001)
        cancelled.set()
        line.wake()
        thread.join(10)
        assert outcome == ["cancelled"]
        assert not line._waiting


def test_whoever_is_cancelled_before_is_not_served() -> None:
    line, cancelled = PriorityLock(), threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled), line.enter(cancelled):
        raise AssertionError("served")
    with line.enter(threading.Event()):
        assert not line._waiting


def test_an_error_inside_lets_the_next_in() -> None:
    line = PriorityLock()
    with pytest.raises(ValueError, match="inside"), line.enter(threading.Event()):
        raise ValueError("inside")
    assert not line._waiting


def test_as_many_hold_it_as_it_has_places() -> None:
    line, never, served = PriorityLock(2), threading.Event(), []

    def work() -> None:
        with line.enter(never):
            served.append(1)

    thread = threading.Thread(target=work)
    with line.enter(never):
        with line.enter(never):
            thread.start()
            while not line._waiting:
                thread.join(0.001)
            assert served == []
        thread.join(10)
        assert served == [1]
