"""Fetches VibeVoice's code into a temporary folder, which is then renamed atomically."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from provision.outcome import Refused, say
from provision.parts import read_manifest, remove, size_of, write_manifest
from provision.work import Builder, build_environment

_GIT = ("git", "-c", "safe.directory=*", "-c", "advice.detachedHead=false", "-c", "core.autocrlf=0")


def provide(builder: Builder) -> Path:
    """The folder of VibeVoice's code. One that is damaged is fetched anew, where `builder.look`."""
    wanted = builder.wanted
    found = wanted.find_code()
    is_ours = found == builder.base / wanted.code.name
    if found and not (is_ours and builder.look and _is_damaged(found)):
        return found
    builder.doing(f"fetching VibeVoice's code ({wanted.code.name})")
    code = builder.base / wanted.code.name
    fresh = code.with_name(f".building-{code.name}")
    if fresh.exists():
        shutil.rmtree(fresh)
    builder.room_for("VibeVoice's code", 100)
    fresh.mkdir()
    _fetch(builder, fresh)
    builder.assert_ours()
    remove(code)
    fresh.rename(code)
    return code


def _is_damaged(folder: Path) -> bool:
    if bad := damage(folder):
        say(f"{folder.name} is damaged: {bad[0]}, {len(bad)} in all")
    return bool(bad)


def damage(folder: Path) -> list[str]:
    """The files of a fetched clone that differ from its commit, compared by their content."""
    if not (facts := read_manifest(folder / ".manifest.json")):
        return [".manifest.json"]
    with tempfile.TemporaryDirectory() as place:
        # An index without times and sizes, so that git reads every file.
        env = build_environment() | {"GIT_INDEX_FILE": f"{place}/index"}
        git = (*_GIT, "-C", str(folder))
        reading = subprocess.run(
            [*git, "read-tree", str(facts.get("commit", "HEAD"))],
            env=env, capture_output=True, check=False,
        )  # fmt: skip
        listed = subprocess.run(
            [*git, "ls-files", "-z", "--modified", "--deleted"],
            env=env, capture_output=True, check=False,
        )  # fmt: skip
    if reading.returncode or listed.returncode:
        return [".git"]
    return sorted({os.fsdecode(name) for name in listed.stdout.split(b"\0") if name})


def _fetch(builder: Builder, folder: Path) -> None:
    wanted = builder.wanted
    git = (*_GIT, "-C", folder)
    builder.run(*git, "init", "-q")
    builder.run(*git, "fetch", "-q", "--depth", "1", "--", wanted.repository, wanted.ref)
    builder.run(*git, "checkout", "-q", "--detach", "FETCH_HEAD")
    if not (folder / wanted.code.proof).is_file():
        raise Refused(
            f"there is no VibeVoice that can speak at {wanted.ref};"
            " check VIBEVOICE_REPO and VIBEVOICE_REF"
        )
    wanted.code.keep_definition(folder)
    commit = (folder / ".git" / "HEAD").read_text().strip()  # it is detached
    write_manifest(folder / ".manifest.json", {"commit": commit, "bytes": str(size_of(folder))})
