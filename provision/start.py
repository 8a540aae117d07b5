"""A cold start: builds what is missing on the volume, or else on the container's own disk."""

import math
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from provision import code, environment, presets
from provision.begin import beside
from provision.flags import Ready, failure, raise_flag
from provision.lock import Lock, Pace
from provision.outcome import NO_ROOM, NoRoom, Refused, Unfit, is_full, say, told
from provision.removal import remove_old
from provision.wanted import Wanted
from provision.work import Builder, CommandFailed, Guardian, Look, unfit

_FOLDERS = ("hf_home", "hf_cache", "models", "output", "demo", ".in-use")
_INIT_TIMEOUT_SEC = 420  # RunPod's own


def make_ready(wanted: Wanted) -> Ready:
    """Builds what is missing, and gives the folders that the worker runs with.

    Raises `Refused`, and `NoRoom` where neither the volume nor the disk has room.
    """
    if not wanted.prefetch:
        refuse_old_cards(wanted)
    why = "no network volume is attached at /runpod-volume"
    if not wanted.unattached and not (why := unfit(wanted.volume, wanted)):
        try:
            return _prepare(wanted, wanted.volume)
        except NoRoom:
            why = f"there is no space left on {wanted.volume}"
        except Unfit as problem:
            why = str(problem)
    if wanted.prefetch:
        raise Refused(why)
    disk = wanted.disk
    say(
        f"!!! {why}. This worker uses its container disk, {disk}, and so does every new one, from"
        " the start"
    )
    if why := unfit(disk, wanted):
        raise Refused(why)
    try:
        return _prepare(wanted, disk)
    except NoRoom as problem:
        larger = "enlarge the volume or the container disk"
        raise NoRoom(f"there is no space for it in {disk} either: {larger}") from problem
    except Unfit as problem:
        raise Refused(str(problem)) from problem


_WITHOUT_GPU = ("kokoro", "piper", "espeak", "upstream")


def refuse_old_cards(wanted: Wanted) -> None:
    """Raises `Refused` for a GPU that is too old, before a model is downloaded.

    The worker checks the GPU again.
    """
    if not wanted.is_cuda or os.environ.get("ENGINE") in _WITHOUT_GPU:
        return
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"],  # noqa: S607
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return
    # Old drivers print no number here; then no GPU is refused.
    lines = listed.stdout.splitlines()
    cards = [re.fullmatch(r"(.*), (([0-9]+)\.[0-9]+)", line) for line in lines]
    if cards and (card := cards[-1]) and all(each and int(each[3]) < 8 for each in cards):
        raise Refused(
            f"the GPU {card[1]} has compute capability {card[2]}, and VibeVoice needs 8.0 (Ampere)"
            " or newer: choose another GPU for the endpoint"
        )


def _prepare(wanted: Wanted, base: Path) -> Ready:
    lock = Lock(base / ".lock", wanted.worker, Pace.from_env())
    try:
        _take_turn(wanted, lock)
        guardian = Guardian(lock)
        try:
            return _fill(Builder(wanted, base, lock, guardian, _look(wanted, base)))
        except Unfit:
            if lock.is_ours():
                _clear(base, base / wanted.venv.name)
            raise
        finally:
            guardian.close()
    except NoRoom as problem:
        if str(problem):
            say(str(problem))
        raise
    finally:
        lock.release()


def _take_turn(wanted: Wanted, lock: Lock) -> None:
    given = os.environ.get("RUNPOD_INIT_TIMEOUT") or str(_INIT_TIMEOUT_SEC)
    if not re.fullmatch("[1-9][0-9]{0,8}", given):
        raise Refused(f"RUNPOD_INIT_TIMEOUT is {given!r}; allowed: a number of seconds")
    try:
        for name in _FOLDERS:
            (lock.folder.parent / name).mkdir(parents=True, exist_ok=True)
        lock.take(math.inf if wanted.prefetch else int(given))
    except OSError as problem:
        if is_full(str(problem)):
            raise NoRoom(f"no folder can be made there: {problem}") from problem
        raise Unfit(told(problem, lock.folder.parent)) from problem


