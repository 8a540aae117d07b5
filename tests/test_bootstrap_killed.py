"""bootstrap.sh killed at every step in turn: whatever is left behind, the next start ends ready.

bash runs a hook before each of its commands. One run notes where commands are; then for each place
there is a new site, whose bootstrap kills its whole process group there, and a second one after it.
"""

import json
import shlex
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bootstrap_site import Site, environment

pytestmark = pytest.mark.process

HERE = "[[ $BASHPID == $$ ]] && here=${BASH_SOURCE[0]##*/}:$LINENO"
NOTE = f'{HERE} && echo "$here ${{BASH_COMMAND%% *}}" >>"$PLACES"'
KILL = f'{HERE} && [[ $here == "$KILL_AT" ]] && kill -KILL 0'
CHANGES = {
    "work", "doing", "mkdir", "mv", "ln", "link", "rm", "rmdir", "printf", "keep_definition",
    "mark_in_use", "take_turn", "begin_turn", "end_turn", "find", "make_ready", "exec", ":",
}  # fmt: skip
"""What may change a volume, or begins or ends a step."""


def hook(site: Site, what: str) -> dict[str, str]:
    path = site.folder / "hook.sh"
    path.write_text(f"set -T\ntrap {shlex.quote(what)} DEBUG\n")
    return {"BASH_ENV": str(path)}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every place of a first run, in order, with the command that is there."""
    site = Site(tmp_path_factory.mktemp("noted") / "a site")
    notes = site.folder / "places"
    site.assert_ready(site.run(**hook(site, NOTE), PLACES=str(notes)))
    found: dict[str, str] = {}
    for line in notes.read_text().splitlines():
        place, _, command = line.partition(" ")
        found.setdefault(place, command)
    return found


def kill_and_start_again(folder: Path, place: str, built: bool) -> str | None:
    """What is wrong afterwards; None where all is well. `built`: the environment was there."""
    site = Site(folder / place.replace(":", "-"))
    if built:
        site.give_environment()
    (site.volume / "demo" / "voices").mkdir(parents=True)
    (site.volume / "demo" / "voices" / "Me.wav").write_text("me")
    site.env["LOCK_STALE_SEC"] = "0.2"  # its owner is dead
    killed = site.run(**hook(site, KILL), KILL_AT=place)
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


def kill_at(chosen: list[str], places: dict[str, str], folder: Path) -> list[str]:
    """Where a first run is past the environment, one that has it comes there in the same state."""
    order = list(places)
    environment("1.0")
    fetching = next(
        number for number, place in enumerate(order)
        if place.startswith("steps.sh:") and places[place] == "find_code"
    )  # fmt: skip

    def outcome(place: str) -> str | None:
        return kill_and_start_again(folder, place, order.index(place) >= fetching)

    with ThreadPoolExecutor(3) as pool:
        return [problem for problem in pool.map(outcome, chosen) if problem]


def test_killed_at_any_change_of_the_volume_it_is_made_good(
    places: dict[str, str], tmp_path: Path
) -> None:
    changes = [place for place, command in places.items() if command in CHANGES]
    assert len(changes) > 25, places
    assert kill_at(changes, places, tmp_path) == []


@pytest.mark.soak
def test_killed_at_any_command_at_all_it_is_made_good(
    places: dict[str, str], tmp_path: Path
) -> None:
    others = [place for place, command in places.items() if command not in CHANGES]
    assert len(others) > 60, places
    assert kill_at(others, places, tmp_path) == []
