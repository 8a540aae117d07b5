"""bootstrap.sh on real volumes: real git, real pip, real processes. The model's step is in
test_bootstrap_model.py, what happens to those that are killed in test_bootstrap_killed.py."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bootstrap_site import ROOT, Site, ended, hook, until

pytestmark = pytest.mark.process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "a site")
    yield site
    site.end()


@pytest.fixture
def built(site: Site) -> Site:
    """A site whose volume has the Python environment."""
    site.give_environment()
    return site


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("filled") / "a site")
    site.assert_ready(site.run())
    return site


@pytest.fixture
def ready(site: Site, filled: Site) -> Site:
    """A site whose volume has everything."""
    shutil.copytree(filled.volume, site.volume, symlinks=True)
    assert site.run("--check").status == 0
    return site


@pytest.mark.smoke
def test_a_first_run_fills_an_empty_volume_and_becomes_the_handler(site: Site) -> None:
    process = site.start("--rp_log_level", "two words")
    run = ended(process)
    site.assert_ready(run)
    seen = run.handler
    assert seen["pid"] == process.pid
    assert seen["arguments"] == ["--rp_log_level", "two words"]
    assert seen["cwd"] == str(site.code)
    flag = site.volume / (site.volume / ".first_run_complete").readlink()
    assert sorted(path.name for path in site.volume.iterdir()) == [
        ".first_run_complete", flag.name, ".in-use", ".lock", "demo", "hf_cache", "hf_home",
        "models", "output", "venv", site.manifest()["venv"], "vibevoice", site.manifest()["code"],
    ]  # fmt: skip
    assert site.voices() == ["en-Alice_woman.wav"]
    manifest = site.manifest(f"{site.manifest()['code']}/.manifest.json")
    assert manifest["commit"] == site.commit
    env = seen["env"]
    assert env["HF_HOME"] == str(site.volume / "hf_home")
    assert env["HF_HUB_CACHE"] == str(site.volume / "hf_cache")
    assert env["TRITON_CACHE_DIR"].startswith(str(site.folder / "tmp"))
    assert not site.processes()
    assert not site.temporary_folders()


def test_the_mode_http_becomes_the_server(ready: Site) -> None:
    (ready.code / "server.py").unlink()
    (ready.code / "handler.py").rename(ready.code / "server.py")
    ready.env["MODE"] = "http"
    ready.assert_ready(ready.run())
    ready.env["MODE"] = "ftp"
    run = ready.run()
    assert run.status != 0
    assert "MODE is 'ftp'; allowed: queue, http" in run.log


def test_a_warm_start_runs_no_other_process_and_asks_no_network(ready: Site) -> None:
    shutil.rmtree(ready.origin)
    shutil.rmtree(ready.wheels)
    run, calls = ready.run_traced()
    ready.assert_ready(run)
    assert calls == ["execve", "execve"]


def test_a_warm_start_changes_nothing_but_its_mark(ready: Site) -> None:
    def state() -> dict[str, int]:
        return {
            str(path): path.lstat().st_mtime_ns
            for path in ready.volume.rglob("*")
            if ".in-use" not in str(path)
        }

    before = state()
    ready.assert_ready(ready.run(RUNPOD_POD_ID="pod/../7"))
    assert state() == before
    mark = ready.volume / ".in-use" / "pod_.._7"
    named = mark.read_text().split()
    assert named == [ready.manifest()["venv"], ready.manifest()["code"]]


@pytest.mark.parametrize("name", ["..", "-rf", "two\nlines", "p" * 300])
def test_whatever_a_worker_is_called_its_mark_is_a_file(ready: Site, name: str) -> None:
    run = ready.run(RUNPOD_POD_ID=name)
    ready.assert_ready(run)
    assert "bootstrap:" not in run.log
    mark = Path(run.handler["env"]["VIBEVOICE_IN_USE"])
    assert mark.is_file()
    assert mark.parent == ready.volume / ".in-use"


def test_the_production_set_is_what_a_warm_start_has_time_for(ready: Site) -> None:
    """The largest file that is read, twice: bash takes 0.04 s of processor time for it."""
    shutil.copy(ROOT / "requirements.txt", ready.folder / "production.txt")
    code = (
        'ulimit -t 2; source bootstrap.sh; for n in 1 2 3 4; do slurp "$1"; done;'
        ' [[ $REPLY == "$(<"$1")"$\'\\n\' ]]'
    )
    subprocess.run(
        ["bash", "-c", code, "-", str(ready.folder / "production.txt")],
        cwd=ROOT, check=True,
    )  # fmt: skip


@pytest.mark.parametrize("count", [2, 5])
def test_of_many_that_start_at_once_one_builds_and_all_end_ready(site: Site, count: int) -> None:
    started = [site.start(RUNPOD_POD_ID=f"pod{number}") for number in range(count)]
    runs = [ended(process) for process in started]
    for run in runs:
        site.assert_ready(run)
    logs = "".join(run.log for run in runs)
    assert logs.count("bootstrap: building the Python environment") == 1
    assert logs.count("bootstrap: fetching VibeVoice's code") == 1
    assert len(site.parts()) == 2


def test_who_waits_says_for_whom_and_for_what(site: Site) -> None:
    owner = slow_builder(site)
    waiter = site.start(LOCK_REPORT_SEC="1", RUNPOD_POD_ID="second")
    assert waiter.stdout
    line = waiter.stdout.readline()
    assert "waiting for first, which prepares" in line
    assert "building the Python environment" in line
    go_on(site)
    runs = ended(owner), ended(waiter)  # the waiter raises its flag anew
    for run in runs:
        site.assert_ready(run)


def test_who_waits_gives_up_before_runpod_ends_the_worker(site: Site) -> None:
    owner = slow_builder(site)
    run = site.run(RUNPOD_POD_ID="second", RUNPOD_INIT_TIMEOUT="3")
    assert run.status == 1
    assert (said := re.search(r"gave up after (\d+) s: first still prepares", run.log))
    assert int(said[1]) >= 2
    assert "RUNPOD_INIT_TIMEOUT (3 s) is near" in run.log
    go_on(site)
    site.assert_ready(ended(owner))


def test_a_stale_lock_is_taken_over(site: Site) -> None:
    owner = slow_builder(site)
    os.killpg(owner.pid, signal.SIGKILL)
    owner.communicate()
    go_on(site)
    start = time.monotonic()
    run = site.run(RUNPOD_POD_ID="second", LOCK_STALE_SEC="1.5")
    site.assert_ready(run)
    assert "took over from first, not heard of for 1.5 s" in run.log
    assert time.monotonic() - start > 1.5


@pytest.mark.clock
def test_of_five_that_find_a_stale_lock_one_takes_it_over(site: Site) -> None:
    owner = slow_builder(site)
    os.killpg(owner.pid, signal.SIGKILL)
    owner.communicate()
    go_on(site)
    site.env["LOCK_STALE_SEC"] = "2"  # four of them watch the fifth, which may be slow
    started = [site.start(RUNPOD_POD_ID=f"pod{number}") for number in range(5)]
    runs = [ended(process) for process in started]
    for run in runs:
        site.assert_ready(run)
    logs = "".join(run.log for run in runs)
    assert logs.count("took over from first") == 1
    assert logs.count("bootstrap: building the Python environment") == 1


def test_an_owner_that_was_frozen_for_too_long_stops_and_spoils_nothing(site: Site) -> None:
    owner = slow_builder(site)
    until(lambda: len(groups(site)) == 3)  # bash's, its guardian's, pip's
    frozen = groups(site)
    for group in frozen:
        os.killpg(group, signal.SIGSTOP)
    second = site.start(RUNPOD_POD_ID="second", LOCK_STALE_SEC="0.5")
    until(lambda: (site.volume / ".lock" / "2").exists())
    run = ended(second)
    for group in frozen:
        os.killpg(group, signal.SIGCONT)
    first = ended(owner)
    assert first.status == 143, first.log
    assert "another worker took the lock over" in first.log
    site.assert_ready(run)
    site.assert_ready(site.run())
    until(lambda: not site.processes())


def test_sigterm_ends_the_work_and_frees_the_lock_at_once(site: Site) -> None:
    owner = slow_builder(site)
    owner.terminate()
    assert ended(owner).status == 143  # though pip would still read
    until(lambda: not site.processes())
    assert (site.volume / ".lock" / "1" / "released").exists()
    assert not site.temporary_folders()
    go_on(site)
    run = site.run()
    site.assert_ready(run)
    assert "waiting" not in run.log


def test_closing_the_terminal_does_not_end_what_nohup_began(site: Site) -> None:
    owner = slow_builder(site, "nohup")
    os.killpg(owner.pid, signal.SIGHUP)
    go_on(site)
    site.assert_ready(ended(owner))


def test_work_that_has_only_just_begun_does_not_outlive_a_killed_bootstrap(site: Site) -> None:
    """Killed at the moment at which a command has been forked off and not yet been started."""
    code = (
        "import os, signal, sys, time\nif sys.orig_argv[1:4] == ['-m', 'provision', 'start']:\n"
        "  sys.path.insert(0, os.getcwd())\n"
        "  import provision.work as work\n"
        "  announce, parent = work.Guardian._announce, os.getpid()\n"
        "  def slowly(guardian):\n"
        "    announce(guardian); os.kill(parent, signal.SIGKILL); time.sleep(0.5)\n"
        "  work.Guardian._announce = slowly\n"
    )
    killed = site.run(**hook(site, code))
    assert killed.status == -signal.SIGKILL
    until(lambda: not site.processes())


def test_the_installer_does_not_outlive_a_killed_bootstrap(site: Site) -> None:
    owner = slow_builder(site)
    os.kill(owner.pid, signal.SIGKILL)  # bash alone, none of its children
    owner.communicate()
    until(lambda: not site.processes())


def test_a_changed_requirement_builds_anew_beside_the_old(ready: Site) -> None:
    old = ready.manifest()["venv"]
    ready.require("2.0")
    ready.assert_ready(ready.run(), "2.0")
    new = ready.manifest()["venv"]
    assert new != old
    assert {old, new} < set(ready.parts())
    assert (ready.volume / "venv").readlink() == Path(new)
    ready.require("1.0")  # and back: that is a warm start
    shutil.rmtree(ready.wheels)
    run = ready.run()
    assert Path(run.handler["prefix"]) == ready.volume / old
    assert "bootstrap:" not in run.log


def test_a_changed_commit_is_fetched_beside_the_old(ready: Site) -> None:
    old = ready.manifest()["code"]
    commit = ready.push("second", voices=("en-Frank_man",))
    run = ready.run(VIBEVOICE_REF=commit)
    ready.assert_ready(run)
    new = ready.manifest()["code"]
    assert ready.manifest(f"{new}/.manifest.json")["commit"] == commit
    assert (ready.volume / "vibevoice").readlink() == Path(new)
    assert {old, new} < set(ready.parts())


def test_another_python_gets_an_environment_of_its_own(ready: Site) -> None:
    other = ready.folder / "bin" / Path(ready.env["PYTHON"]).name
    other.parent.mkdir()
    other.symlink_to(ready.env["PYTHON"])
    ready.assert_ready(ready.run(PYTHON=str(other)))
    assert len([name for name in ready.parts() if name.startswith("venv-")]) == 2


def test_an_old_part_goes_after_a_day_without_a_worker(ready: Site) -> None:
    old = ready.manifest()["venv"]
    ready.require("2.0")
    ready.give_environment("2.0")
    for own in ("venv-mine", "vibevoice-backup"):
        (ready.volume / own).mkdir()
        age(ready.volume / own)
    age(ready.volume / old)
    age(*(ready.volume / ".in-use").iterdir())
    run = ready.run()
    ready.assert_ready(run, "2.0")
    assert f"removing {old}, which nobody has used for a day" in run.log
    assert old not in ready.parts()
    assert {"venv-mine", "vibevoice-backup"} < set(ready.parts())


def test_an_old_part_stays_while_a_worker_marks_it(ready: Site) -> None:
    old = ready.manifest()["venv"]
    ready.require("2.0")
    ready.give_environment("2.0")
    age(ready.volume / old)  # the mark of the first run is fresh
    ready.assert_ready(ready.run(), "2.0")
    assert old in ready.parts()


def test_a_flag_without_its_environment_is_repaired(ready: Site) -> None:
    shutil.rmtree(ready.volume / ready.manifest()["venv"])
    ready.assert_ready(ready.run())


def test_an_environment_that_lost_its_python_is_repaired(ready: Site) -> None:
    (ready.volume / "venv" / "bin" / "python").unlink()
    ready.assert_ready(ready.run())


def test_a_flag_without_the_code_is_repaired(ready: Site) -> None:
    shutil.rmtree(ready.volume / ready.manifest()["code"])
    ready.assert_ready(ready.run())


def test_parts_without_the_flag_are_used_as_they_are(ready: Site) -> None:
    (ready.volume / ".first_run_complete").unlink()
    run = ready.run()
    ready.assert_ready(run)
    assert "building" not in run.log
    assert "fetching" not in run.log


@pytest.mark.parametrize("text", ["", "{", '{"venv": "../../.."}', "\0\0\0", "x" * 100_000])
def test_a_corrupt_flag_is_written_anew(ready: Site, text: str) -> None:
    flag = ready.volume / ".first_run_complete"
    flag.write_text(text)
    run = ready.run()
    ready.assert_ready(run)
    assert "building" not in run.log
    assert ready.manifest()["venv"] in ready.parts()


def test_an_environment_without_its_manifest_counts_for_nothing(ready: Site) -> None:
    (ready.volume / "venv" / ".manifest.json").unlink()
    (ready.volume / "venv" / "lib" / "left-over").touch()
    run = ready.run()
    ready.assert_ready(run)
    assert "building the Python environment" in run.log
    assert not (ready.volume / "venv" / "lib" / "left-over").exists()


def test_a_users_voices_are_never_touched(built: Site) -> None:
    voices = built.volume / "demo" / "voices"
    voices.mkdir(parents=True)
    (voices / "en-Alice_woman.wav").write_text("my own Alice")
    (voices / "Me.wav").write_text("me")
    built.push("second", voices=("en-Alice_woman", "en-Frank_man"))
    built.assert_ready(built.run(VIBEVOICE_REF="main"))
    assert (voices / "en-Alice_woman.wav").read_text() == "my own Alice"
    assert (voices / "Me.wav").read_text() == "me"
    assert (voices / "en-Frank_man.wav").read_text() == "second"
    (voices / "en-Frank_man.wav").unlink()
    (built.volume / ".first_run_complete").unlink()
    built.assert_ready(built.run(VIBEVOICE_REF="main"))
    assert built.voices() == ["Me.wav", "en-Alice_woman.wav"]


def test_files_of_a_users_that_bear_our_names_stay(ready: Site) -> None:
    own = ready.volume / "venv-202601010000"
    own.write_text("an archive")
    age(own)
    (ready.volume / ".first_run_complete").unlink()
    ready.assert_ready(ready.run())
    assert own.exists()


def test_a_part_that_cannot_be_removed_keeps_no_other(ready: Site) -> None:
    stuck, old = (ready.volume / f"venv-{digit * 12}" for digit in "12")
    for part in (stuck, old):
        part.mkdir()
        age(part)
    (ready.volume / f".trash-{stuck.name}" / "not empty").mkdir(parents=True)
    hooked = hook(
        ready,
        "import shutil\nreal = shutil.rmtree\ndef rmtree(path, *rest, **more):\n"
        f"  if str(path).endswith({stuck.name!r}):\n    raise OSError(39, 'Directory not empty')\n"
        "  return real(path, *rest, **more)\nshutil.rmtree = rmtree\n",
    )
    (ready.volume / ".first_run_complete").unlink()
    run = ready.run(**hooked)
    assert run.status == 0
    assert "could not be removed" in run.log
    assert not old.exists()


def test_folders_of_a_users_that_bear_our_names_stay(built: Site) -> None:
    (built.volume / "vibevoice").mkdir(parents=True)
    (built.volume / "vibevoice" / "mine").touch()
    run = built.run()
    assert run.status == 0, run.log
    assert "is no link of ours and stays as it is" in run.log
    assert (built.volume / "vibevoice" / "mine").exists()
    assert run.handler["env"]["VIBEVOICE_CODE"].startswith(str(built.volume / "vibevoice-"))


def test_code_that_is_given_is_neither_fetched_nor_touched(built: Site) -> None:
    shutil.move(built.origin, built.folder / "own")
    run = built.run(VIBEVOICE_CODE=str(built.folder / "own"))
    assert run.status == 0, run.log
    assert run.handler["env"]["VIBEVOICE_CODE"] == str(built.folder / "own")
    again = built.run(VIBEVOICE_CODE=str(built.folder / "own"))
    assert "bootstrap:" not in again.log


def test_a_prefetch_fills_the_volume_and_exits(site: Site) -> None:
    run = site.run("--prefetch")
    assert run.status == 0, run.log
    assert "HANDLER" not in run.log
    assert f"everything is in place in {site.volume}" in run.log
    warm = site.run()
    site.assert_ready(warm)
    assert "bootstrap:" not in warm.log
    assert site.run("--prefetch").status == 0


def test_a_prefetched_volume_serves_under_another_mount_point(built: Site) -> None:
    assert built.run("--prefetch").status == 0
    moved = built.folder / "elsewhere"
    shutil.move(built.volume.parent, moved)
    built.env["VIBEVOICE_VOLUME"] = str(moved / "vibevoice")
    warm = built.run()
    built.assert_ready(warm, base=moved / "vibevoice")
    assert "bootstrap:" not in warm.log


def test_a_check_shows_what_is_there(site: Site) -> None:
    empty = site.run("--check")
    assert empty.status == 1
    assert rows(empty.log)["Python environment"].startswith("missing")
    assert rows(empty.log)["next start"].startswith("cold")
    assert not site.volume.exists()
    site.assert_ready(site.run())
    full = site.run("--check")
    assert full.status == 0, full.log
    table = rows(full.log)
    assert table["Python environment"].startswith("whole")
    assert str(site.volume / site.manifest()["venv"]) in table["Python environment"]
    assert site.commit in table["VibeVoice's code"]
    assert table["voices"].strip() == "1 files"
    assert table["lock"].strip() == "free"
    assert table["next start"].strip() == "warm"


def test_a_check_names_who_builds(site: Site) -> None:
    owner = slow_builder(site)
    table = rows(site.run("--check").log)
    assert "by first, building the Python environment" in table["lock"]
    go_on(site)
    site.assert_ready(ended(owner))


def test_a_check_of_a_read_only_volume_says_that_it_takes_no_files(ready: Site) -> None:
    volume = f"'{ready.volume.parent}'"
    read_only = f"mount --bind {volume} {volume}; mount -o remount,ro,bind {volume}"
    run = ready.run_in(ready.inside_mounts(read_only), "--check")
    assert run.status == 1, run.log
    table = rows(run.log)
    assert table["Python environment"].startswith("whole")
    assert table["volume"].startswith("read-only")
    assert "the volume takes no files" in table["next start"]


def test_help_names_every_way_to_call_it(site: Site) -> None:
    run = site.run("--help")
    assert run.status == 0
    for option in ("--prefetch", "--check", "--help"):
        assert option in run.log


def slow_builder(site: Site, *wrap: str) -> "subprocess.Popen[str]":
    """A bootstrap, `first`, whose pip reads a pipe to its end, which comes with `go_on`."""
    pipe = site.folder / "pipe"
    os.mkfifo(pipe)
    site.configure_pip(constraint=pipe.as_uri())
    process = site.start_in(wrap, RUNPOD_POD_ID="first")

    def opened() -> bool:
        with contextlib.suppress(OSError):  # until pip reads
            site.pipe = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        return site.pipe is not None

    until(opened)
    site.configure_pip()  # no later pip waits
    return process


def go_on(site: Site) -> None:
    """Lets the slow builder's pip go on, if it is still there."""
    site.close_pipe()


def groups(site: Site) -> list[int]:
    """The process groups of what runs out of the site's folder."""
    return sorted({os.getpgid(pid) for pid in site.pids()})


def age(*paths: Path) -> None:
    """A day and an hour."""
    then = time.time() - 25 * 3600
    for path in paths:
        os.utime(path, (then, then))


def rows(log: str) -> dict[str, str]:
    return {line[:20].strip(): line[21:] for line in log.splitlines()}
