"""Builds the Python environment in its final place, because a venv cannot be moved.

It counts once it was checked and its manifest is written. Damaged packages are installed again in
their place; meanwhile it does not count, so a repair that was killed is a build from the beginning.
"""

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from provision import installed
from provision.outcome import say
from provision.parts import read_manifest, remove
from provision.work import Builder, CommandFailed

_FLASH = "flash-attn"
_AGAIN = ".flash-attn-failed"
"""The file in an environment for which bootstrap.sh takes no start as warm."""
_PRODUCTION_MB = 7600  # measured: 7,264 MB of packages; flash-attn comes on top


def provide(builder: Builder) -> Path:
    """The whole environment. Damaged packages are installed again, where `builder.look`."""
    wanted = builder.wanted
    found = wanted.find_venv()
    if found and (found.parent != builder.base or _mended(builder, found)):
        return found
    builder.doing(f"building the Python environment ({wanted.venv.name})")
    builder.room_for("the Python environment", _PRODUCTION_MB if wanted.is_cuda else 1)
    names = ("RUNPOD_INIT_TIMEOUT", "RUNPOD_POD_ID")
    if not wanted.prefetch and [bool(os.environ.get(name)) for name in names] == [False, True]:
        say("RUNPOD_INIT_TIMEOUT is not set: RunPod ends this worker after 7 minutes, ready or not")
    venv = builder.base / wanted.venv.name
    remove(venv)  # a killed worker left it; a folder without a manifest is not whole
    _build(builder, venv)
    return venv


def _build(builder: Builder, venv: Path) -> None:
    wanted = builder.wanted
    # The base Python's pip where it has one: then pip's thousand files are not written to the
    # volume.
    bare = [] if importlib.util.find_spec("pip") is None else ["--without-pip"]
    builder.run(wanted.python, "-m", "venv", *bare, venv)
    wanted.venv.keep_definition(venv)
    # pip takes hashes for all packages or for none, so a file with hashes is complete. Before pip
    # 24 it refused a package that another asks for with an extra.
    complete = ["--no-deps"] if b"--hash=" in wanted.requirements else []
    _install(builder, venv, *complete, "-r", wanted.requirements_file)
    outcome = _install_flash(builder, venv) if wanted.flash_wheel else ""
    if outcome and builder.base != wanted.disk:
        (venv / _AGAIN).touch()
    builder.doing("checking the Python environment")
    _finish(builder, venv, outcome)


def _install(builder: Builder, venv: Path, *what: str | Path) -> None:
    own = venv / "bin" / "python"
    pip: list[str | Path] = [builder.wanted.python, "-m", "pip", "--python", own]
    if importlib.util.find_spec("pip") is None:
        pip = [own, "-m", "pip"]
    options = ("--progress-bar", "off", "--only-binary", ":all:", "--no-cache-dir")
    builder.run(*pip, "install", *options, *what)


def _install_flash(builder: Builder, venv: Path) -> str:
    """Installs flash-attn. Where that fails gives what the manifest says of it, else ""."""
    try:
        _install(builder, venv, "--no-deps", "--ignore-installed", builder.wanted.flash_wheel)
    except CommandFailed:
        say(
            f"flash-attn could not be installed from {builder.wanted.flash_address()}:"
            " the model will use torch's own attention (sdpa)"
        )
        return "none, its wheel could not be had"
    return ""


def _finish(builder: Builder, venv: Path, flash: str) -> None:
    """Checks the environment and writes its manifest."""
    builder.assert_ours()
    own, requirements = venv / "bin" / "python", builder.wanted.requirements_file
    builder.run(own, "-m", "provision.installed", venv, requirements, flash)


def _mended(builder: Builder, venv: Path) -> bool:
    """Makes good what is missing from an environment that has a manifest. False where only building
    it anew would."""
    wanted = builder.wanted
    requirements = wanted.requirements.decode()
    damage: dict[str, list[str]] = {}
    if builder.look or not read_manifest(venv / ".manifest.json"):
        damage = installed.damage(venv, requirements, builder.look == "hashes")
    lacks_flash = bool(wanted.flash_wheel) and _FLASH not in installed.packages(venv)
    if not damage and not lacks_flash:
        return True
    own = damage.pop("", [])
    if {*own} - {".manifest.json"} or not {*installed.pinned(requirements), _FLASH} >= {*damage}:
        say(f"{venv.name} is damaged beyond its packages")
        return False
    if damage:
        builder.doing(f"repairing {venv.name}: {', '.join(sorted(damage))}")
        _install_again(builder, venv, damage)
    flash = ""
    if lacks_flash or _FLASH in damage:
        builder.doing("installing flash-attn again")
        flash = _install_flash(builder, venv)
    if own or damage or not flash:
        _finish(builder, venv, flash)
    (venv / _AGAIN).unlink(missing_ok=True)
    return True


def _install_again(builder: Builder, venv: Path, packages: Iterable[str]) -> None:
    """Installs packages over what is left of them, by their lines of the requirements."""
    text = builder.wanted.requirements.decode()
    options = [line for line in text.splitlines() if re.match("-(?!r|c|-req|-con)", line)]
    lines = [line for name, line in installed.pinned(text).items() if name in {*packages}]
    if not lines:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as subset:
        subset.write("\n".join([*options, *lines]))
        subset.flush()
        manifest = venv / ".manifest.json"
        kept = manifest.read_bytes()
        manifest.unlink()
        try:
            _install(builder, venv, "--no-deps", "--ignore-installed", "-r", subset.name)
        except CommandFailed:
            manifest.write_bytes(kept)  # pip has changed nothing before it had everything
            raise
