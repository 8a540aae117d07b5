"""bootstrap.sh on a volume that was damaged after it was finished: noticed, said, repaired once."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bootstrap_site import MODEL_FILE, Run, Site, ended
from tests.hub_api import HubApi
from tests.paper_checkpoint import paper_checkpoint

pytestmark = pytest.mark.process
MODEL = "vibevoice/VibeVoice-7B"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("filled") / "a site")
    site.give_environment()
    site.assert_ready(site.run())
    return site


@pytest.fixture
def site(tmp_path: Path, filled: Site) -> Iterator[Site]:
    """A site whose volume has everything, and whose handler imports what is on it."""
    site = Site(tmp_path / "a site")
    shutil.copytree(filled.volume, site.volume, symlinks=True)
    handler = site.code / "handler.py"
    handler.write_text(f"import tiny_package\ntiny_package.version\n{handler.read_text()}")
    yield site
    site.end()


def package(site: Site, name: str) -> Path:
    (place,) = (site.volume / "venv").glob("lib/python3*/site-packages")
    return place / name


def cut(file: Path) -> None:
    """Leaves half of the file, with the time that it had."""
    before = file.stat()
    os.truncate(file, before.st_size // 2)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def bytecode(site: Site) -> Path:
    (file,) = package(site, "__pycache__").glob("tiny_package.*.pyc")
    return file


DAMAGE: dict[str, Callable[[Site], object]] = {
    "a package's file cut": lambda site: cut(package(site, "tiny_package.py")),
    "a package's file emptied": lambda site: os.truncate(package(site, "tiny_package.py"), 0),
    "a package's file gone": lambda site: package(site, "tiny_package.py").unlink(),
    "a package's record cut": lambda site: cut(
        package(site, "tiny_package-1.0.dist-info") / "RECORD"
    ),
    "a package gone": lambda site: shutil.rmtree(package(site, "tiny_package-1.0.dist-info")),
    "the environment's settings gone": lambda site: (site.volume / "venv/pyvenv.cfg").unlink(),
    "the environment's manifest cut": lambda site: cut(site.volume / "venv/.manifest.json"),
    "a code file emptied": lambda site: os.truncate(site.volume / "vibevoice" / MODEL_FILE, 0),
    "a code file altered": lambda site: (site.volume / "vibevoice" / MODEL_FILE).write_text(
        "# fi\0st\n"
    ),
    "git's head emptied": lambda site: os.truncate(site.volume / "vibevoice/.git/HEAD", 0),
    "the code's manifest cut": lambda site: cut(site.volume / "vibevoice/.manifest.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_kind_of_damage_is_shown_and_repaired(site: Site, kind: str) -> None:
    names = site.parts()
    DAMAGE[kind](site)
    shown = site.run("--check")
    assert shown.status == 1, shown.log
    (line,) = [line for line in shown.log.splitlines() if " damaged " in line]
    assert "1 files such as" in line
    assert ("Python" if "venv" in line else "VibeVoice's") in line
    repaired = site.run("--repair")
    assert repaired.status == 0, repaired.log
    assert "everything is in place" in repaired.log
    assert site.run("--check").status == 0
    assert site.parts() == names


def test_without_the_flag_everything_is_looked_at(site: Site) -> None:
    DAMAGE["a package's file cut"](site)
    DAMAGE["a code file emptied"](site)
    (site.volume / ".first_run_complete").unlink()
    site.assert_ready(site.run())
    assert site.run("--check").status == 0


def test_a_prefetch_repairs_too(site: Site) -> None:
    cut(package(site, "tiny_package.py"))
    assert "repairing venv-" in site.run("--prefetch").log
    assert site.run("--check").status == 0


def test_what_has_its_size_and_other_bytes_is_found_by_its_hash(site: Site) -> None:
    package(site, "tiny_package.py").write_text("version = '1;0'\n")
    assert site.run("--check").status == 0
    assert "tiny_package.py: see --repair" in site.run("--verify").log
    assert "repairing venv-" in site.run("--repair").log
    assert site.run("--verify").status == 0


def died(site: Site, run: Run, words: str) -> None:
    assert run.status != 0
    assert "HANDLER" not in run.log
    (note,) = site.volume.glob(".failed-*")
    assert words in note.read_text()


def test_a_start_that_fails_to_import_is_repaired_by_the_next(site: Site) -> None:
    shutil.rmtree(package(site, "__pycache__"))
    DAMAGE["a package's file emptied"](site)
    first = site.run(RUNPOD_POD_ID="one")
    died(site, first, "tiny_package")
    assert first.log.count("bootstrap: ") == 1
    assert "the start failed (" in first.log
    assert site.run("--check").status == 1
    second = site.run(RUNPOD_POD_ID="another")
    site.assert_ready(second)
    assert "bootstrap: the start before failed (" in second.log
    assert "repairing venv-" in second.log
    third = site.run()
    site.assert_ready(third)
    assert "bootstrap:" not in third.log
    assert not list(site.volume.glob(".failed-*")) + list(site.volume.glob(".repaired-*"))


def test_bytecode_that_was_cut_is_made_anew(site: Site) -> None:
    cut(bytecode(site))
    died(site, site.run(), "EOFError")
    site.assert_ready(site.run())


def test_a_library_that_was_cut_ends_the_start_by_a_signal_and_is_repaired_by_the_next(
    site: Site,
) -> None:
    mapped = Path("/proc/self/maps").read_text().split()
    site.require("2.0", Path(next(word for word in mapped if "/libm.so" in word)).read_bytes())
    handler = site.code / "handler.py"
    library = "os.path.dirname(tiny_package.__file__) + '/tiny_package_data'"
    load = f"import ctypes, os\nctypes.CDLL({library})\n"
    handler.write_text(handler.read_text().replace("tiny_package.version\n", load))
    site.assert_ready(site.run(), "2.0")
    cut(package(site, "tiny_package_data"))
    assert "tiny_package_data" in site.run("--check").log
    first = site.run()
    assert first.status == -signal.SIGBUS
    died(site, first, "Fatal Python error: Bus error")
    second = site.run()
    site.assert_ready(second, "2.0")
    (line,) = [line for line in second.log.splitlines() if "the start before failed" in line]
    assert "Bus error, File " in line
    assert "bootstrap:" not in site.run().log


def test_a_failure_that_no_repair_mends_is_looked_for_once(site: Site) -> None:
    handler = site.code / "handler.py"
    whole = handler.read_text()
    handler.write_text("import no_such_package\n")
    looks = []
    for _ in range(4):
        run = site.run()
        assert "No module named 'no_such_package'" in run.log
        looks.append("looking for damage" in run.log)
        assert "repairing" not in run.log
    assert looks == [False, True, False, False]
    assert "a start failed again after a repair (ModuleNotFoundError" in run.log
    handler.write_text(whole)
    site.assert_ready(site.run())
    assert not list(site.volume.glob(".failed-*")) + list(site.volume.glob(".repaired-*"))


def test_a_start_that_was_killed_leaves_no_word(site: Site) -> None:
    handler = site.code / "handler.py"
    whole = handler.read_text()
    for number in (signal.SIGKILL, signal.SIGTERM):
        handler.write_text(f"import os\nos.kill(os.getpid(), {number})\n")
        assert site.run().status == -number
    handler.write_text("import sys\nsys.exit('The worker cannot start')\n")
    assert site.run().status == 1
    handler.write_text(whole)
    warm = site.run()
    site.assert_ready(warm)
    assert "bootstrap:" not in warm.log


def test_who_works_already_is_no_failed_start(site: Site) -> None:
    handler = site.code / "handler.py"
    handler.write_text(f"{handler.read_text()}\nraise RuntimeError('a week later')\n")
    assert site.run().status == 1
    assert "bootstrap:" not in site.run().log


def test_of_many_that_start_after_a_failure_one_repairs(site: Site) -> None:
    shutil.rmtree(package(site, "__pycache__"))
    package(site, "tiny_package.py").unlink()
    died(site, site.run(), "tiny_package")
    started = [site.start(RUNPOD_POD_ID=f"pod{number}") for number in range(3)]
    runs = [ended(process) for process in started]
    for run in runs:
        site.assert_ready(run)
    assert "".join(run.log for run in runs).count("repairing venv-") == 1


def test_voices_that_were_deleted_as_a_folder_come_back(site: Site) -> None:
    shutil.rmtree(site.volume / "demo" / "voices")
    site.assert_ready(site.run())
    assert site.voices() == ["en-Alice_woman.wav"]


# The model


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubApi]:
    model = paper_checkpoint(tmp_path / "hub" / "model")
    with HubApi({MODEL: model}) as hub:
        yield hub


@pytest.fixture
def spoken(site: Site, hub: HubApi) -> Site:
    """A site whose volume has the model as well."""
    del site.env["SKIP_MODEL_DOWNLOAD"]
    site.env["HF_ENDPOINT"] = hub.url
    site.assert_ready(site.run())
    return site


def weights(site: Site, hub: HubApi) -> Path:
    cache = site.volume / "hf_cache" / "models--vibevoice--VibeVoice-7B"
    return cache / "snapshots" / hub.commit(MODEL) / WEIGHTS


def test_weights_cut_with_an_old_time_are_shown_and_fetched_by_the_next_start(
    spoken: Site, hub: HubApi
) -> None:
    cut(weights(spoken, hub))
    assert f"1 files such as {WEIGHTS}" in spoken.run("--check").log
    first = spoken.run()
    died(spoken, first, WEIGHTS)
    assert "has another size than it had" in first.log
    spoken.assert_ready(spoken.run())
    assert weights(spoken, hub).read_bytes() == (hub.models[MODEL] / WEIGHTS).read_bytes()
    assert "bootstrap:" not in spoken.run().log


def test_weights_with_other_bytes_are_found_by_the_hubs_hash(spoken: Site, hub: HubApi) -> None:
    file = weights(spoken, hub)
    good, state = file.read_bytes(), file.stat()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert spoken.run("--check").status == 0
    verified = spoken.run("--verify")
    assert verified.status == 1, verified.log
    assert f"1 files such as {WEIGHTS}" in verified.log
    assert spoken.run("--repair").status == 0
    assert file.read_bytes() == good
    assert spoken.run("--verify").status == 0
    hub.status[MODEL] = 500
    assert "its hashes are not compared" in spoken.run("--verify").log


def test_a_file_from_the_future_makes_one_cold_start(spoken: Site, hub: HubApi) -> None:
    later = time.time() + 1e6
    os.utime(weights(spoken, hub), (later, later))
    spoken.assert_ready(spoken.run())
    assert "bootstrap:" not in spoken.run().log
    cut(weights(spoken, hub))
    assert spoken.run().status == 1
