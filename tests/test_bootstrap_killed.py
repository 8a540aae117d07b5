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

from tests.bootstrap_site import Site

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


def kill_and_start_again(folder: Path, place: str) -> str | None:
    """What is wrong afterwards; None where all is well."""
    site = Site(folder / place.replace(":", "-"))
    (site.volume / "demo" / "voices").mkdir(parents=True)
    (site.volume / "demo" / "voices" / "Me.wav").write_text("me")
    site.env["LOCK_STALE_SEC"] = "1"
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


def kill_at(places: list[str], folder: Path) -> list[str]:
    with ThreadPoolExecutor(3) as pool:
        outcomes = pool.map(lambda place: kill_and_start_again(folder, place), places)
        return [outcome for outcome in outcomes if outcome]


def test_killed_at_any_change_of_the_volume_it_is_made_good(
    places: dict[str, str], tmp_path: Path
) -> None:
    changes = [place for place, command in places.items() if command in CHANGES]
    assert len(changes) > 25, places
    assert kill_at(changes, tmp_path) == []


@pytest.mark.soak
def test_killed_at_any_command_at_all_it_is_made_good(
    places: dict[str, str], tmp_path: Path
) -> None:
    others = [place for place, command in places.items() if command not in CHANGES]
    assert len(others) > 60, places
    assert kill_at(others, tmp_path) == []
