"""An engine in a process of its own keeps the contract, and is started anew when it is lost."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from config import Settings
from engines.backoff import Backoff
from engines.base import Engine, Frame, Plan, PlannedChunk, Turn, Voice
from engines.espeak.engine import EspeakEngine
from engines.registry import create_engine
from engines.subprocess import SubprocessEngine
from request.errors import Cancelled, EngineError, EngineLost
from tests.engine_contract import EngineContract, assert_same, in_threads
from tests.http_server import ROOT, wait_for

SETTINGS = Settings.from_env({"HF_TOKEN": "hush"}).engine_settings


def plan_of(text: str) -> Plan:
    return Plan((PlannedChunk((Turn(0, text),), 1),), (Voice("Mary"),))


PLAN = plan_of("The first train leaves at six. " * 20)


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.seconds += seconds


class TestSubprocessEngine(EngineContract):
    def make_engine(self) -> Engine:
        return SubprocessEngine("espeak", SETTINGS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[SubprocessEngine]:
    one = SubprocessEngine("espeak", SETTINGS, clock)
    yield one
    one.close()


@pytest.fixture
def fragile(
    engine: SubprocessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SubprocessEngine:
    """With `tests.fragile_child` on the other side; it finds BROKEN in `tmp_path`."""
    monkeypatch.setattr("engines.process._COMMAND", ("-P", "-m", "tests.fragile_child"))
    engine._made_by = ("espeak", SETTINGS | {"model_path": str(tmp_path)})
    return engine


def pid_of(engine: SubprocessEngine) -> int:
    assert engine._process is not None
    return engine._process._child.pid


def kill(engine: SubprocessEngine) -> None:
    os.kill(pid_of(engine), signal.SIGKILL)
    wait_for(lambda: not engine.ready)


def restarts(engine: SubprocessEngine) -> float:
    return engine.capabilities.figures["restarts"]


def wait_until_due(engine: SubprocessEngine) -> float:
    """Waits until the loss is known; gives the seconds until the next start."""
    wait_for(lambda: engine._backoff.left())
    return engine._backoff.left()


# What it does as long as it lives


def test_it_speaks_the_samples_that_it_speaks_here(engine: SubprocessEngine) -> None:
    here = EspeakEngine()
    found = engine.capabilities
    assert (found.name, found.voices) == (here.capabilities.name, here.capabilities.voices)
    assert found.figures == {"restarts": 0}
    assert_same(list(engine.start(PLAN)), list(here.start(PLAN)))


def test_only_an_engine_that_gains_by_it_gets_a_process() -> None:
    assert isinstance(create_engine("espeak", SETTINGS, subprocess=True), EspeakEngine)
    assert isinstance(create_engine("vibevoice", SETTINGS, subprocess=True), SubprocessEngine)
    assert not isinstance(create_engine("vibevoice", SETTINGS), SubprocessEngine)


def test_an_engine_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(EngineError, match="ENGINE=sox is unknown: set it to auto, vibevoice, real"):
        create_engine("sox", SETTINGS)


def test_a_process_that_dies_by_a_signal_while_a_start_is_young_leaves_word(
    fragile: SubprocessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / ".failed-1"
    monkeypatch.setenv("VIBEVOICE_FAILED", str(note))
    (tmp_path / "CUT").touch()
    with pytest.raises(EngineLost):
        fragile.load()
    assert note.read_text().startswith("Fatal Python error: Bus error\n")


def test_a_process_that_fails_to_import_while_a_start_is_young_leaves_word(
    fragile: SubprocessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / ".failed-1"
    monkeypatch.setenv("VIBEVOICE_FAILED", str(note))
    (tmp_path / "BROKEN").touch()
    fragile.check()
    with pytest.raises(EngineError, match="the model is broken"):
        fragile.load()
    assert not note.read_bytes()
    (tmp_path / "IMPORT").touch()
    with pytest.raises(EngineError, match="the code cannot be imported"):
        fragile.load()
    assert note.read_text() == "ImportError: libtorch_cpu.so: file too short\n"


def test_what_it_refuses_comes_over_in_words() -> None:
    engine = SubprocessEngine("vibevoice", SETTINGS | {"model_path": "/nowhere/at/all"})
    with pytest.raises(EngineError) as caught:
        engine.check()
    assert str(caught.value)
    assert type(caught.value) is EngineError
    engine.close()


@pytest.mark.parametrize(
    ("text", "kind"), [("a secret crash", "RuntimeError"), ("refused", "ConnectionRefusedError")]
)
def test_what_nobody_foresaw_fails_the_speech_alone_and_quotes_nothing(
    fragile: SubprocessEngine, caplog: pytest.LogCaptureFixture, text: str, kind: str
) -> None:
    reader = iter(fragile.start(plan_of(text)))
    assert isinstance(next(reader), Frame)
    with pytest.raises(EngineError, match=rf"^the engine failed \({kind}\)$") as caught:
        list(reader)
    assert not isinstance(caught.value, EngineLost)
    pid = pid_of(fragile)
    assert list(fragile.start(plan_of("and on")))
    assert pid_of(fragile) == pid
    wait_for(lambda: f"internal error: {kind}" in caplog.text)
    assert "secret" not in caplog.text


def test_its_log_is_the_parents_and_its_output_is_no_answer(
    fragile: SubprocessEngine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "vibevoice"):
        assert list(fragile.start(plan_of("log")))
        line = ("vibevoice", logging.WARNING, "a line of the engine's")
        wait_for(lambda: line in caplog.record_tuples)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "printed by a library" in captured.err


def test_a_cancel_reaches_a_speech_that_makes_nothing(
    fragile: SubprocessEngine, caplog: pytest.LogCaptureFixture
) -> None:
    fragile.load()
    speech = fragile.start(plan_of("held"))
    threading.Timer(0.3, speech.cancel).start()
    with pytest.raises(Cancelled):
        list(speech)
    wait_for(lambda: "it was cancelled" in caplog.text)


def test_a_cancel_frees_the_other_side_at_once(
    engine: SubprocessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.process._END_SEC", 120)
    reader = iter(engine.start(PLAN))
    next(reader)
    del reader
    process = engine._process
    engine.close()
    assert process is not None
    assert process._child.returncode == 0  # it was not killed


# How it ends


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_its_parent_whatever_ends_that(signum: int) -> None:
    code = (
        "import os; from config import Settings; from engines.subprocess import SubprocessEngine\n"
        "engine = SubprocessEngine('espeak', Settings.from_env({}).engine_settings)\n"
        "engine.load()\n"
        f"print(engine._process._child.pid, flush=True); os.kill(os.getpid(), {int(signum)})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == -signum
    assert run.stderr == ""
    wait_for(lambda: is_gone(int(run.stdout)))


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_signals_that_a_whole_group_gets_leave_its_end_to_the_parent(
    engine: SubprocessEngine,
) -> None:
    reader = iter(engine.start(PLAN))
    next(reader)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(pid_of(engine), signum)
    assert list(reader)
    assert restarts(engine) == 0


def test_closed_in_the_middle_of_a_speech_it_is_lost_for_that_alone(
    engine: SubprocessEngine,
) -> None:
    reader = iter(engine.start(PLAN))
    next(reader)
    first = pid_of(engine)
    engine.close()
    with pytest.raises(EngineLost):
        list(reader)
    engine.load()
    assert pid_of(engine) != first
    assert restarts(engine) == 0, "nobody asked for it meanwhile"


def test_an_engine_that_hangs_at_its_end_leaves_no_process(
    fragile: SubprocessEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fragile.load()
    (tmp_path / "HANGS").touch()
    process = fragile._process
    fragile.close()
    assert process is not None
    assert process._child.returncode == 1  # by itself: a parent that was killed could not help
    assert "in close" in capfd.readouterr().err


# How it comes back


def test_one_that_is_killed_in_a_speech_fails_it_and_speaks_the_next(
    engine: SubprocessEngine, clock: Clock
) -> None:
    whole = list(engine.start(PLAN))
    reader = iter(engine.start(PLAN))
    next(reader)
    kill(engine)
    with pytest.raises(EngineLost):
        list(reader)
    assert wait_until_due(engine) == 1
    clock.move(1)
    assert_same(list(engine.start(PLAN)), whole)
    assert restarts(engine) == 1


def test_it_is_ready_again_without_being_asked(engine: SubprocessEngine, clock: Clock) -> None:
    engine.load()
    kill(engine)
    wait_until_due(engine)
    clock.move(1)
    wait_for(lambda: engine.ready)
    assert restarts(engine) == 1


def test_a_device_that_fails_costs_the_process_and_no_further_speech(
    fragile: SubprocessEngine, clock: Clock
) -> None:
    reader = iter(fragile.start(plan_of("lost")))
    next(reader)
    with pytest.raises(EngineLost, match="the GPU failed"):
        list(reader)
    assert not fragile.ready
    wait_until_due(fragile)
    clock.move(1)
    assert list(fragile.start(plan_of("and on")))
    assert restarts(fragile) == 1


def test_each_loss_doubles_the_pause_and_a_far_start_is_told(
    engine: SubprocessEngine, clock: Clock
) -> None:
    engine.load()
    for number, pause in enumerate((1, 2, 4)):
        kill(engine)
        assert wait_until_due(engine) == pause
        assert engine.lost == (number == 2)
        clock.move(pause)
        wait_for(lambda: engine.ready)
        assert not engine.lost
    kill(engine)
    assert wait_until_due(engine) == 8
    for ask in (engine.load, engine.check, lambda: list(engine.start(PLAN))):
        with pytest.raises(EngineLost) as caught:
            ask()
        assert caught.value.problems[0].retry == 8
    assert engine.inspect().name == "espeak", "what is known of it is known on"
    assert restarts(engine) == 3


def test_who_asks_in_a_short_pause_waits_and_may_leave(
    engine: SubprocessEngine, clock: Clock
) -> None:
    engine.load()
    kill(engine)
    wait_until_due(engine)
    before = clock.seconds
    kept, dropped = engine.start(PLAN), engine.start(PLAN)
    heard: list[Any] = []
    waiting = threading.Thread(target=lambda: heard.extend(kept))
    waiting.start()
    threading.Timer(0.1, dropped.cancel).start()
    late = threading.Timer(20, clock.move, [1])
    late.start()
    with pytest.raises(Cancelled):
        list(dropped)
    assert clock.seconds == before, "it left only when the pause was over"
    assert not heard
    late.cancel()
    clock.move(1)
    waiting.join(60)
    assert len(heard) > 100


def test_one_that_cannot_be_loaded_anew_is_tried_until_it_can(
    fragile: SubprocessEngine, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fragile.load()
    (tmp_path / "BROKEN").touch()
    kill(fragile)
    assert wait_until_due(fragile) == 1
    clock.move(1)
    wait_for(lambda: fragile._backoff.left() == 2)
    assert "cannot be loaded anew: MODEL_PATH: the model is broken" in caplog.text
    (tmp_path / "BROKEN").unlink()
    clock.move(2)
    wait_for(lambda: fragile.ready)


def test_one_that_is_closed_in_the_pause_stays_closed(
    engine: SubprocessEngine, clock: Clock
) -> None:
    engine.load()
    kill(engine)
    wait_until_due(engine)
    engine.close()
    clock.move(60)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "engine"])
    assert engine._process is None


def test_one_for_which_no_process_can_be_started_is_lost_in_the_end(
    engine: SubprocessEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    engine.load()
    clock.move(3600)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        kill(engine)
        for pause in (1, 2, 4, 8):
            assert wait_until_due(engine) == pause
            assert engine.lost == (pause >= 4)
            clock.move(pause)
        assert wait_until_due(engine) == 16
        with pytest.raises(EngineLost):
            list(engine.start(PLAN))
    clock.move(16)
    wait_for(lambda: engine.ready)


def test_one_that_worked_for_long_is_not_given_up_for_what_was_before(
    engine: SubprocessEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load()
    for pause in (1, 2, 4):
        kill(engine)
        assert wait_until_due(engine) == pause
        clock.move(pause)
        wait_for(lambda: engine.ready)
    clock.move(3600)
    process = engine._process
    assert process is not None
    let_go = threading.Event()
    reap = process.reap
    monkeypatch.setattr(process, "reap", lambda: (let_go.wait(), reap())[1])
    process.kill()
    found = (engine.ready, engine.lost)
    let_go.set()
    assert found == (False, False)
    assert wait_until_due(engine) == 1


def test_one_that_is_closed_while_its_successor_begins_stays_closed(
    engine: SubprocessEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load()
    succeed = engine._succeed

    def and_close(*arguments: Any) -> Any:
        successor = succeed(*arguments)
        if successor is not None:
            engine.close()
        return successor

    monkeypatch.setattr(engine, "_succeed", and_close)
    kill(engine)
    wait_until_due(engine)
    clock.move(1)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "engine"])
    assert engine._process is None


def test_one_that_cannot_even_be_killed_is_succeeded(
    engine: SubprocessEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process is that waits in the kernel for a GPU that is gone."""
    monkeypatch.setattr("engines.process._END_SEC", 0.1)
    engine.load()
    process = engine._process
    assert process is not None
    child = process._child

    def never(timeout: float | None = None) -> int:
        if timeout is None:
            threading.Event().wait()
        raise subprocess.TimeoutExpired("", timeout or 0)

    with monkeypatch.context() as patch:
        patch.setattr(child, "wait", never)
        process.kill()
        assert wait_until_due(engine) == 1
    child.wait()
    clock.move(1)
    wait_for(lambda: engine.ready)


