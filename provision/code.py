"""Fetches VibeVoice's code into a temporary folder, which is then renamed atomically."""

import shutil
from pathlib import Path

from provision.outcome import Refused
from provision.parts import size_of, write_manifest
from provision.work import Builder


def provide(builder: Builder) -> Path:
    wanted = builder.wanted
    if found := wanted.find_code():
        return found
    builder.doing(f"fetching VibeVoice's code ({wanted.code.name})")
    code = builder.base / wanted.code.name
    fresh = code.with_name(f".building-{code.name}")
    for left in (fresh, code):
        if left.exists():
            shutil.rmtree(left)
    builder.room_for("VibeVoice's code", 100)
    fresh.mkdir()
    _fetch(builder, fresh)
    builder.assert_ours()
    fresh.rename(code)
    return code


def _fetch(builder: Builder, folder: Path) -> None:
    wanted = builder.wanted
    git = ("git", "-C", folder, "-c", "safe.directory=*", "-c", "advice.detachedHead=false")
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
