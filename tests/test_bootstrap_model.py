"""bootstrap.sh and its model: found, downloaded from a hub on loopback, resumed, refused."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.vibevoice.checkpoint import DEFAULT_TOKENIZER
from tests.bootstrap_site import ROOT, Site, until
from tests.hub_api import TOKEN, HubApi
from tests.paper_checkpoint import paper_checkpoint, write_paper_tokenizer

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.process
MODEL = "vibevoice/VibeVoice-7B"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubApi]:
    model = paper_checkpoint(tmp_path / "hub" / "model", with_tokenizer=False)
    (model / "README.md").write_text("not asked for")
    tokenizer = write_paper_tokenizer(tmp_path / "hub" / "tokenizer")
    with HubApi({MODEL: model, DEFAULT_TOKENIZER: tokenizer}) as hub:
        yield hub


@pytest.fixture
def site(tmp_path: Path, hub: HubApi) -> Iterator[Site]:
    site = Site(tmp_path / "a site")
    site.give_environment()
    del site.env["SKIP_MODEL_DOWNLOAD"]
    site.env["HF_ENDPOINT"] = hub.url
    yield site
    site.end()


def snapshot(site: Site, hub: HubApi, base: Path | None = None) -> Path:
    cache = (base or site.volume) / "hf_cache" / "models--vibevoice--VibeVoice-7B"
    return cache / "snapshots" / hub.commit(MODEL)


def test_a_first_run_downloads_the_model_and_its_tokenizer(site: Site, hub: HubApi) -> None:
    shutil.rmtree(site.volume)
    run = site.run()
    site.assert_ready(run)
    folder = snapshot(site, hub)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS]
    assert (folder / WEIGHTS).read_bytes() == (hub.models[MODEL] / WEIGHTS).read_bytes()
    assert (folder.parents[1] / "refs" / "main").read_text() == hub.commit(MODEL)
    assert sorted(path.name for path in folder.parents[1].iterdir()) == ["refs", "snapshots"]
    assert site.manifest()["model"] == str(folder.relative_to(site.volume))
    assert site.manifest()["files"] == ["config.json", WEIGHTS]
    env = run.handler["env"]
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["HF_HUB_CACHE"] == str(site.volume / "hf_cache")
    assert run.log.count("HF_TOKEN is not set") == 1
    assert f"downloading {MODEL}, 0.00 GB" in run.log


def test_once_it_is_there_the_hub_is_not_asked_again(site: Site, hub: HubApi) -> None:
    site.assert_ready(site.run())
    asked = len(hub.asked)
    warm = site.run()
    site.assert_ready(warm)
    assert "bootstrap:" not in warm.log
    (site.volume / ".first_run_complete").unlink()
    site.assert_ready(site.run())
    assert len(hub.asked) == asked


def test_a_download_that_was_cut_off_goes_on_where_it_was(site: Site, hub: HubApi) -> None:
    enlarge(hub, 12_000)
    kept = 2 * 10 * 2**20  # the library writes a file in pieces of 10 MB
    hub.stall_after = kept + 1000
    first = site.start()
    assert hub.stalled.wait(120)
    until(lambda: any(path.stat().st_size >= kept for path in partial(site)))
    assert not snapshot(site, hub).exists()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    until(lambda: not site.processes())
    hub.stall_after = None
    site.assert_ready(site.run(LOCK_STALE_SEC="0.5"))
    assert hub.bytes_asked_of(WEIGHTS) == ["", f"bytes={kept}-"]
    assert (snapshot(site, hub) / WEIGHTS).stat().st_size == size(hub)


def partial(site: Site) -> list[Path]:
    return list((site.volume / "hf_cache").rglob("*.incomplete"))


def size(hub: HubApi) -> int:
    return (hub.models[MODEL] / WEIGHTS).stat().st_size


def test_progress_is_shown_while_it_downloads(site: Site, hub: HubApi) -> None:
    hub.stall_after = 1_500_000
    program = (
        "import sys, logging, threading; sys.path.insert(0, sys.argv[1])\n"
        "from engines.vibevoice import download, hub\n"
        "download.REPORT_SEC = 0.2\n"
        "logging.basicConfig(level='INFO', stream=sys.stdout)\n"
        "hub.Hub.of(download.Path(sys.argv[2])).find(sys.argv[3], 'MODEL_PATH', id, ['*.*'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(ROOT), str(site.volume), MODEL],
        env=site.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    line = next(line for line in process.stdout if "MB/s" in line)
    process.kill()
    process.communicate()
    assert "of 0.00 GB," in line


def test_a_note_of_the_librarys_that_a_kill_left_empty_is_no_hindrance(
    site: Site, hub: HubApi
) -> None:
    part = snapshot(site, hub).parents[1] / f".{hub.commit(MODEL)}.part"
    note = part / ".cache" / "huggingface" / "download" / "config.json.metadata"
    note.parent.mkdir(parents=True)
    note.touch()
    shutil.copy(hub.models[MODEL] / "config.json", part)
    site.assert_ready(site.run())


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_model_is_made_good_and_only_what_is_bad_comes_again(
    site: Site, hub: HubApi, damage: str
) -> None:
    site.assert_ready(site.run())
    weights = snapshot(site, hub) / WEIGHTS
    if damage == "gone":
        weights.unlink()
    else:
        os.truncate(weights, {"cut": 1_000_000, "empty": 0}[damage])
    config = hub.bytes_asked_of("config.json").count("")
    site.assert_ready(site.run())
    assert weights.stat().st_size == size(hub)
    assert hub.bytes_asked_of(WEIGHTS) == ["", ""]
    assert hub.bytes_asked_of("config.json").count("") == config


def test_another_revision_is_fetched_beside_the_old(site: Site, hub: HubApi) -> None:
    site.assert_ready(site.run())
    old = snapshot(site, hub)
    (hub.models[MODEL] / "generation_config.json").write_text("{}")
    run = site.run()  # a name is looked up once
    assert "bootstrap:" not in run.log
    site.assert_ready(site.run(MODEL_REVISION=hub.commit(MODEL)))
    assert site.manifest()["model"].endswith(hub.commit(MODEL))
    assert snapshot(site, hub) != old
    assert old.exists()
    site.assert_ready(site.run(MODEL_REVISION=old.name))
    assert site.manifest()["model"].endswith(old.name)


def test_an_old_revision_goes_after_a_day_and_other_models_stay(site: Site, hub: HubApi) -> None:
    site.assert_ready(site.run())
    old = snapshot(site, hub)
    other = paper_checkpoint(site.volume / "hf_cache" / "models--a--b" / "snapshots" / ("c" * 40))
    (hub.models[MODEL] / "generation_config.json").write_text("{}")
    for path in (old, other, *(site.volume / ".in-use").iterdir()):
        os.utime(path, (1, 1))
    run = site.run(MODEL_REVISION=hub.commit(MODEL))
    site.assert_ready(run)
    assert f"removing {old.name}, which nobody has used for a day" in run.log
    assert not old.exists()
    assert other.exists()


def test_a_download_that_was_given_up_goes_after_a_day(site: Site, hub: HubApi) -> None:
    root = snapshot(site, hub).parents[1]
    old, fresh = (root / f".{digit * 40}.part" for digit in "ef")
    for part in (old, fresh):
        part.mkdir(parents=True)
        (part / WEIGHTS).touch()
    for path in (old / WEIGHTS, old, fresh):
        os.utime(path, (1, 1))
    run = site.run()
    site.assert_ready(run)
    assert f"gone on with for a day: {old.name}" in run.log
    assert (old.exists(), fresh.exists()) == (False, True)


def test_the_models_cache_of_the_platform_image_or_user_is_used(site: Site, hub: HubApi) -> None:
    baked = site.local / "hf_cache" / "models--vibevoice--VibeVoice-7B"
    paper_checkpoint(baked / "snapshots" / ("d" * 40))
    run = site.run()
    site.assert_ready(run)
    assert f":{site.local}/hf_cache:" in run.handler["env"]["MODEL_CACHES"]
    assert site.manifest()["model"].startswith(str(site.local))
    assert hub.asked == []
    assert "bootstrap:" not in site.run().log


def test_a_users_models_are_never_removed(site: Site) -> None:
    names = ("VibeVoice-7B", "mine", "other")
    for name in names:
        os.utime(paper_checkpoint(site.volume / "models" / name), (1, 1))
    site.assert_ready(site.run())
    assert site.manifest()["model"] == "models/VibeVoice-7B"
    site.assert_ready(site.run(MODEL_PATH=str(site.volume / "models" / "mine")))
    assert sorted(path.name for path in (site.volume / "models").iterdir()) == sorted(names)


def test_a_folder_as_model_is_checked_and_used(site: Site, hub: HubApi) -> None:
    model = paper_checkpoint(site.folder / "my model")
    site.env["MODEL_PATH"] = str(model)
    site.assert_ready(site.run())
    assert site.manifest()["model"] == str(model)
    assert "bootstrap:" not in site.run().log
    os.truncate(model / WEIGHTS, 100)
    run = site.run()
    assert run.status == 1
    assert "model.safetensors is cut off or damaged" in run.log
    assert hub.asked == []


def test_a_read_only_volumes_model_is_used_from_there(site: Site, hub: HubApi) -> None:
    site.assert_ready(site.run())
    asked = len(hub.asked)
    disk = f"'{site.volume.parent}'"
    read_only = f"mount --bind {disk} {disk}; mount -o remount,ro,bind {disk}"
    run = site.run_in(site.inside_mounts(read_only))
    assert run.status == 0, run.log
    assert f":{site.volume}/hf_cache" in run.handler["env"]["MODEL_CACHES"]
    assert run.handler["env"]["VIBEVOICE_VOLUME"] == str(site.local)
    assert len(hub.asked) == asked


def test_a_model_that_does_not_fit_goes_to_the_container_disk(site: Site, hub: HubApi) -> None:
    enlarge(hub, 52_000)
    small = f"mount -t tmpfs -o size=101m none '{site.volume.parent}'"
    run = site.run_in(site.inside_mounts(small))
    assert run.status == 0, run.log
    assert f"no space for {MODEL}: it needs 0.11 GB and 0.1" in run.log
    assert snapshot(site, hub, site.local).is_dir()
    assert run.handler["env"]["HF_HUB_CACHE"] == str(site.local / "hf_cache")


def enlarge(hub: HubApi, rows: int) -> None:
    shutil.rmtree(hub.models[MODEL])
    paper_checkpoint(hub.models[MODEL], rows, with_tokenizer=False)


@pytest.mark.parametrize(
    ("settings", "status", "sentence"),
    [
        ({"HF_TOKEN": "hf_wrong"}, None, "the hub refuses HF_TOKEN (401)"),
        ({}, 401, "it does not exist or is private (401); check the name or set HF_TOKEN"),
        ({"HF_TOKEN": TOKEN}, 403, "HF_TOKEN's account has not accepted its terms (403)"),
        ({"HF_TOKEN": TOKEN}, 404, "HF_TOKEN's account sees no model of that name (404)"),
        ({"MODEL_PATH": "nobody/nothing"}, None, "there is no model of that name (404)"),
        ({"MODEL_REVISION": "v9"}, None, "it has no revision 'v9' (404); check MODEL_REVISION"),
        ({}, 500, "the hub answered 500; try again later"),
        (
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            None,
            "no network, or the hub is not to be reached",
        ),
        (
            {"MODEL_PATH": "../model"},
            None,
            "MODEL_PATH is neither a folder that exists nor a hub id",
        ),
        ({"MODEL_REVISION": "../x"}, None, "MODEL_REVISION: "),
        ({"HF_TOKEN": "hf_two\nlines"}, None, "HF_TOKEN: a token has no spaces"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_in_a_sentence(
    site: Site, hub: HubApi, settings: dict[str, str], status: int | None, sentence: str
) -> None:
    if status:
        hub.status[MODEL] = status
    run = site.run(**settings)
    assert run.status == 1, run.log
    assert sentence in run.log.splitlines()[-1], run.log
    assert "hf_" not in run.log.replace("hf_cache", "").replace("hf_home", "")
    assert "Traceback" not in run.log


def test_the_preview_voice_needs_no_model(site: Site, hub: HubApi) -> None:
    site.assert_ready(site.run(ENGINE="espeak"))
    assert hub.asked == []


KILLED = """\
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import huggingface_hub.hf_api, huggingface_hub._snapshot_download
from pathlib import Path
from engines.vibevoice import checkpoint, hub