def test_what_the_engine_has_begun_does_not_keep_it_from_coming_back(
    fragile: SubprocessEngine, clock: Clock, tmp_path: Path
) -> None:
    """A program that a library leaves running holds no descriptor of the engine's."""
    number = tmp_path / "program"
    assert list(fragile.start(plan_of(str(number))))
    try:
        os.kill(pid_of(fragile), signal.SIGKILL)
        wait_for(lambda: fragile._backoff.left(), 20)
    finally:
        os.kill(int(number.read_text()), signal.SIGKILL)
    clock.move(1)
    wait_for(lambda: fragile.ready)


def test_whoever_listens_at_a_death_is_told_and_all_others_hear_the_whole() -> None:
    engine = SubprocessEngine("espeak", SETTINGS, lambda: 1000 * time.monotonic())
    whole = list(engine.start(PLAN))
    outcomes: list[str] = []
    over = threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            if number:
                try:
                    assert_same(list(engine.start(PLAN)), whole)
                    outcomes.append("whole")
                except EngineLost:
                    outcomes.append("lost")
            elif engine.capabilities.figures["restarts"] == 4:
                over.set()
            elif engine.ready and not over.wait(0.3):
                os.kill(pid_of(engine), signal.SIGKILL)

    in_threads(5, work)
    assert set(outcomes) == {"whole", "lost"}
    assert_same(list(engine.start(PLAN)), whole)
    engine.close()


def of_losses(*lives: float | None) -> list[float]:
    """The pauses after lives that lasted so many seconds (None: it never could speak)."""
    clock, found = Clock(), []
    backoff = Backoff(clock)
    for life in lives:
        since = None if life is None else clock.seconds
        clock.seconds += life or 0
        backoff.lost(since)
        found.append(backoff.left())
        clock.seconds += backoff.left()
        assert backoff.left() == 0
    return found


@pytest.mark.parametrize(
    ("lives", "pauses"),
    [
        ((0, 59, None, 0, 59, 0, 0, 0), [1, 2, 4, 8, 16, 32, 60, 60]),
        ((0, 0, 60, 0), [1, 2, 1, 2]),
        ((None,) * 2000, [1, 2, 4, 8, 16, 32, *[60] * 1994]),
    ],
)
def test_pauses_double_up_to_a_minute_and_begin_anew_after_one_of_work(
    lives: tuple[float | None, ...], pauses: list[float]
) -> None:
    assert of_losses(*lives) == pauses
