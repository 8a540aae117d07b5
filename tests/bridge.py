"""The bridge in workerd, as a process of its own; the node beside it starts one after the other.

    with bridge(RUNPOD_URL=..., AUTH_TOKEN=...) as one:
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


class Node:
    """A `serve.mjs`, which runs a bridge at a time. What all its bridges write is in one file."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bridge-node-"))
        self.log = self.folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [require_node(), "test/serve.mjs", str(bundle())],
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )

    def tell(self, line: str, answer: str, seconds: float = 120) -> "re.Match[str]":
        """Waits for a line like `answer`."""
        before = self.log.stat().st_size
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(answer, self.written(before), re.M):
                return found
            time.sleep(0.02)
        raise AssertionError(f"no {answer} from the bridge:\n{self.written(before)[-2000:]}")

    def written(self, start: int) -> str:
        return self.log.read_bytes()[start:].decode()

    def end(self) -> None:
        try:
            self.process.communicate(timeout=60)  # which closes its standard input
        finally:
            self.process.kill()
            shutil.rmtree(self.folder)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A running bridge."""

    url: str
    node: Node
    begin: int

    def log(self) -> str:
        """All that it wrote."""
        return self.node.written(self.begin)

    def workers(self) -> list[psutil.Process]:
        """Its processes of workerd. A node from a wheel has a script around it: a child, too."""
        children = psutil.Process(self.node.process.pid).children(recursive=True)
        return [child for child in children if Path(child.exe()).name == "workerd"]

    def memory_mb(self) -> float:
        """What workerd holds in RAM now."""
        return float(sum(child.memory_info().rss for child in self.workers())) / 1e6


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


_idle: list[Node] = []


@atexit.register
def _end() -> None:
    for node in _idle:
        node.end()


@contextmanager
def bridge(**settings: str) -> Iterator[Bridge]:
    """A bridge that takes requests. It ends with the block and leaves no workerd behind."""
    node = _idle.pop() if _idle else Node()
    begin = node.log.stat().st_size
    try:
        one = Bridge(node.tell(json.dumps(settings), r"^ready (\S+)$")[1], node, begin)
        try:
            yield one
        finally:
            workers = one.workers()
            node.tell("", "^ended$")
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert not alive, f"{alive} outlived the bridge"
    except BaseException:
        node.end()
        raise
    _idle.append(node)