cache, model = Path(sys.argv[2]), sys.argv[3]
CHANGES = sys.argv[5].split()

def attempt(place):
    # The child dies at its change of that number; 0 is a whole download.
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in CHANGES and str(cache) in str(arguments[0]):
            if event != "open" or any(mark in str(arguments[1]) for mark in "wa+"):
                seen += 1
                if seen == place:
                    os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if not child:
        sys.addaudithook(hook)
        found, _ = checkpoint.find(hub.Hub(caches=(cache,), download_to=cache), model)
        assert (found.folder / "model.safetensors").stat().st_size == int(sys.argv[4])
        os._exit(0)
    return os.waitpid(child, 0)[1]

place = 1
while attempt(place) == signal.SIGKILL:
    for folder in cache.glob("models--*/snapshots/*"):
        if "7B" in str(folder):
            checkpoint.inspect(folder)  # nothing half is ever there to be found
    assert attempt(0) == 0, f"after a kill at change {place}"
    for root in cache.glob("models--*"):
        assert not list(root.glob(".*")), f"left over after a kill at change {place}"
        os.system(f"rm -rf '{root}'")
    place += 1
print("places", place - 1)
"""


@pytest.mark.parametrize(
    "changes",
    [
        "os.rename os.rmdir",
        pytest.param("os.mkdir os.remove shutil.rmtree open", marks=pytest.mark.soak),
    ],
)
def test_killed_at_any_change_of_the_cache_a_download_is_made_good(
    tmp_path: Path, hub: HubApi, changes: str
) -> None:
    enlarge(hub, 10)
    cache = tmp_path / "a cache"
    cache.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(ROOT), str(cache), MODEL, str(size(hub)), changes],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "none")},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(run.stdout.split()[-1]) >= 10