def _look(wanted: Wanted, base: Path) -> Look:
    """How closely the parts are looked at.

    After a failed start that is done once, until a start succeeds: what remains is no damage that
    a repair can mend.
    """
    failed, repaired = (base / beside(wanted.flag, kind) for kind in ("failed", "repaired"))
    why, again = failure(failed), repaired.exists() and not wanted.repair
    if why and again:
        say(
            f"a start failed again after a repair ({why}): nothing more is repaired by itself;"
            " see --verify and --repair"
        )
    elif why:
        say(f"the start before failed ({why}): looking for damage")
    if wanted.repair or (why and not again):
        return "hashes"
    is_asked = wanted.prefetch or not (base / ".first_run_complete").exists()
    return "sizes" if is_asked else ""


def _settle(wanted: Wanted, base: Path) -> None:
    """Notes that damage was looked for, or, after a repair that was asked for, nothing."""
    failed, repaired = (base / beside(wanted.flag, kind) for kind in ("failed", "repaired"))
    if failure(failed):
        failed.replace(repaired)
    if wanted.repair:
        repaired.unlink(missing_ok=True)


def _fill(builder: Builder) -> Ready:
    """Builds all parts. Idempotent: each step first checks whether its part is whole already.

    So it can be repeated after a kill at any moment.
    """
    base, wanted = builder.base, builder.wanted
    with builder.step("the Python environment"):
        venv = environment.provide(builder)
    with builder.step(f"VibeVoice's code from {wanted.address}"):
        source = code.provide(builder)
    with builder.step("the voices"):
        filled = (base / "demo" / ".voices-filled").exists()
        if base != wanted.volume or not filled or not (base / "demo" / "voices").is_dir():
            _copy_voices(builder, source)
    if presets.are_wanted():
        with builder.step("the presets"):
            presets.provide(builder, venv)
    with builder.step("the model"):
        model, files = _find_model(builder, venv)
    ready = Ready(base, venv, source, model, files, base / ".in-use" / wanted.worker)
    builder.assert_ours()
    with builder.step("the flag"):
        builder.doing("finishing")
        raise_flag(wanted, ready)
        _settle(wanted, base)
        ready.mark.write_bytes(os.fsencode("\n".join(ready.names) + "\n"))
    if base != wanted.disk:
        remove_old(base, ready)
    return ready


def _copy_voices(builder: Builder, source: Path) -> None:
    """Copies upstream's recordings to the volume. Files that exist there are never overwritten."""
    base = builder.base
    home, own = (place / "demo" / "voices" for place in (base, builder.wanted.volume))
    home.mkdir(parents=True, exist_ok=True)
    if home != own and own.is_dir():
        builder.run("cp", "-rT", own, home)  # over what a start before has copied, links too
    fresh = home / ".copying"
    for voice in sorted(source.glob("demo/voices/*.wav")):
        if not os.path.lexists(home / voice.name):
            shutil.copyfile(voice, fresh)
            fresh.rename(home / voice.name)
    (base / "demo" / ".voices-filled").touch()


def _find_model(builder: Builder, venv: Path) -> tuple[Path | None, list[str]]:
    """Runs `provision.model` in the new environment. Gives the model's folder and file names."""
    wanted, base = builder.wanted, builder.base
    if wanted.model_wanted == "none":
        return None, []
    name = os.environ["MODEL_PATH"]
    builder.doing(f"looking for the model {name} and downloading what is missing")
    with tempfile.NamedTemporaryFile() as out:
        settings = {"VIBEVOICE_VOLUME": str(base), **wanted.hub_folders(base)}
        # The hub is asked for hashes by who repairs, and not by a worker that starts.
        look = "hashes" if wanted.repair else builder.look
        known = (base / wanted.flag, look) if look else ()
        command = (venv / "bin" / "python", "-m", "provision.model", out.name, *known)
        try:
            builder.run(*command, **settings)
        except CommandFailed as problem:
            if problem.status == NO_ROOM:
                raise NoRoom from problem
            if problem.status == 1:
                raise Refused from problem
            raise
        folder, *files = os.fsdecode(out.read()).splitlines()
    return Path(folder), files


def _clear(base: Path, venv: Path) -> None:
    """Removes half-built parts, which frees their space."""
    halves = [*base.glob(".building-*"), *([] if (venv / ".manifest.json").exists() else [venv])]
    for half in halves:
        shutil.rmtree(half, ignore_errors=True)
