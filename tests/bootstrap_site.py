"""A place where bootstrap.sh runs for real: a volume, a git repository, wheels, the code's folder.

    site = Site(tmp_path)
    run = site.run()                    # to its end: the handler is a stub that says what it got
    assert run.handler["prefix"] == ...

    site.give_environment()             # as a start before left it on the volume; made once

The virtual environment takes its one wheel from a folder, and sees this process's own packages
through that wheel, so it is made in a second and has the real huggingface_hub and torch in it.
"""

import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.need import require_mounts, require_program
from tests.wheels import make_wheel

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "api", "audio", "delivery", "engines", "request", "synthesis", "text", "transcription",
    "voices", "worker",
)  # fmt: skip
"""The packages that a worker runs."""
MODEL_FILE = Path("vibevoice", "modular", "modeling_vibevoice_inference.py")
PYTHON = f"{sys.base_prefix}/bin/python3.{sys.version_info.minor}"
REPOSITORY = "https://git.example.com/VibeVoice.git"
STUB = """\
import json, os, sys
print("HANDLER " + json.dumps({"prefix": sys.prefix, "arguments": sys.argv[1:], "cwd": os.getcwd(),
    "pid": os.getpid(), "env": dict(os.environ)}), flush=True)
from provision.begin import up
up()
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A bootstrap that has ended. `log` is what it and its handler said."""

    status: int
    log: str

    @property
    def handler(self) -> dict[str, Any]:
        """What the stub saw."""
        (line,) = [line for line in self.log.splitlines() if line.startswith("HANDLER ")]
        seen: dict[str, Any] = json.loads(line.removeprefix("HANDLER "))
        return seen


