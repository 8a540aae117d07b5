"""Each engine that runs without a GPU: seconds until the first sound and real-time factor at 1, 2
and 4 streams, beside its bare model in the same process; memory; seconds to load and unload.

python -m bench.engines                    kokoro, piper and espeak
python -m bench.engines kokoro 1 2         one engine, with one thread and with two a run
"""

import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest import mock

import psutil

from config import Settings
from engines.base import Engine, Frame, Plan, PlannedChunk, Turn, Voice
from engines.registry import create_engine

TEXT = (
    "The first train leaves at six in the morning, when the town is still asleep. Nobody waits on"
    " the platform but an old man with a red umbrella. He has come here every day for thirty years,"
    " and he has never missed a train."
)
STREAMS = (1, 2, 4)
ROUNDS = 3


def main() -> None:
    name, *threads = sys.argv[1:] or ["all"]
    print(
        "| engine | threads | streams | first sound | real-time factor | CPU s a second of sound |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for engine_name in ("kokoro", "piper", "espeak") if name == "all" else (name,):
        for count in threads or [""]:
            measure(engine_name, count)


def measure(name: str, threads: str) -> None:
    env = {"CPU_THREADS": threads} if threads else {}
    engine = create_engine(name, Settings.from_env(env).engine_settings)
    before = _memory_mb()
    load_sec = _timed(engine.load)
    list(engine.start(plan("Hi.")))
    loaded = _memory_mb()
    for streams in STREAMS:
        rounds = [speak(engine, streams) for _ in range(ROUNDS)]
        first, factor, cpu = (median(each[place] for each in rounds) for place in range(3))
        print(
            f"| {name} | {threads or 'default'} | {streams} | {first:.2f} s | {factor:.3f} |"
            f" {cpu:.3f} |",
            flush=True,
        )
    if name != "espeak":
        print(f"{name}: {beside_the_model(engine):.3f} times the CPU time of its bare model")
    peak = _memory_mb()
    unload_sec = _timed(engine.close)
    print(
        f"{name}: loads in {load_sec:.2f} s, unloads in {unload_sec:.3f} s, takes"
        f" {loaded - before:.0f} MB loaded and {peak - before:.0f} MB after speaking; of these"
        f" {peak - _memory_mb():.0f} MB are given back"
    )


def plan(text: str, voice: str = "Alice") -> Plan:
    return Plan((PlannedChunk((Turn(0, text),), 1),), (Voice(voice),))


def speak(engine: Engine, streams: int) -> tuple[float, float, float]:
    """Seconds until the last stream has its first sound; seconds and CPU seconds for a second of
    sound of all streams."""
    began, busy = time.monotonic(), time.process_time()
    firsts: list[float] = []
    sound: list[int] = []

    def read() -> None:
        count = 0
        for event in engine.start(plan(TEXT)):
            if isinstance(event, Frame):
                if not count:
                    firsts.append(time.monotonic() - began)
                count += len(event.samples)
        sound.append(count)

    threads = [threading.Thread(target=read) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = sum(sound) / 24_000
    taken, used = time.monotonic() - began, time.process_time() - busy
    return max(firsts), taken / seconds * streams, used / seconds


def beside_the_model(engine: Engine) -> float:
    """The CPU time of speeches by that of the same runs of the model alone, in turns."""
    from engines.onnx import Runner

    run, runs = Runner.run, list[tuple[Any, Any]]()

    def noting(runner: Runner, session: Any, inputs: Any) -> Any:
        runs.append((session, dict(inputs)))
        return run(runner, session, inputs)

    with mock.patch.object(Runner, "run", noting):
        list(engine.start(plan(TEXT)))
    ratios = [
        _busy(lambda: list(engine.start(plan(TEXT))))
        / _busy(lambda: [session.run(None, inputs) for session, inputs in runs])
        for _ in range(ROUNDS)
    ]
    return median(ratios)


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _busy(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _memory_mb() -> float:
    memory: float = psutil.Process().memory_info().rss / 2**20
    return memory


if __name__ == "__main__":
    main()
