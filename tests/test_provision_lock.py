"""The lock's turns, with a clock that only the tests move: no test waits for anything."""

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.lock import Lock, Pace
from provision.outcome import Refused


@dataclass
class World:
    """A clock. Whoever sleeps on it lets `events` happen, at their seconds."""

    now: float = 0
    events: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
        assert self.now < 1e5, "nothing will ever happen"
        due = [event for event in self.events if event[0] <= self.now]
        self.events = [event for event in self.events if event not in due]
        for _, happens in due:
            happens()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def owner(tmp_path: Path, world: World) -> Lock:
    """A worker, `first`, whose turn it is."""
    lock = Lock(tmp_path / ".lock", "first", clock=world)
    lock.take()
    lock.doing("building")
    return lock


@pytest.fixture
def waiter(tmp_path: Path, world: World) -> Lock:
    return Lock(tmp_path / ".lock", "second", clock=world)


def live(world: World, owner: Lock, until: float, since: float = 0) -> None:
    """The owner shows life as often as it should."""
    beats = range(int(since), int(until), int(owner.pace.beat))
    world.events += [(at, partial(owner.beat, at)) for at in beats]


def test_a_free_lock_is_taken_at_once(owner: Lock, world: World) -> None:
    assert (owner.turn, world.now) == (1, 0)
    assert owner.is_ours()
    assert owner.describe() == "by first, building"


def test_a_released_lock_is_taken_at_the_next_look(owner: Lock, waiter: Lock, world: World) -> None:
    world.events = [(7.2, owner.release)]
    waiter.take()
    assert (waiter.turn, world.now) == (2, 7.5)
    assert not owner.is_ours()
    assert [path.name for path in waiter.folder.iterdir()] == ["2"]
    waiter.release()
    assert waiter.describe() == ""


def test_a_live_lock_is_left_to_its_slow_owner(
    owner: Lock, waiter: Lock, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    live(world, owner, 300)
    world.events.append((300, owner.release))
    waiter.take()
    assert world.now == 300
    assert "took over" not in capsys.readouterr().err


def test_a_stale_lock_is_taken_over(
    owner: Lock, waiter: Lock, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    live(world, owner, 100)
    waiter.take()
    assert 95 + 60 <= world.now <= 95 + 60 + waiter.pace.beat
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "bootstrap: took over from first, not heard of for 60 s"
    assert not owner.is_ours()
    owner.release()  # by who was only slow: the turn is another's
    assert not waiter.is_over(waiter.turn)


def test_an_owner_that_died_before_it_said_its_name_is_taken_over(
    waiter: Lock, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (waiter.folder / "1").mkdir(parents=True)
    waiter.take()
    assert world.now == 60
    assert "took over from a worker unknown" in capsys.readouterr().err


def test_who_was_frozen_with_the_owner_does_not_take_over(
    owner: Lock, waiter: Lock, world: World
) -> None:
    def freeze() -> None:
        world.now += 1000

    live(world, owner, 50)
    world.events.append((50, freeze))
    live(world, owner, 1200, since=1075)
    world.events.append((1200, owner.release))
    waiter.take()
    assert world.now == 1200


def test_who_waits_says_for_whom_and_for_what(
    owner: Lock, waiter: Lock, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.events = [(31, owner.release)]
    waiter.take()
    place = waiter.folder.parent
    assert capsys.readouterr().err.splitlines() == [
        f"bootstrap: waiting for first, which prepares {place} (building); {sec} s so far"
        for sec in (15, 30)
    ]


def test_who_waits_gives_up_before_runpod_ends_the_worker(
    owner: Lock, waiter: Lock, world: World
) -> None:
    live(world, owner, 1000)
    with pytest.raises(Refused, match=r"gave up after 378 s: first still prepares .* \(420 s\)"):
        waiter.take(420)
    assert waiter.turn == 0
    assert owner.is_ours()


def test_the_number_of_a_turn_is_never_given_twice(waiter: Lock) -> None:
    """Who looked long ago may ask for a number whose folder has been cleared away since."""
    (waiter.folder / "7").mkdir(parents=True)
    assert not waiter.begin(3)
    assert not waiter.begin(7)
    assert waiter.begin(8)
    assert waiter.is_ours()
    assert [path.name for path in waiter.folder.iterdir()] == ["8"]


def test_what_is_no_turn_has_no_say(waiter: Lock) -> None:
    waiter.folder.mkdir()
    for name in ("x9", "9x", "-9", "٩"):
        (waiter.folder / name).touch()
    assert waiter.latest() == 0


def test_where_no_folder_can_be_made_it_fails(tmp_path: Path, world: World) -> None:
    (tmp_path / ".lock").touch()
    with pytest.raises(OSError, match=r"\.lock"):
        Lock(tmp_path / ".lock", "first", clock=world).take()


def test_the_pace_is_set_in_seconds_or_parts_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCK_STALE_SEC", ".25")
    monkeypatch.setenv("LOCK_BEAT_SEC", "08")
    monkeypatch.setenv("LOCK_LOOK_SEC", "")
    assert Pace.from_env() == Pace(beat=8, look=0.5, stale=0.25, report=15)


WORKERS = 3
STEPS = st.tuples(st.integers(0, WORKERS - 1), st.sampled_from(["look", "begin", "release", "die"]))


@given(st.lists(STEPS, max_size=25))
def test_whatever_workers_do_one_at_most_has_the_turn(steps: list[tuple[int, str]]) -> None:
    """A worker begins the turn after the one that it saw, however long ago that was. `die`: it is
    another from then on, whom nobody told anything."""
    with tempfile.TemporaryDirectory() as folder:
        locks = [Lock(Path(folder), str(number)) for number in range(WORKERS)]
        seen = [0] * WORKERS
        given_out: list[int] = []
        for who, action in steps:
            lock = locks[who]
            if action == "look":
                seen[who] = lock.latest()
            elif action == "release":
                lock.release()
            elif action == "die":
                locks[who] = Lock(Path(folder), str(who))
            elif lock.begin(seen[who] + 1):
                given_out.append(lock.turn)
            assert sum(lock.is_ours() for lock in locks) <= 1
        assert given_out == sorted(set(given_out))


def test_a_turn_long_gone_whose_folder_is_cleared_meanwhile_is_no_failure(
    owner: Lock, waiter: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was slow begins turn 1 again while its successor clears what it finds."""
    owner.release()
    waiter.take()
    slow = Lock(owner.folder, "slow")
    latest = Lock.latest

    def cleared(lock: Lock) -> int:
        if lock is slow:
            (lock.folder / "1").rmdir()
        return latest(lock)

    monkeypatch.setattr(Lock, "latest", cleared)
    assert slow.begin(1) is False


def test_a_turn_that_was_cleared_away_may_be_called_stale(
    owner: Lock, waiter: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network volume does for a moment."""
    stat, stale = os.stat, [True]

    def stale_once(path: str | Path, *rest: object, **more: object) -> os.stat_result:
        if str(path).endswith("released") and stale and stale.pop():
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(path, *rest, **more)  # type: ignore[arg-type]

    owner.release()
    monkeypatch.setattr(os, "stat", stale_once)
    waiter.take()
    assert waiter.is_ours()
    assert not stale
