"""Which models are resident: the eviction policy, and the manager over models of known sizes."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engines.manager import Lease, ModelManager, Policy
from engines.manager.policy import Resident, Verdict
from engines.memory import Memory
from request.errors import EngineError
from tests.http_server import wait_for

SIZES = {"default": 40, "large": 50, "middle": 30, "small": 10, "huge": 200}
LIMIT = 100


class Machine:
    """A machine with `LIMIT` bytes, on which models of known sizes load and close."""

    def __init__(self, sizes_known: bool = True) -> None:
        self.now = 0.0
        self.broken: set[str] = set()
        self.loaded: list[Fake] = []
        self.events: list[tuple[str, str]] = []
        self.most_loading = self.loading = 0
        self.gate: dict[str, threading.Event] = {}
        self._sizes_known = sizes_known
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        return sum(SIZES[each.name] for each in self.loaded)

    def manager(self, policy: Policy, **options: object) -> ModelManager:
        given: dict[str, object] = {"now": lambda: self.now, "patience_sec": 0} | options
        manager = ModelManager(
            policy,
            free=lambda: Memory(LIMIT - self.used, float("inf")),
            used=lambda: Memory(self.used),
            **given,  # type: ignore[arg-type]
        )
        for name, size in SIZES.items():
            manager.register(
                name,
                lambda name=name: Fake(name, self),  # type: ignore[misc]
                fixed=name == "default",
                preloaded=name == "middle",
                expected=Memory(size if self._sizes_known else 0),
            )
        return manager

    @contextmanager
    def busy(self, name: str) -> Iterator[None]:
        with self._lock:
            self.loading += 1
            self.most_loading = max(self.most_loading, self.loading)
        try:
            if name in self.gate:
                self.gate[name].wait(30)
            yield
        finally:
            with self._lock:
                self.loading -= 1


class Fake:
    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self._machine = name, machine
        self.closed = False

    @property
    def ready(self) -> bool:
        return self in self._machine.loaded

    def load(self) -> None:
        machine = self._machine
        with machine.busy(self.name):
            assert not self.closed, "a closed model was loaded"
            if self.ready:
                return
            if self.name in machine.broken:
                raise EngineError("it is broken")
            if machine.used + SIZES[self.name] > LIMIT:
                raise EngineError("it does not fit", code="out_of_memory")
            machine.loaded.append(self)
            machine.events.append(("load", self.name))

    def close(self) -> None:
        self.closed = True
        if self.ready:
            self._machine.loaded.remove(self)
            self._machine.events.append(("unload", self.name))


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def make(machine: Machine) -> Iterator[Callable[..., ModelManager]]:
    made: list[ModelManager] = []

    def make(**options: object) -> ModelManager:
        made.append(machine.manager(Policy(cap=3, ttl_sec=600, least_sec=0), **options))
        return made[-1]

    yield make
    for manager in made:
        manager.close()
    assert machine.loaded == []


def use(manager: ModelManager, *names: str) -> None:
    for name in names:
        with manager.lease(name) as lease:
            lease.load()


def names_of(machine: Machine) -> list[str]:
    return [each.name for each in machine.loaded]


def test_the_least_recently_used_makes_room(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager = make()
    for now, name in enumerate(["middle", "small", "middle", "large"]):
        machine.now = now
        use(manager, name)
    assert names_of(machine) == ["middle", "small", "large"]
    machine.now = 10
    use(manager, "default")
    assert names_of(machine) == ["large", "default"]
    assert [what for what in machine.events if what[0] == "unload"] == [
        ("unload", "small"),
        ("unload", "middle"),
    ]
    assert (manager.usage("small").evictions, manager.usage("large").evictions) == (1, 0)


def test_what_is_held_stays_until_it_is_released(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager = make()
    held = manager.lease("large")
    held.load()
    use(manager, "default")
    with pytest.raises(EngineError) as error, manager.lease("middle") as other:
        other.load()
    assert error.value.problems[0].code == "model_unavailable"
    assert not manager.unload("large")
    held.release()
    use(manager, "middle")
    assert names_of(machine) == ["default", "middle"]


def test_a_load_that_waits_for_room_begins_once_another_is_released(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager = make(patience_sec=30, now=time.monotonic)
    held = manager.lease("large")
    held.load()
    use(manager, "default")
    with manager.lease("middle") as waiting:
        loading = waiting.loading()
        assert not loading.done()
        held.release()
        loading.result(30)
    assert names_of(machine) == ["default", "middle"]


def test_what_never_fits_is_told_so_and_nothing_is_unloaded_for_it(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager = make()
    use(manager, "middle")
    with pytest.raises(EngineError) as error:
        use(manager, "huge")
    assert error.value.problems[0].code == "out_of_memory"
    assert names_of(machine) == ["middle"]


def test_a_model_whose_size_nobody_knew_makes_others_go_when_it_runs_out_of_memory() -> None:
    machine = Machine(sizes_known=False)
    manager = machine.manager(Policy(least_sec=0))
    use(manager, "large", "middle", "default")
    assert names_of(machine) == ["middle", "default"]
    use(manager, "large")  # its size is known now
    assert names_of(machine) == ["default", "large"]
    with pytest.raises(EngineError, match="it does not fit"):
        use(manager, "huge")
    manager.close()


def test_who_asks_at_the_same_time_waits_for_one_load(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager, machine.gate = make(), {"small": threading.Event()}
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(use, manager, "small") for _ in range(8)]
        wait_for(lambda: machine.loading == 1)
        machine.gate["small"].set()
        for each in asked:
            each.result(30)
    assert machine.events == [("load", "small")]


def test_a_failed_load_is_told_to_all_who_waited_and_tried_again_for_the_next(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager, machine.gate = make(), {"small": threading.Event()}
    machine.broken = {"small"}
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(use, manager, "small") for _ in range(8)]
        wait_for(lambda: manager.usage("small").holds == 8 and machine.loading == 1)
        machine.gate["small"].set()
        assert {str(each.exception(30)) for each in asked} == {"it is broken"}
    machine.broken = set()
    use(manager, "small")
    assert (manager.usage("small").failures, manager.usage("small").loads) == (1, 1)


def test_a_resident_model_never_waits_behind_a_load(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager, machine.gate = make(), {"large": threading.Event()}
    use(manager, "small")
    with manager.lease("large") as slow:
        loading = slow.loading()
        wait_for(lambda: machine.loading == 1)
        use(manager, "small")
        assert not loading.done()
        machine.gate["large"].set()
        loading.result(30)


def test_time_unloads_what_is_neither_used_nor_preloaded_nor_the_default(
    machine: Machine, make: Callable[..., ModelManager]
) -> None:
    manager = make()
    use(manager, "default", "middle", "small")
    machine.now = 599
    assert manager.sweep() == 600
    assert names_of(machine) == ["default", "middle", "small"]
    machine.now = 600
    assert manager.sweep() is None
    assert names_of(machine) == ["default", "middle"]


def test_a_thread_unloads_in_time(machine: Machine) -> None:
    manager = machine.manager(Policy(ttl_sec=0.05, least_sec=0), now=time.monotonic)
    manager.watch()
    use(manager, "small")
    wait_for(lambda: not machine.loaded)
    manager.close()


def test_unloaded_on_demand_a_model_comes_back_as_a_new_object(
    make: Callable[..., ModelManager],
) -> None:
    manager = make()
    with manager.lease("small") as lease:
        lease.load()
        first = lease.model
    assert manager.unload("small")
    assert not manager.unload("small")
    with manager.lease("small") as lease:
        assert lease.model is not first
        lease.load()
        assert lease.ready
    use(manager, "default")
    assert not manager.unload("default")


def test_what_was_only_asked_is_closed_with_the_last_lease(
    make: Callable[..., ModelManager],
) -> None:
    manager = make()
    with manager.lease("small") as one, manager.lease("small") as other:
        asked = one.model
        assert other.model is asked
        other.release()
        assert not asked.closed
    assert asked.closed


RESIDENTS = st.lists(
    st.builds(
        Resident,
        st.integers(0, 10**9).map(str),
        st.builds(Memory, st.integers(0, 60), st.integers(0, 60)),
        st.floats(0, 300),
        st.floats(0, 300),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
    unique_by=lambda each: each.name,
)
AMOUNTS = st.builds(Memory, st.integers(0, 120), st.integers(0, 120))


@given(RESIDENTS, AMOUNTS, AMOUNTS, st.floats(300, 400))
def test_whatever_is_resident_the_verdict_keeps_the_rules(
    residents: list[Resident], need: Memory, free: Memory, now: float
) -> None:
    policy = Policy(cap=3, ttl_sec=100, least_sec=60)
    rest = list(residents)
    while (verdict := policy.verdict(rest, need, free, now)).evict:
        (gone,) = (each for each in rest if each.name == verdict.evict)
        assert not gone.held
        assert not gone.fixed
        assert now - gone.loaded_at >= 60
        idle = [e for e in rest if not e.held and not e.fixed and now - e.loaded_at >= 60]
        older = [each for each in idle if each.used_at < gone.used_at]
        lacks = need.beyond(free)
        assert lacks is None or gone.size.overlaps(lacks)
        assert lacks is None or not any(each.size.overlaps(lacks) for each in older)
        rest.remove(gone)
        free += gone.size
    fits = len(rest) < 3 and need.beyond(free) is None
    assert verdict.load == fits
    for name in policy.expired(residents, now):
        (over,) = (each for each in residents if each.name == name)
        assert not (over.held or over.fixed or over.preloaded)
        assert now >= over.used_at + 100
    if verdict.wait_sec is not None:
        assert policy.verdict(rest, need, free, now + verdict.wait_sec + 1e-6) != Verdict()


class Lives(RuleBasedStateMachine):
    """Leases, loads, failures, unloads and time, in any order, over models of known sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.policy = Policy(cap=3, ttl_sec=100, least_sec=20)
        self.manager = self.machine.manager(self.policy)
        self.leases: list[tuple[str, Lease[Fake]]] = []
        self.loaded_at: dict[Fake, float] = {}
        self.default: Fake | None = None

    @rule(name=st.sampled_from(sorted(SIZES)))
    def lease(self, name: str) -> None:
        self.leases.append((name, self.manager.lease(name)))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        name, lease = data.draw(st.sampled_from(self.leases))
        held = {each.model for _, each in self.leases if each.ready}
        before = dict(self.loaded_at)
        try:
            lease.load()
        except EngineError as error:
            code = error.problems[0].code
            assert (code == "engine_failed") == (name in self.machine.broken and code[0] == "e")
        else:
            assert lease.ready
        assert held <= set(self.machine.loaded)
        for gone in before.keys() - set(self.machine.loaded):
            assert self.machine.now - before[gone] >= 20
        self.loaded_at = {each: before.get(each, self.machine.now) for each in self.machine.loaded}

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.leases) - 1))
        self.leases.pop(at)[1].release()

    @rule(name=st.sampled_from(sorted(SIZES)))
    def unload(self, name: str) -> None:
        held = any(each == name for each, _ in self.leases)
        was = name in names_of(self.machine)
        done = self.manager.unload(name)
        assert done == (was and not held and name != "default")

    @rule(name=st.sampled_from(sorted(SIZES)))
    def breaks_or_is_mended(self, name: str) -> None:
        self.machine.broken ^= {name}

    @rule(seconds=st.floats(0, 120))
    def time_passes(self, seconds: float) -> None:
        self.machine.now += seconds
        self.manager.sweep()

    @invariant()
    def memory_is_enough_and_the_cap_holds(self) -> None:
        assert self.machine.used <= LIMIT
        assert len(self.machine.loaded) <= 3

    @invariant()
    def what_the_manager_says_is_so(self) -> None:
        said = [name for name in SIZES if self.manager.usage(name).resident]
        assert sorted(said) == sorted(names_of(self.machine))

    @invariant()
    def the_default_stays(self) -> None:
        now = next((each for each in self.machine.loaded if each.name == "default"), None)
        assert self.default in (None, now)
        self.default = now

    def teardown(self) -> None:
        self.manager.close()
        assert self.machine.loaded == []


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLives = Lives.TestCase


@pytest.mark.parametrize("loads", [1, 2])
def test_many_threads_never_overload_the_machine_nor_lose_what_they_hold(loads: int) -> None:
    machine = Machine()
    policy = Policy(cap=3, ttl_sec=0.01, least_sec=0)
    manager = machine.manager(policy, now=time.monotonic, patience_sec=0.2, loads=loads)
    manager.watch()
    wrong: list[str] = []

    def live(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            name = chance.choice(["default", "large", "middle", "small"])
            with manager.lease(name) as lease, suppress(EngineError):
                lease.load()
                model = lease.model
                time.sleep(chance.random() / 500)
                if not (model.ready and lease.ready and lease.model is model):
                    wrong.append(f"{name} went while it was held")
                if machine.used > LIMIT or len(machine.loaded) > 3:
                    wrong.append(f"too much is loaded: {names_of(machine)}")

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(live, seed) for seed in range(8)]:
            each.result(60)
    manager.close()
    assert wrong == []
    assert machine.most_loading <= loads
    assert all(manager.usage(name).holds == 0 for name in SIZES)
