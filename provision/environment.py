"""Builds the Python environment in its final place, because a venv cannot be moved.

It counts once it was checked and its manifest is written.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from provision.outcome import say
from provision.work import Builder, CommandFailed

_PRODUCTION_MB = 7600  # measured: 7,264 MB of packages; flash-attn comes on top


def provide(builder: Builder) -> Path:
    wanted = builder.wanted
    if found := wanted.find_venv():
        return found
    builder.doing(f"building the Python environment ({wanted.venv.name})")
    builder.room_for("the Python environment", _PRODUCTION_MB if wanted.is_cuda else 1)
    names = ("RUNPOD_INIT_TIMEOUT", "RUNPOD_POD_ID")
    if not wanted.prefetch and [bool(os.environ.get(name)) for name in names] == [False, True]:
        say("RUNPOD_INIT_TIMEOUT is not set: RunPod ends this worker after 7 minutes, ready or not")
    venv = builder.base / wanted.venv.name
    if venv.exists():  # a killed worker left it; a folder without a manifest is not whole
        shutil.rmtree(venv)
    _build(builder, venv)
    return venv


def _build(builder: Builder, venv: Path) -> None:
    # The base Python's pip where it has one: then pip's thousand files are not written to the
    # volume.
    wanted, own = builder.wanted, venv / "bin" / "python"
    bare, pip = ["--without-pip"], [wanted.python, "-m", "pip", "--python", str(own)]
    if importlib.util.find_spec("pip") is None:
        bare, pip = [], [str(own), "-m", "pip"]
    install = [*pip, "install", "--progress-bar", "off", "--only-binary", ":all:"]
    builder.run(wanted.python, "-m", "venv", *bare, venv)
    wanted.venv.keep_definition(venv)
    # pip takes hashes for all packages or for none, so a file with hashes is complete. Before pip
    # 24 it refused a package that another asks for with an extra.
    complete = ["--no-deps"] if b"--hash=" in wanted.requirements else []
    builder.run(*install, *complete, "-r", wanted.requirements_file)
    outcome = ""
    if wanted.flash_wheel:
        try:
            builder.run(*install, "--no-deps", wanted.flash_wheel)
        except CommandFailed:
            outcome = "none, its wheel could not be had"
            say(
                f"flash-attn could not be installed from {wanted.flash_address()}:"
                " the model will use torch's own attention (sdpa)"
            )
    builder.doing("checking the Python environment")
    builder.assert_ours()
    builder.run(own, "-m", "provision.installed", venv, outcome)
