"""As much of a container's build as goes without a container engine: a Dockerfile, replayed.

    with Image(folder, ROOT, BAKE="1") as image:       # FROM is this machine, in an overlay
        image.run(["bash", "bootstrap.sh"], {...})     # in a chroot, as CMD would be

Knows the instructions that our Dockerfile uses. RUN lines that install Debian packages are left
out. Needs root, and a Linux that mounts overlays.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Self


def instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole)]


def context(root: Path) -> list[str]:
    """The files that .dockerignore lets into a build, as paths below `root`."""
    rules = [
        line for line in (root / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [path for path in listed.stdout.splitlines() if not _ignored(path, rules)]


def _ignored(path: str, rules: list[str]) -> bool:
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!").removesuffix("/")
        parents = [path, *(str(parent) for parent in Path(path).parents if parent.name)]
        deep = pattern.startswith("**/")
        if any(
            fnmatch(Path(each).name if deep else each, pattern.removeprefix("**/"))
            and (deep or each.count("/") == pattern.count("/"))
            for each in parents
        ):
            ignored = not rule.startswith("!")
    return ignored


class Image:
    """`packages` are what apt-get would have installed; `env` and `command` are the image's."""

    def __init__(self, folder: Path, root: Path, **arguments: str) -> None:
        self.folder, self.root, self.arguments = folder, root, arguments
        self.packages: list[str] = []
        self.env: dict[str, str] = {"PATH": os.environ["PATH"]}
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.workdir = "/"

    def __enter__(self) -> Self:
        self.layer = self.folder / "layer"
        self.layer.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)

    def build(self, dockerfile: str, during: Mapping[str, str]) -> None:
        """Replays the lines; `during` are further variables of RUN."""
        files = context(self.root)
        for word, rest in instructions(dockerfile):
            match word:
                case "FROM":
                    assert re.fullmatch(r"[\w./-]+:[\w.-]+", rest), rest
                case "ARG":
                    name, _, default = rest.partition("=")
                    self.arguments.setdefault(name, default)
                case "ENV":
                    self.env |= dict(item.split("=", 1) for item in shlex.split(rest))
                case "WORKDIR":
                    self.workdir = rest
                    self._inside(rest).mkdir(parents=True)
                case "COPY":
                    self._copy(rest.split(), files)
                case "RUN" if "apt-get install" in rest:
                    found = rest.partition("--no-install-recommends")[2].partition("&&")[0]
                    self.packages = found.split()
                case "RUN":
                    done = self.run(["/bin/sh", "-c", rest], {**self.arguments, **during})
                    assert done.returncode == 0, done.stdout
                case "ENTRYPOINT":
                    self.entrypoint = json.loads(rest)
                case "CMD":
                    self.command = json.loads(rest)
                case _:
                    raise AssertionError(f"{word} cannot be replayed")

    def _copy(self, words: list[str], files: list[str]) -> None:
        *sources, target = words
        for source in sources:
            is_folder = source.endswith("/")
            taken = [
                path for path in files
                if (path.startswith(source) if is_folder else fnmatch(path, source))
                and (is_folder or "/" not in path)
            ]  # fmt: skip
            assert taken, f"COPY {source}: there is no such file in the build's context"
            for path in taken:
                inside = path.removeprefix(source) if is_folder else path
                place = self._inside(str(Path(self.workdir, target, inside)))
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.root / path, place)

    def _inside(self, path: str) -> Path:
        return self.layer / path.lstrip("/")

    def files(self) -> list[str]:
        """All files of the image's own, as absolute paths in it."""
        found = (path for path in self.layer.rglob("*") if path.is_symlink() or path.is_file())
        return sorted("/" + str(path.relative_to(self.layer)) for path in found)

    def run(
        self, command: list[str], env: Mapping[str, str], timeout: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command in the image; what it writes stays in the image's layer."""
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        script = f"""
            mount -t tmpfs none {scratch} && mkdir {scratch}/up {scratch}/work {scratch}/root
            cp -a {self.layer}/. {scratch}/up
            mount -t overlay none -o lowerdir=/,upperdir={scratch}/up,workdir={scratch}/work \\
                {scratch}/root
            mount --rbind /proc {scratch}/root/proc && mount --rbind /dev {scratch}/root/dev
            set +e
            chroot {scratch}/root sh -c 'cd "$0" && exec "$@"' {self.workdir} "$@"
            status=$?
            umount -l {scratch}/root && cp -a {scratch}/up/. {self.layer}
            exit $status
        """
        return subprocess.run(
            ["unshare", "-m", "bash", "-ec", script, "--", *command],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=timeout,
        )  # fmt: skip
