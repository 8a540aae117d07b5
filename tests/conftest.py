"""What every test shares: a clean environment, and a real local API that many may call."""

import os
from collections.abc import Iterator
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
