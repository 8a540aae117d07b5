"""What every test shares: a clean environment, a lock between the processes that run the tests, and
a real local API that many may call."""

import fcntl
import gc
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, however slow the machine. `--hypothesis-profile=default` looks for
# others.
settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# Before any `import runpod`: it reads its variables then, and asks 8.8.8.8 whether it is online.
for name in [name for name in os.environ if name.startswith(("RUNPOD_", "S3_", "BUCKET_"))]:
    del os.environ[name]
os.environ |= {
    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    "RUNPOD_SKIP_GPU_CHECK": "true",
    "OMP_NUM_THREADS": "1",
}
for name in ("ENGINE", "TEXT", "VOICE", "FORMAT", "MODEL_PATH", "VIBEVOICE_VOLUME"):
    os.environ.pop(name, None)

# Folders stand for the locks: every process of a run has them, and the system frees what a dead
# process held.
TURNSTILE = Path(__file__).resolve().parent
TESTS_AT_WORK = TURNSTILE.parent


@contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child's copy would outlive the closing
        os.close(descriptor)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `clock` runs alone, all others beside each other. Who waits for either holds
    the turnstile, so that no further test begins before one that has to run alone."""
    alone = item.get_closest_marker("clock") is not None
    with ExitStack() as stack:
        with locked(TURNSTILE, fcntl.LOCK_EX):
            stack.enter_context(locked(TESTS_AT_WORK, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that run alone come last, where they keep the fewest others waiting."""
    items.sort(key=lambda item: item.get_closest_marker("clock") is not None)


def pytest_collection_finish() -> None:
    """What is imported stays. Each `gc.collect()` would walk it: 0.23 s once torch is there."""
    gc.freeze()


def pytest_make_parametrize_id(val: object) -> str | None:
    """The beginning of a long text. pytest numbers those that are alike."""
    if not isinstance(val, str | bytes) or len(val) <= 40:
        return None
    return ascii(val[:32])[:40].strip("b'\"") + "..."


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volume")


@pytest.fixture(scope="session")
def local_api(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of `handler.py --rp_serve_api` with the preview voice, as a process of its own."""
    from tools import demo

    environment = {
        "ENGINE": "espeak",
        "VIBEVOICE_VOLUME": str(volume),
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with demo.local_api() as port:
            yield port


@pytest.fixture(scope="session")
def swift_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 store with a bucket, as the settings of a worker that uploads there."""
    from tests.swift import swift_bucket

    with swift_bucket(tmp_path_factory.mktemp("swift")) as of_worker:
        yield of_worker
