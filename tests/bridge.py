"""The bridge in workerd, as a process of its own.

    with bridge(folder, RUNPOD_URL=..., AUTH_TOKEN=...) as one:
        httpx.get(one.url + "/health")

What runs is what `wrangler deploy` would upload. Settings are the Worker's variables;
VIBEVOICE_BUCKET="R2" gives it an empty bucket.
"""

import atexit
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.need import require_node

ROOT = Path(__file__).resolve().parent.parent / "bridge"
QUIET = {"WRANGLER_SEND_METRICS": "false", "CLOUDFLARE_CF_FETCH_ENABLED": "false", "CI": "true"}


@dataclass(frozen=True, slots=True)
class Bridge:
    """A running bridge."""

    url: str
    process: "subprocess.Popen[str]"
    folder: Path

    def log(self) -> str:
        """All that it wrote."""
        return (self.folder / "bridge.log").read_text()

    def memory_mb(self) -> float:
        """What workerd holds in RAM now."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return float(sum(child.memory_info().rss for child in children)) / 1e6


def wrangler(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs wrangler with the settings of wrangler.toml.example, as a new user has them."""
    example = (ROOT / "wrangler.toml.example").read_text()
    config = folder / "wrangler.toml"
    config.write_text(example.replace('main = "', f'main = "{ROOT}/'))
    command = [require_node(), str(ROOT / "node_modules/wrangler/bin/wrangler.js")]
    return subprocess.run(
        [*command, *arguments, "--config", str(config)],
        cwd=ROOT,
        env=os.environ | QUIET | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@functools.cache
def bundle() -> Path:
    """The folder with the one file that goes to Cloudflare."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(tempfile.mkdtemp(prefix="bridge-"))
        atexit.register(shutil.rmtree, out)
        run = wrangler("deploy", "--dry-run", "--outdir", str(out), folder=Path(folder))
        assert run.returncode == 0, run.stdout + run.stderr
    return out


@contextmanager
def bridge(folder: Path, **settings: str) -> Iterator[Bridge]:
    """A bridge that takes requests. It ends with the block and leaves no process behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bridge.log").open("w") as log:
        process = subprocess.Popen(
            [require_node(), "test/serve.mjs", str(bundle()), json.dumps(settings)],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
        )
    address = _address(process, folder / "bridge.log")
    try:
        yield Bridge(address, process, folder)
    finally:
        workers = psutil.Process(process.pid).children(recursive=True)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, f"{alive} outlived the bridge"


def _address(process: "subprocess.Popen[str]", log: Path, seconds: float = 120) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if ready := re.search(r"^ready (\S+)$", log.read_text(), re.M):
            return ready[1]
        time.sleep(0.02)
    raise AssertionError(f"the bridge did not start:\n{log.read_text()[-2000:]}")
