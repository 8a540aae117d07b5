"""bootstrap.sh of endpoints with different settings that share one volume."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bootstrap_site import Site, hook, until

pytestmark = pytest.mark.process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "a site")
    yield site
    site.end()


def settings(site: Site, version: str) -> dict[str, str]:
    """Of an endpoint of its own: its package's version, whose environment is there already, and its
    commit."""
    site.require(version)
    site.give_environment(version)
    own = site.folder / f"requirements-{version}.txt"
    own.write_text(site.requirements.read_text())
    return {"REQUIREMENTS_FILE": str(own), "VIBEVOICE_REF": site.push(version)}


def flags(site: Site) -> set[str]:
    return {path.name for path in site.volume.glob(".first_run_complete-*")}


def age(*paths: Path) -> None:
    """A day and an hour."""
    then = time.time() - 25 * 3600
    for path in paths:
        os.utime(path, (then, then))


def test_two_settings_in_turns_are_both_warm(site: Site) -> None:
    both = [settings(site, "1.0"), settings(site, "2.0")]
    prefixes = []
    for own in both:
        run = site.run(**own)
        assert run.status == 0, run.log
        prefixes.append(run.handler["prefix"])
    assert len(set(prefixes)) == 2
    for own, prefix in zip(both, prefixes, strict=True):
        run, calls = site.run_traced(**own)
        assert run.handler["prefix"] == prefix
        assert calls == ["execve", "execve"]
        assert "bootstrap:" not in run.log
        assert site.run("--check", **own).status == 0
    assert len(flags(site)) == 2
    assert (site.volume / ".first_run_complete").readlink().name in flags(site)


def test_without_the_newest_flag_nobody_is_believed(site: Site) -> None:
    both = [settings(site, "1.0"), settings(site, "2.0")]
    for own in both:
        assert site.run(**own).status == 0
    (site.volume / ".first_run_complete").unlink()
    again = site.run(**both[0])
    assert "looking for" not in again.log
    assert "finishing" in again.log
    assert "bootstrap:" not in site.run(**both[1]).log


def test_anothers_parts_stay_while_its_worker_marks_them_and_go_a_day_later(site: Site) -> None:
    others = settings(site, "1.0")
    assert site.run(**others, RUNPOD_POD_ID="other").status == 0
    mark = site.volume / ".in-use" / "other"
    parts = [site.volume / name for name in mark.read_text().split()]
    assert len(parts) == 2
    age(*parts)
    assert site.run(**settings(site, "2.0")).status == 0
    assert all(part.is_dir() for part in parts)
    assert "bootstrap:" not in site.run(**others, RUNPOD_POD_ID="other").log
    age(mark)
    run = site.run(**settings(site, "3.0"))
    assert f"removing {parts[0].name}, which nobody has used for a day" in run.log
    assert f"removing {parts[1].name}, which nobody has used for a day" in run.log
    assert not any(part.exists() for part in parts)
    assert len(flags(site)) == 2  # those of 2.0 and 3.0
    again = site.run(**others)
    assert again.status == 0, again.log
    assert "building the Python environment" in again.log


def test_a_flag_goes_after_a_month_and_is_raised_again_when_it_is_missed(site: Site) -> None:
    """Else a volume that serves one image after the other would collect them."""
    both = [settings(site, "1.0"), settings(site, "2.0")]
    assert site.run(**both[0]).status == 0
    (old,) = flags(site)
    os.utime(site.volume / old, (1, 1))
    assert site.run(**both[1]).status == 0
    assert old not in flags(site)
    again = site.run(**both[0])
    assert again.status == 0
    assert "building" not in again.log
    assert len(flags(site)) == 2


REMOVER = """\
import os, subprocess, sys, time

change, where = {event!r}, {path!r}

def begin(event, arguments):
    global change
    if event != change or where not in str(arguments[0]):
        return
    change = None
    own = dict(os.environ, REQUIREMENTS_FILE={requirements!r}, VIBEVOICE_REF={ref!r})
    del own["PYTHONPATH"]
    own |= {{"LOCK_REPORT_SEC": "0.1", "RUNPOD_POD_ID": "old"}}
    with open({log!r}, "w") as log:
        subprocess.Popen(["bash", "bootstrap.sh"], env=own, stdout=log, stderr=log)
    while not {{"HANDLER", "waiting"}} & set(open({log!r}).read().split()):
        time.sleep(0.02)

if sys.orig_argv[1:4] == ["-m", "provision", "start"]:
    sys.addaudithook(begin)
"""


def remove_while_a_worker_starts(site: Site, event: str, path: str) -> tuple[str, str, bool]:
    """An old environment is removed, and just before that change a worker starts that wants it.
    Gives the two logs, and whether the environment's folder was left alone."""
    old = settings(site, "1.0")
    assert site.run(**old, RUNPOD_POD_ID="gone").status == 0
    part = site.volume / site.manifest()["venv"]
    age(part, site.volume / ".in-use" / "gone")
    (site.volume / ".in-use" / "a folder").mkdir()  # somebody's, and no mark
    age(site.volume / ".in-use" / "a folder")
    before = part.stat()
    new = settings(site, "2.0") | {"VIBEVOICE_REF": old["VIBEVOICE_REF"]}
    started = site.folder / "started"
    begin = REMOVER.format(
        event=event, path=path, log=str(started),
        requirements=old["REQUIREMENTS_FILE"], ref=old["VIBEVOICE_REF"],
    )  # fmt: skip
    run = site.run(**new, **hook(site, begin))
    assert run.status == 0, run.log
    until(lambda: "HANDLER" in started.read_text())
    until(lambda: not site.processes())
    assert f'"prefix": "{part}"' in started.read_text()
    after = part.stat()
    same = (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    return run.log, started.read_text(), same


def test_a_part_that_a_worker_just_began_to_use_is_not_even_renamed(site: Site) -> None:
    removers, workers, untouched = remove_while_a_worker_starts(
        site, "os.remove", "/.first_run_complete-"
    )
    assert "removing" not in removers
    assert "bootstrap:" not in workers  # it was a warm start
    assert untouched
    again = site.run(REQUIREMENTS_FILE=str(site.folder / "requirements-1.0.txt"))
    assert "building" not in again.log


def test_a_worker_that_comes_a_moment_later_builds_anew(site: Site) -> None:
    removers, workers, untouched = remove_while_a_worker_starts(site, "os.rename", "/venv-")
    assert "removing" in removers
    assert "building the Python environment" in workers
    assert not untouched