class Site:
    """Everything below `folder`. `env` are the settings of every run; change it at will."""

    def __init__(self, folder: Path, handler: str | None = STUB) -> None:
        require_program("git", "git")
        self.folder = folder
        self.volume = folder / "network volume" / "vibevoice"
        self.local = folder / "container disk"
        self.code = folder / "workspace"
        self.origin = folder / "origin"
        self.wheels = folder / "wheels"
        self.pipe: int | None = None  # what a test has a process wait for
        for each in (self.volume.parent, self.code, self.wheels, folder / "tmp", folder / "home"):
            each.mkdir(parents=True)
        for path in ROOT.iterdir():
            if path.suffix in (".sh", ".py", ".txt") or path.name in (*ROOMS, "provision"):
                (self.code / path.name).symlink_to(path)
        if handler is not None:
            (self.code / "handler.py").unlink()
            (self.code / "handler.py").write_text(handler)
        self.requirements = self.code / "requirements-test.txt"
        # The same address and commits at every site, so that a volume may be copied to another.
        self.git_config = folder / "config" / "git" / "config"
        self.git_config.parent.mkdir(parents=True)
        self.git_config.write_text(f'[url "{self.origin.as_uri()}"]\ninsteadOf = {REPOSITORY}\n')
        self.configure_pip()
        self.commit = self.push("first")
        self.require("1.0")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "HOSTNAME": "worker",
            "PYTHON": PYTHON,
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "REQUIREMENTS_FILE": str(self.requirements),
            "VIBEVOICE_VOLUME": str(self.volume),
            "VIBEVOICE_LOCAL": str(self.local),
            "VIBEVOICE_REPO": REPOSITORY,
            "VIBEVOICE_REF": self.commit,
            "SKIP_MODEL_DOWNLOAD": "1",
            "LOCK_BEAT_SEC": "0.1",
            "LOCK_LOOK_SEC": "0.05",
            "LOCK_STALE_SEC": "60",
            "OMP_NUM_THREADS": "1",
        }

    # What the volume is made from

    def push(self, text: str, voices: tuple[str, ...] = ("en-Alice_woman",)) -> str:
        """A further commit of the code; gives its hash."""
        if not self.origin.exists():
            self.git("init", "-q", "-b", "main", str(self.origin))
        for path, content in {
            str(MODEL_FILE): f"# {text}\n",
            "demo/voices/streaming.pt": "pickled",
            **{f"demo/voices/{voice}.wav": text for voice in voices},
        }.items():
            file = self.origin / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        self.git("-C", str(self.origin), "add", ".")
        self.git("-C", str(self.origin), "commit", "-q", "-m", text)
        return self.git("-C", str(self.origin), "rev-parse", "HEAD")

    def git(self, *words: str) -> str:
        who = {"NAME": "Test", "EMAIL": "test@example.com", "DATE": "2026-01-01T00:00:00Z"}
        env = os.environ | {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in who.items()
        }
        run = subprocess.run(["git", *words], env=env, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    def configure_pip(self, **options: str) -> None:
        """What pip's configuration file says from now on, beside where the wheels are."""
        options = {"no-index": "true", "find-links": self.wheels.as_uri()} | options
        file = self.folder / "config" / "pip" / "pip.conf"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(["[global]", *(f"{k} = {v}" for k, v in options.items())]))

    def use_package_index(self) -> None:
        """Has pip ask the index that this process would."""
        run = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        said = re.findall(r"^(?:global|install|:env:)\.(.*?)='(.*)'$", run.stdout, re.M)
        self.configure_pip(**{"no-index": "false"} | dict(said))

    def require(self, version: str, data: bytes = b"") -> None:
        """Makes that version of the one package what the environment consists of; `data` is added
        to it."""
        path = sysconfig.get_paths()["purelib"]
        files: dict[str, str | bytes] = {
            "tiny_package.py": f"version = {version!r}\n",
            "tiny.pth": path,
        }
        if data:
            files["tiny_package_data"] = data
        self.requirements.write_text(make_wheel(self.wheels, "tiny_package", version, files))

    def give_environment(self, version: str = "1.0", base: Path | None = None) -> None:
        """Puts the environment of that version there, whole. Its name and definition are the same
        at every site, so the next start uses it as it is."""
        built = environment(version)
        shutil.copytree(built, (base or self.volume) / built.name, symlinks=True)

    # What is done with it

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        return self._start((), arguments, env)

    def start_in(self, wrap: tuple[str, ...], **env: str) -> "subprocess.Popen[str]":
        return self._start(wrap, (), env)

    def run(self, *arguments: str, **env: str) -> Run:
        return ended(self._start((), arguments, env))

    def run_in(self, wrap: tuple[str, ...], *arguments: str, **env: str) -> Run:
        """Runs it by another program, which is given the command."""
        return ended(self._start(wrap, arguments, env))

    def run_traced(self, **env: str) -> tuple[Run, list[str]]:
        """With the system calls, up to the handler's, that begin a process or open a connection."""
        require_program("strace", "strace")
        trace = self.folder / "trace"
        calls = "execve,fork,vfork,clone,clone3,socket,connect"
        run = self.run_in(("strace", "-f", "-o", str(trace), "-e", f"trace={calls}"), **env)
        lines = trace.read_text().splitlines()
        lines = lines[: next(n for n, line in enumerate(lines) if "bin/python" in line) + 1]
        # bash itself may ask the system's name service, a socket on this machine, who its user is
        return run, [line.split()[1].split("(")[0] for line in lines if "AF_UNIX" not in line]

    def _start(
        self, wrap: tuple[str, ...], arguments: tuple[str, ...], env: dict[str, str]
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*wrap, "bash", str(self.code / "bootstrap.sh"), *arguments],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def inside_mounts(self, commands: str) -> tuple[str, ...]:
        """What runs a bootstrap in a mount namespace of its own, after these shell commands."""
        require_mounts()
        return ("unshare", "-m", "bash", "-ec", f'{commands}\nexec "$@"', "--")

    # What is there then

    def parts(self, base: Path | None = None) -> list[str]:
        """The parts' folders, the unfinished ones too."""
        base = base or self.volume
        names = ("venv-*", "vibevoice-*", ".building-*", ".trash-*")
        return sorted(path.name for name in names for path in base.glob(name))

    def voices(self) -> list[str]:
        return sorted(path.name for path in (self.volume / "demo" / "voices").iterdir())

    def manifest(self, path: str = ".first_run_complete") -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.volume / path).read_text())
        return read

    def pids(self) -> list[int]:
        """What still runs with this site's folder in its environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    held = (entry / "environ").read_bytes()
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue
                if f"{self.folder}/".encode() in held and state != "Z":
                    found.append(int(entry.name))
        return found

    def temporary_folders(self) -> list[Path]:
        return list((self.folder / "tmp").glob("tmp*"))

    def end(self) -> None:
        """Kills what a failed test left running."""
        self.close_pipe()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close_pipe(self) -> None:
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None

    def processes(self) -> list[str]:
        """The commands of `pids`."""
        commands = []
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                commands.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        return commands

    def assert_ready(self, run: Run, version: str = "1.0", base: Path | None = None) -> None:
        """The handler ran, in a whole environment with the code; nothing half is left over."""
        base = base or self.volume
        assert run.status == 0, run.log
        env = run.handler["env"]
        assert env["VIBEVOICE_VOLUME"] == str(base), run.log
        seen = subprocess.run(
            [f"{run.handler['prefix']}/bin/python", "-c",
             "import tiny_package; print(tiny_package.version)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert seen.stdout.strip() == version
        assert Path(env["VIBEVOICE_CODE"], MODEL_FILE).is_file()
        assert (base / "venv").resolve() == Path(run.handler["prefix"]).resolve()
        assert not [name for name in self.parts(base) if name.startswith(".")]

    def assert_ready_from_image(self, run: Run, base: Path) -> None:
        """The same with all that is baked into the image."""
        assert run.status == 0, run.log
        env = run.handler["env"]
        assert env["VIBEVOICE_VOLUME"] == str(base), run.log
        assert Path(run.handler["prefix"]).parent == self.local
        assert Path(env["VIBEVOICE_CODE"]).parent == self.local


@functools.cache
def environment(version: str) -> Path:
    """The environment of that version, as bootstrap.sh builds it."""
    folder = Path(tempfile.mkdtemp(prefix="bootstrap-"))
    atexit.register(shutil.rmtree, folder)
    site = Site(folder / "a site")
    site.require(version)
    run = site.run("--prefetch")
    assert run.status == 0, run.log
    (built,) = site.volume.glob("venv-*")
    return built


def hook(site: Site, code: str) -> dict[str, str]:
    """Settings with which that code runs at the beginning of every Python."""
    path = site.folder / "hook" / "sitecustomize.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    return {"PYTHONPATH": str(path.parent)}


def ended(process: "subprocess.Popen[str]", timeout: float = 300) -> Run:
    try:
        log, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        log, _ = process.communicate()
        raise AssertionError(f"not ended within {timeout} s:\n{log}") from None
    return Run(process.returncode, log)


def until(ready: Callable[[], object], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.02)
