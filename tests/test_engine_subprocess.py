"""An engine in a process of its own keeps the contract, and its end is noticed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from engines.base import Engine, Plan, PlannedChunk, Turn, Voice
from engines.espeak.engine import EspeakEngine
from engines.subprocess import SubprocessEngine
from request.errors import EngineError, EngineLost
from tests.engine_contract import EngineContract, assert_same
from tests.http_server import ROOT, wait_for

PLAN = Plan(
    (PlannedChunk((Turn(0, "The first train leaves at six. " * 20),), 1),), (Voice("Mary"),)
)


class TestApartEngine(EngineContract):
    def make_engine(self) -> Engine:
        return SubprocessEngine("espeak")


@pytest.fixture
def engine() -> Iterator[SubprocessEngine]:
    one = SubprocessEngine("espeak")
    yield one
    one.close()


def pid_of(engine: SubprocessEngine) -> int:
    assert engine._process is not None
    return engine._process.pid


def test_it_speaks_the_samples_that_it_speaks_here(engine: SubprocessEngine) -> None:
    assert engine.capabilities == EspeakEngine.capabilities
    assert_same(list(engine.start(PLAN)), list(EspeakEngine().start(PLAN)))


def test_what_an_engine_says_of_itself_is_asked_for_anew(engine: SubprocessEngine) -> None:
    known = engine.capabilities
    assert engine.inspect() == known
    os.kill(pid_of(engine), signal.SIGKILL)
    assert engine._process is not None
    engine._process.wait(10)
    assert engine.inspect() == known, "an engine that is lost keeps its name"


def test_a_process_that_dies_is_a_lost_engine(engine: SubprocessEngine) -> None:
    reader = iter(engine.start(PLAN))
    next(reader)
    os.kill(pid_of(engine), signal.SIGKILL)
    with pytest.raises(EngineLost):
        list(reader)
    wait_for(lambda: not engine.ready)
    for ask in (engine.load, engine.check, lambda: list(engine.start(PLAN))):
        with pytest.raises(EngineLost):
            ask()


def test_what_it_refuses_comes_over_in_words() -> None:
    engine = SubprocessEngine("vibevoice", model="/nowhere/at/all")
    with pytest.raises(EngineError) as caught:
        engine.check()
    assert str(caught.value)
    assert not isinstance(caught.value, EngineLost)
    engine.close()


def test_it_ends_with_its_parent_even_when_that_is_killed() -> None:
    code = (
        "import os, signal; from engines.subprocess import SubprocessEngine\n"
        "engine = SubprocessEngine('espeak'); engine.load()\n"
        "print(engine._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pid = int(run.stdout)

    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(gone)


def test_a_cancel_frees_the_other_side_at_once(
    engine: SubprocessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.subprocess._END_SEC", 120)
    reader = iter(engine.start(PLAN))
    next(reader)
    del reader
    process = engine._process
    engine.close()
    assert process is not None
    assert process.returncode == 0  # it was not killed
