"""The steps that fill a folder. Each looks first whether its part is whole already, so that they can
be repeated from any state that a kill leaves behind."""

import os
import shutil
import tempfile
from pathlib import Path

from provision import code, environment, flags, removal
from provision.builder import Builder
from provision.flags import Ready
from provision.outcome import NO_ROOM, NoRoom, Refused, say
from provision.work import CommandFailed

_FOLDERS = ("hf_home", "hf_cache", "models", "output", "demo", ".in-use")


def make_folders(base: Path) -> None:
    for name in _FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)


def fill(builder: Builder) -> Ready:
    """Raises `NoRoom` and `Refused`."""
    base, wanted = builder.base, builder.wanted
    with builder.step("the Python environment"):
        venv = environment.provide(builder)
    with builder.step(f"VibeVoice's code from {wanted.address}"):
        source = code.provide(builder)
    with builder.step("the voices"):
        if base != wanted.volume or not (base / "demo" / ".voices-filled").exists():
            _copy_voices(base, wanted.volume, source)
    with builder.step("the model"):
        model, files = _find_model(builder, venv)
    ready = Ready(base, venv, source, model, files, base / ".in-use" / wanted.worker)
    builder.assert_ours()
    with builder.step("the flag"):
        builder.doing("finishing")
        flags.raise_flag(wanted, ready)
        ready.mark.write_text("".join(f"{name}\n" for name in ready.names))
    if base != wanted.disk:
        removal.remove_old(base, ready.model, ready.names)
    return ready


def _copy_voices(base: Path, volume: Path, source: Path) -> None:
    """Upstream's recordings, once; what lies there already is the user's."""
    home = base / "demo" / "voices"
    home.mkdir(parents=True, exist_ok=True)
    own = volume / "demo" / "voices"
    if base != volume and own.is_dir():
        shutil.copytree(own, home, symlinks=True, dirs_exist_ok=True)
    fresh = home / ".copying"
    for voice in sorted(source.glob("demo/voices/*.wav")):
        if not os.path.lexists(home / voice.name):
            shutil.copyfile(voice, fresh)
            fresh.rename(home / voice.name)
    (base / "demo" / ".voices-filled").touch()


def _find_model(builder: Builder, venv: Path) -> tuple[Path | None, list[str]]:
    """By the engine's own rules, in its environment. Downloads what is missing."""
    wanted, base = builder.wanted, builder.base
    if wanted.model_wanted == "none":
        return None, []
    name = os.environ["MODEL_PATH"]
    builder.doing(f"looking for the model {name} and downloading what is missing")
    with tempfile.NamedTemporaryFile() as out:
        settings = {"VIBEVOICE_VOLUME": str(base), **wanted.hub_folders(base)}
        try:
            builder.run(venv / "bin" / "python", "-m", "provision.model", out.name, **settings)
        except CommandFailed as problem:  # it has said why
            if problem.status == NO_ROOM:
                raise NoRoom from problem
            if problem.status == 1:
                raise Refused from problem
            raise
        folder, *files = os.fsdecode(out.read()).splitlines()
    return Path(folder), files
