"""bootstrap.sh killed at every step in turn: whatever is left behind, the next start ends ready.

Python tells a hook of each change before it makes it. One run notes where in provision/ the changes
are; then for each place there is a new site, whose bootstrap kills its whole process group there,
and a second one after it.
"""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bootstrap_site import Site, environment, hook

pytestmark = pytest.mark.process

HOOK = """\
import os, signal, sys

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.fork",
    "os.exec", "shutil.rmtree", "subprocess.Popen"}
me, notes, lines = os.getpid(), -1, "EVERY_LINE" in os.environ
if "PLACES" in os.environ:
    notes = os.open(os.environ["PLACES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def stop():
    "The lines of provision/ that led here."
    frame, place = sys._getframe(2), ""
    while frame:
        file = frame.f_code.co_filename.split("/")
        if file[-2:-1] == ["provision"]:
            place = f"{file[-1]}:{frame.f_lineno} {place}"
        frame = frame.f_back
    if notes >= 0:
        os.write(notes, f"{place}\\n".encode())
    if place == os.environ.get("KILL_AT"):
        os.killpg(0, signal.SIGKILL)

def changes(event, arguments):
    if event in CHANGES and os.getpid() == me:
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            stop()

def line(frame, event, argument):
    if event == "line" and os.getpid() == me:
        stop()
    return line

def call(frame, event, argument):
    return line if "/provision/" in frame.f_code.co_filename else None

if sys.orig_argv[1:4] == ["-m", "provision", "start"]:
    sys.settrace(call) if lines else sys.addaudithook(changes)
"""


def places(folder: Path, **env: str) -> list[str]:
    """Those of a first run, in order."""
    site = Site(folder / "a site")
    notes = site.folder / "places"
    site.assert_ready(site.run(**hook(site, HOOK), PLACES=str(notes), **env))
    found = [line for line in notes.read_text().splitlines() if line]
    return list(dict.fromkeys(found))


def kill_and_start_again(folder: Path, place: str, built: bool, **env: str) -> str | None:
    """What is wrong afterwards; None where all is well. `built`: the environment was there."""
    site = Site(folder)
    if built:
        site.give_environment()
    (site.volume / "demo" / "voices").mkdir(parents=True)
    (site.volume / "demo" / "voices" / "Me.wav").write_text("me")
    site.env["LOCK_STALE_SEC"] = "0.2"  # its owner is dead
    killed = site.run(**hook(site, HOOK), KILL_AT=place, **env)
    if killed.status != -signal.SIGKILL:
        return f"{place}: was not killed:\n{killed.log}"
    try:
        if (flag := site.volume / ".first_run_complete").exists():
            named = json.loads(flag.read_text())
            assert {named["venv"], named["code"]} <= set(site.parts())
        again = site.run()
        site.assert_ready(again)
        assert len(site.parts()) == 2
        assert site.voices() == ["Me.wav", "en-Alice_woman.wav"]
        warm = site.run()
        site.assert_ready(warm)
        assert "bootstrap:" not in warm.log
        assert not site.processes()
    except AssertionError as problem:
        return f"{place}: {problem}"
    return None


def problems(folder: Path, **env: str) -> list[str]:
    """Killed where the environment is built, a first run has begun with nothing; elsewhere one that
    has the environment comes into the same states."""
    environment("1.0")
    found = places(folder, **env)
    assert len(found) > 25, found

    def outcome(numbered: tuple[int, str]) -> str | None:
        number, place = numbered
        built = "environment.py:" not in place
        return kill_and_start_again(folder / str(number), place, built, **env)

    with ThreadPoolExecutor(3) as pool:
        return [problem for problem in pool.map(outcome, enumerate(found)) if problem]


def test_killed_at_any_change_of_the_volume_it_is_made_good(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


@pytest.mark.soak
def test_killed_at_any_line_at_all_it_is_made_good(tmp_path: Path) -> None:
    assert problems(tmp_path, EVERY_LINE="1") == []
