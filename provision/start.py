"""Where a start builds: on the volume, or else on the container's own disk."""

import math
import os
import re
import shutil
import subprocess
from pathlib import Path

from provision.builder import Builder, unfit
from provision.flags import Ready
from provision.lock import Lock, Pace
from provision.outcome import NoRoom, Refused, say
from provision.volume import fill, make_folders
from provision.wanted import Wanted
from provision.work import Guardian

_INIT_TIMEOUT_SEC = 420  # RunPod's own


def make_ready(wanted: Wanted) -> Ready:
    """Raises `Refused`, and `NoRoom` where neither has room."""
    if not wanted.prefetch:
        refuse_old_cards(wanted)
    why = "no network volume is attached at /runpod-volume"
    if not wanted.unattached and not (why := unfit(wanted.volume, wanted)):
        try:
            return _prepare(wanted, wanted.volume)
        except NoRoom:
            why = f"there is no space left on {wanted.volume}"
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


def refuse_old_cards(wanted: Wanted) -> None:
    """Before a model is downloaded for them; the worker itself looks again."""
    if not wanted.is_cuda or os.environ.get("ENGINE") == "espeak":
        return
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"],  # noqa: S607
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return
    # What is no number comes from a driver that does not say.
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
            return fill(Builder(wanted, base, lock, guardian))
        finally:
            guardian.close()
    except NoRoom as problem:
        if str(problem):
            say(str(problem))
        _clear(base, base / wanted.venv.name)
        raise
    finally:
        lock.release()


def _take_turn(wanted: Wanted, lock: Lock) -> None:
    given = os.environ.get("RUNPOD_INIT_TIMEOUT") or str(_INIT_TIMEOUT_SEC)
    if not re.fullmatch("[1-9][0-9]{0,8}", given):
        raise Refused(f"RUNPOD_INIT_TIMEOUT is {given!r}; allowed: a number of seconds")
    try:
        make_folders(lock.folder.parent)
        lock.take(math.inf if wanted.prefetch else int(given))
    except OSError as problem:
        raise NoRoom(f"no folder can be made there: {problem}") from problem


def _clear(base: Path, venv: Path) -> None:
    """What is half built: room for others."""
    halves = [*base.glob(".building-*")]
    if not (venv / ".manifest.json").exists():
        halves.append(venv)
    for half in halves:
        shutil.rmtree(half, ignore_errors=True)
