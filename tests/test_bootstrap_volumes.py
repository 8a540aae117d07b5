"""bootstrap.sh where the volume is absent, read-only or full, and where nothing can be had."""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from provision.outcome import Refused, is_full, told
from provision.start import make_ready, refuse_old_cards
from provision.wanted import Wanted
from provision.work import unfit
from tests.bootstrap_site import REPOSITORY, ROOT, Site
from tests.wheels import make_wheel

pytestmark = pytest.mark.process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "a site")
    yield site
    site.end()


def assert_loud(log: str, reason: str) -> None:
    (line,) = [line for line in log.splitlines() if "!!!" in line]
    assert reason in line
    assert "uses its container disk" in line


def on_tmpfs(site: Site, options: str) -> tuple[str, ...]:
    """Runs a bootstrap with a tmpfs where the network volume is mounted."""
    return site.inside_mounts(f"mount -t tmpfs -o {options} none '{site.volume.parent}'")


def test_without_a_volume_the_container_disk_serves(site: Site) -> None:
    shutil.rmtree(site.volume.parent)
    run = site.run()
    site.assert_ready(run, base=site.local)
    assert_loud(run.log, f"there is no {site.volume.parent}: no network volume is attached")
    assert not site.volume.parent.exists()


@pytest.mark.parametrize("spelling", ["{}/", "{}//"])
def test_a_slash_at_the_end_makes_no_other_volume(site: Site, spelling: str) -> None:
    site.give_environment()
    site.assert_ready(site.run(VIBEVOICE_VOLUME=spelling.format(site.volume)))
    assert "bootstrap:" not in site.run().log


def test_folders_may_be_named_from_where_the_caller_is(site: Site) -> None:
    shutil.rmtree(site.volume.parent)
    site.env["TMPDIR"] = "tmp"
    run = site.run(VIBEVOICE_LOCAL="-disk/", HF_HOME="home of models")
    site.assert_ready(run, base=site.folder / "-disk")
    assert run.handler["env"]["HF_HUB_CACHE"] == str(site.folder / "home of models" / "hub")


def test_a_volume_may_lie_in_the_root_folder(site: Site) -> None:
    none = Path(f"/{site.folder.name}-none")
    assert unfit(none / "x", wanted()) == f"there is no {none}: no network volume is attached"
    assert unfit(Path("/tmp"), wanted()) == ""


def wanted(requirements: Path = Path("requirements-demo.txt")) -> Wanted:
    given = {each.name: "w" for each in fields(Wanted)} | {"requirements_file": str(requirements)}
    return Wanted.take_from(given)


def test_an_empty_read_only_volume_is_replaced_by_the_container_disk(site: Site) -> None:
    run = site.run_in(on_tmpfs(site, "ro"))
    site.assert_ready(run, base=site.local)
    assert_loud(run.log, "cannot be written to (Read-only file system)")


def test_what_a_read_only_volume_has_is_used_from_there(site: Site) -> None:
    site.give_environment()
    site.assert_ready(site.run())
    shutil.rmtree(site.origin)
    shutil.rmtree(site.wheels)
    (site.volume / "demo" / "voices" / "Me.wav").write_text("me")
    volume = f"'{site.volume.parent}'"
    run = site.run_in(
        site.inside_mounts(f"mount --bind {volume} {volume}; mount -o remount,ro,bind {volume}")
    )
    assert run.status == 0, run.log
    assert_loud(run.log, "Read-only file system")
    assert "building" not in run.log
    assert run.handler["prefix"].startswith(str(site.volume))
    assert run.handler["env"]["VIBEVOICE_CODE"].startswith(str(site.volume))
    assert run.handler["env"]["VIBEVOICE_VOLUME"] == str(site.local)
    voices = site.local / "demo" / "voices"
    assert sorted(path.name for path in voices.iterdir()) == ["Me.wav", "en-Alice_woman.wav"]


def test_a_volume_that_cannot_be_written_to_lends_its_voices_to_a_baked_image(site: Site) -> None:
    site.give_environment(base=site.local)
    assert site.run("--prefetch", VIBEVOICE_VOLUME=str(site.local)).status == 0
    voices = site.volume / "demo" / "voices"
    voices.mkdir(parents=True)
    (voices / "Me.mp3").write_text("me")
    (voices / "en-Alice_woman.wav").write_text("my own Alice")
    volume = f"'{site.volume.parent}'"
    run = site.run_in(
        site.inside_mounts(f"mount --bind {volume} {volume}; mount -o remount,ro,bind {volume}")
    )
    site.assert_ready_from_image(run, site.local)
    served = {path.name: path.read_text() for path in (site.local / "demo/voices").iterdir()}
    assert served == {"Me.mp3": "me", "en-Alice_woman.wav": "my own Alice"}


def test_voices_that_are_links_are_lent_to_each_start_of_a_container(site: Site) -> None:
    site.give_environment(base=site.local)
    assert site.run("--prefetch", VIBEVOICE_VOLUME=str(site.local)).status == 0
    voices = site.volume / "demo" / "voices"
    voices.mkdir(parents=True)
    (voices / "Me.wav").write_text("me")
    (voices / "Also me.wav").symlink_to("Me.wav")
    volume = f"'{site.volume.parent}'"
    wrap = site.inside_mounts(f"mount --bind {volume} {volume}; mount -o remount,ro,bind {volume}")
    for _ in range(2):
        site.assert_ready_from_image(site.run_in(wrap), site.local)
    assert (site.local / "demo" / "voices" / "Also me.wav").read_text() == "me"


def test_a_volume_that_fills_up_while_it_is_filled_is_left_and_cleared(site: Site) -> None:
    site.require("1.0", data=b"x" * 3_000_000)
    kept = site.folder / "kept"
    wrap = on_tmpfs(site, "size=2m")
    script = wrap[4].replace('exec "$@"', f"\"$@\"; ls -A '{site.volume}' >'{kept}'")
    run = site.run_in((*wrap[:4], script, wrap[5]))
    site.assert_ready(run, base=site.local)
    assert "no space in" in run.log
    assert_loud(run.log, "there is no space left")
    assert not [name for name in kept.read_text().split() if name.startswith(("venv", ".building"))]


def test_what_does_not_fit_by_what_the_system_says_is_not_begun(site: Site) -> None:
    run = site.run_in(on_tmpfs(site, "size=20m"))
    assert run.status == 0, run.log
    assert "no space in" in run.log
    assert re.search(r"VibeVoice's code needs 100 MB; \d\d? MB are free", run.log)
    assert run.handler["env"]["VIBEVOICE_CODE"].startswith(str(site.local))
    assert run.handler["prefix"].startswith(str(site.volume))  # that did fit


def test_a_volume_without_room_for_a_single_file_is_left(site: Site) -> None:
    run = site.run_in(on_tmpfs(site, "nr_inodes=2"))
    site.assert_ready(run, base=site.local)
    assert_loud(run.log, "No space left on device")


def test_an_exceeded_quota_is_a_full_volume_too(site: Site) -> None:
    """A quota shows in no free space, only in the error of who writes."""
    python = site.folder / "bin" / Path(site.env["PYTHON"]).name
    python.parent.mkdir()
    refusal = "ERROR: Could not install packages: [Errno 122] Disk quota exceeded"
    python.write_text(
        "#!/bin/sh\n"
        f"""case "$*" in *"{site.volume}"*install*) echo '{refusal}'; exit 1 ;; esac\n"""
        f"""exec '{site.env["PYTHON"]}' "$@"\n"""
    )
    python.chmod(0o755)
    run = site.run(PYTHON=str(python))
    site.assert_ready(run, base=site.local)
    assert_loud(run.log, "there is no space left")


def test_where_nothing_fits_anywhere_it_says_so_and_ends(site: Site) -> None:
    site.require("1.0", data=b"x" * 3_000_000)
    both = f"mount -t tmpfs -o size=2m none '{site.volume.parent}'; mkdir '{site.local}';"
    both += f"mount -t tmpfs -o size=2m none '{site.local}'"
    run = site.run_in(site.inside_mounts(both))
    assert run.status == 28
    assert "enlarge the volume or the container disk" in run.log
    assert "HANDLER" not in run.log


def test_a_prefetch_does_not_fill_the_container_disk_instead(site: Site) -> None:
    shutil.rmtree(site.volume.parent)
    run = site.run("--prefetch")
    assert run.status == 1
    assert "no network volume is attached" in run.log
    assert not site.local.exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"PYTHON": "python3"}, "PYTHON is 'python3'; allowed: a name with its version"),
        ({"PYTHON": "python3.99"}, "there is no python3.99 here"),
        ({"RUNPOD_INIT_TIMEOUT": "30m"}, "RUNPOD_INIT_TIMEOUT is '30m'; allowed: a number of sec"),
        ({"MODE": "ftp"}, "MODE is 'ftp'; allowed: "),
        ({"VIBEVOICE_REF": "--upload-pack=x"}, "VIBEVOICE_REF is '--upload-pack=x'; allowed"),
        ({"REQUIREMENTS_FILE": "/nowhere"}, "REQUIREMENTS_FILE: /nowhere cannot be read"),
        (
            {"VIBEVOICE_REF": "b" * 40},
            f"it has no '{'b' * 40}'; check VIBEVOICE_REF",
        ),
        ({"VIBEVOICE_REPO": "/nowhere"}, "there is no such repository that can be read"),
        (
            {"VIBEVOICE_REPO": "http://127.0.0.1:9/VibeVoice.git"},
            "VibeVoice's code from http://127.0.0.1:9/VibeVoice.git could not be had: no network",
        ),
        (
            {"pip": "http://127.0.0.1:9/"},
            "the Python environment could not be had: no network",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_said_in_a_sentence(
    site: Site, settings: dict[str, str], sentence: str
) -> None:
    if index := settings.get("pip"):
        options = {"no-index": "false", "find-links": "", "extra-index-url": ""}
        site.configure_pip(**options | {"index-url": index, "retries": "1"})
    else:
        site.give_environment()
    run = site.run(**settings)
    assert run.status == 1, run.log
    assert f"bootstrap: {sentence}" in run.log or sentence in run.log.splitlines()[-1], run.log
    assert "HANDLER" not in run.log
    assert not site.processes()


def test_code_that_is_not_vibevoices_is_refused(site: Site) -> None:
    site.give_environment()
    site.git("-C", str(site.origin), "rm", "-q", "-r", "vibevoice")
    site.git("-C", str(site.origin), "commit", "-q", "-m", "something else")
    run = site.run(VIBEVOICE_REF="main")
    assert run.status == 1
    assert "there is no VibeVoice that can speak at main" in run.log


def test_the_password_in_a_repositorys_address_is_not_logged(site: Site) -> None:
    site.give_environment()
    run = site.run(VIBEVOICE_REPO="http://me:hush@127.0.0.1:9/VibeVoice.git")
    assert run.status == 1
    (line,) = [line for line in run.log.splitlines() if "could not be had" in line]
    assert "code from http://127.0.0.1:9/VibeVoice.git could not" in line
    assert "hush" not in run.log


def test_a_login_in_an_address_is_not_kept_on_the_volume(site: Site) -> None:
    login = REPOSITORY.replace("//", "//me:hush@")
    with site.git_config.open("a") as config:
        config.write(f"insteadOf = {login}\n")
    wheel = "http://me:hush@127.0.0.1:9/flash_attn-1-py3-none-any.whl?signature=hush"
    site.configure_pip(retries="0")
    run = site.run(VIBEVOICE_REPO=login, FLASH_ATTN_WHEEL=wheel)
    site.assert_ready(run)
    bootstraps = [line for line in run.log.splitlines() if line.startswith("bootstrap:")]
    assert "hush" not in "".join(bootstraps)
    for part in site.parts():
        for file in (path for path in (site.volume / part).rglob("*") if path.is_file()):
            assert b"me:hush" not in file.read_bytes(), file
    site.env["FLASH_ATTN_WHEEL"] = wheel.replace("me:hush@", "")
    assert "installing flash-attn again" in site.run().log
    assert "bootstrap:" not in site.run().log  # another login is the same part


def test_a_package_that_is_not_the_pinned_one_is_refused(site: Site) -> None:
    (wheel,) = site.wheels.iterdir()
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    run = site.run()
    assert run.status == 1
    assert "a package is not the one that was pinned" in run.log
    assert not (site.volume / ".first_run_complete").exists()


def test_a_failed_step_leaves_what_is_whole_for_the_next_start(site: Site) -> None:
    assert site.run(VIBEVOICE_REF="missing").status == 1
    run = site.run()
    site.assert_ready(run)
    assert "building the Python environment" not in run.log


def test_flash_attention_that_cannot_be_had_is_a_line_and_no_failure(site: Site) -> None:
    run = site.run(FLASH_ATTN_WHEEL=(site.wheels / "flash_attn-1-py3-none-any.whl").as_uri())
    site.assert_ready(run)
    assert "the model will use torch's own attention (sdpa)" in run.log
    manifest = site.manifest(f"{site.manifest()['venv']}/.manifest.json")
    assert manifest["flash_attention"] == "none, its wheel could not be had"


def test_flash_attention_comes_from_its_wheel(site: Site) -> None:

    pin = make_wheel(site.wheels, "flash_attn", "2.8.3", {"flash_attn.py": ""})
    wheel = (site.wheels / "flash_attn-2.8.3-py3-none-any.whl").as_uri()
    site.assert_ready(site.run(FLASH_ATTN_WHEEL=f"{wheel}#sha256={pin.strip().split(':')[-1]}"))
    manifest = site.manifest(f"{site.manifest()['venv']}/.manifest.json")
    assert manifest["flash_attention"] == "2.8.3"


CUDA = "nvidia-cublas-cu12==12.8.4.1\n"


def driver(tmp_path: Path, version: str) -> tuple[str, str]:
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Jan 1 00:00:00 UTC 2025\n"
    )
    return str(tmp_path / "nvidiactl"), str(tmp_path / "version")


def refuse_without_driver(
    device: str, version: str, wsl: str = "/nowhere", **env: str
) -> "subprocess.CompletedProcess[str]":
    code = (
        "source ./bootstrap.sh; requirements=$1 requirements_file=requirements.txt;"
        ' refuse_without_driver "$2" "$3" "$4"'
    )
    return subprocess.run(
        ["bash", "-c", code, "-", env.pop("requirements", CUDA), device, version, wsl],
        cwd=ROOT, env={"PATH": os.environ["PATH"], **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_cuda_build_wants_a_driver(tmp_path: Path) -> None:
    device, version = driver(tmp_path, "570.124.06")
    fine = refuse_without_driver(device, version)
    assert (fine.returncode, fine.stderr) == (0, "")
    older = refuse_without_driver(*driver(tmp_path, "550.54.15"))
    assert older.returncode == 0
    assert "the NVIDIA driver 550.54 is older than CUDA 12.8" in older.stderr
    oldest = refuse_without_driver(*driver(tmp_path, "470.82.01"))
    assert oldest.returncode == 1
    assert "470.82 is too old for CUDA 12.8" in oldest.stderr
    none = refuse_without_driver("/nowhere", version)
    assert none.returncode == 1
    assert (
        "there is no NVIDIA driver on this machine, and requirements.txt is a CUDA" in none.stderr
    )
    assert refuse_without_driver("/nowhere", "", ENGINE="espeak").returncode == 0
    assert refuse_without_driver("/nowhere", "", requirements="torch==2.13.0\n").returncode == 0


OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build"
    "  (dvs-builder@U16-I3-A16-2-1)\nGCC version: 13.2.0\n"
)


@pytest.mark.parametrize("text", [OPEN, OPEN.replace("x86_64", "aarch64")], ids=["x86", "arm"])
def test_the_version_of_open_kernel_modules_is_read_too(tmp_path: Path, text: str) -> None:
    device, version = driver(tmp_path, "1.2")
    said = {}
    for number in ("515.43.04", "525.60.13", "569.99", "570.124.06"):
        Path(version).write_text(text.format(number))
        run = refuse_without_driver(device, version)
        said[number] = (run.returncode, "CUDA 12.8" in run.stderr)
    assert said == {
        "515.43.04": (1, True), "525.60.13": (0, True), "569.99": (0, True),
        "570.124.06": (0, False),
    }  # fmt: skip


def test_windows_own_driver_is_one(tmp_path: Path) -> None:
    """In WSL 2 there is neither /dev/nvidiactl nor a version in /proc."""
    (tmp_path / "dxg").touch()
    run = refuse_without_driver("/nowhere", "/nowhere", str(tmp_path / "dxg"))
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("name", ["hf_cache", "demo", ".lock"])
def test_a_file_where_a_folder_has_to_be_is_said(site: Site, name: str) -> None:
    site.give_environment()
    site.volume.mkdir(exist_ok=True)
    (site.volume / name).touch()
    run = site.run()
    site.assert_ready(run, base=site.local)
    assert_loud(run.log, f"{site.volume / name} is not a folder, as it has to be: move it away")
    assert "no space" not in run.log


def test_a_file_in_the_place_of_the_volume_is_said(site: Site) -> None:
    site.volume.touch()
    run = site.run("--prefetch")
    assert run.status == 1
    assert f"{site.volume} is not a folder, as it has to be: move it away" in run.log


def test_a_folder_that_takes_no_files_is_no_full_one() -> None:
    """Root may write anywhere, so a permission that is missing is an error of the system's."""
    problem = PermissionError(errno.EACCES, "Permission denied", "/v/demo")
    assert told(problem, Path("/v")) == "/v/demo cannot be written to (Permission denied)"
    assert not is_full(str(problem))
    assert is_full(str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/v")))


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Why a CUDA build refuses a machine whose `nvidia-smi` says so, or fails where it says
    nothing; empty where it does not refuse."""
    (tmp_path / "cuda.txt").write_text(CUDA)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def refused(says: str) -> str:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(
            "#!/bin/sh\n"
            '[ "$*" = "--query-gpu=name,compute_cap --format=csv,noheader" ] || exit 9\n'
            f"printf '%s' '{says}'\n[ '{says}' ] || exit 9\n"
        )
        tool.chmod(0o755)
        try:
            refuse_old_cards(wanted(tmp_path / "cuda.txt"))
        except Refused as problem:
            return str(problem)
        return ""

    return refused


def test_a_card_that_is_too_old_is_refused_by_name(
    cards: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cards("Tesla T4, 7.5\nTesla V100-SXM2-16GB, 7.0\n") == (
        "the GPU Tesla V100-SXM2-16GB has compute capability 7.0, and VibeVoice needs 8.0 (Ampere)"
        " or newer: choose another GPU for the endpoint"
    )
    monkeypatch.setenv("ENGINE", "espeak")
    assert cards("Tesla T4, 7.5\n") == ""


def test_an_old_card_is_refused_before_anything_is_made(
    cards: Callable[[str], str], tmp_path: Path
) -> None:
    assert cards("Tesla T4, 7.5\n")
    own = replace(
        wanted(tmp_path / "cuda.txt"), volume=tmp_path / "volume", unattached="", prefetch=""
    )
    with pytest.raises(Refused, match="the GPU Tesla T4 has compute capability"):
        make_ready(own)
    assert not own.volume.exists()


@pytest.mark.parametrize(
    "says",
    [
        "NVIDIA A100-SXM4-80GB, 8.0\n",
        "NVIDIA B200, 10.0\n",
        "Tesla T4, 7.5\nNVIDIA L4, 8.9\n",
        "Tesla T4, [N/A]\n",
        "",
    ],
)
def test_another_card_and_one_that_nobody_knows_are_not_refused(
    cards: Callable[[str], str], says: str
) -> None:
    assert cards(says) == ""


def test_the_production_set_is_a_cuda_build_with_flash_attentions_wheel(site: Site) -> None:
    if os.path.exists("/dev/nvidiactl"):  # noqa: PTH110
        pytest.skip("needs a machine without a GPU")
    del site.env["REQUIREMENTS_FILE"]
    run = site.run()
    assert run.status == 1
    assert "there is no NVIDIA driver on this machine" in run.log
    assert not site.volume.exists()


def test_a_volume_that_runs_no_program_is_told_before_it_is_built_on(site: Site) -> None:
    site.give_environment()
    shutil.rmtree(site.volume)
    run = site.run_in(on_tmpfs(site, "noexec"))
    site.assert_ready(run, base=site.local)
    assert_loud(run.log, "is mounted noexec: no program can run from it")


def test_a_volume_that_runs_no_program_serves_an_environment_of_the_image(site: Site) -> None:
    site.give_environment(base=site.local)
    run = site.run_in(on_tmpfs(site, "noexec"))
    assert run.status == 0, run.log
    assert run.handler["env"]["VIBEVOICE_VOLUME"] == str(site.volume)
    assert run.handler["prefix"].startswith(str(site.local))


def test_an_old_environment_of_another_worker_is_named_with_the_line_that_removes_it(
    site: Site,
) -> None:
    site.give_environment()
    old = site.volume / "venv"
    old.mkdir(parents=True)
    (old / "pyvenv.cfg").touch()
    run = site.run()
    assert run.status == 0, run.log
    assert f"{old}, an environment of another worker, is no link of ours" in run.log
    assert f": rm -rf '{old}'" in run.log
    assert old.exists()


def test_what_the_caller_set_for_pip_git_and_python_does_not_reach_the_build(site: Site) -> None:
    own = {
        "PIP_TARGET": str(site.folder / "elsewhere"), "PIP_DRY_RUN": "1", "PIP_NO_DEPS": "x",
        "PIP_CONFIG_FILE": "/nowhere", "PYTHONHOME": "/nowhere", "GIT_DIR": "/nowhere",
        "GIT_INDEX_FILE": "/nowhere", "GIT_SSH_COMMAND": "false",
    }  # fmt: skip
    site.assert_ready(site.run(**own))
    assert "bootstrap:" not in site.run(**own).log


def test_an_environment_that_lacks_a_package_is_never_whole(site: Site) -> None:
    site.configure_pip(**{"dry-run": "true"})
    run = site.run()
    assert run.status == 1
    assert "1 packages were not installed, such as tiny-package" in run.log
    assert not list(site.volume.glob("venv-*/.manifest.json"))
    site.configure_pip()
    site.assert_ready(site.run())


def test_a_wheel_of_flash_attention_that_failed_is_tried_again_by_the_next_start(
    site: Site,
) -> None:
    site.give_environment()
    wheel = site.wheels / "flash_attn-2.8.3-py3-none-any.whl"
    site.env["FLASH_ATTN_WHEEL"] = wheel.as_uri()
    site.assert_ready(site.run())
    make_wheel(site.wheels, "flash_attn", "2.8.3", {"flash_attn.py": ""})
    site.assert_ready(site.run())
    facts = f"{site.manifest()['venv']}/.manifest.json"
    assert site.manifest(facts)["flash_attention"] == "2.8.3"
    assert "bootstrap:" not in site.run().log


def test_a_wheel_of_flash_attention_that_fails_for_good_costs_no_warm_start(site: Site) -> None:
    wheel = site.wheels / "flash_attn-2.8.3-py3-none-any.whl"
    site.env["FLASH_ATTN_WHEEL"] = wheel.as_uri()
    logs = [site.run().log for _ in range(3)]
    assert ["flash-attn could not be installed" in log for log in logs] == [True, True, False]
    assert "bootstrap:" not in logs[2]
    assert "installing flash-attn again" in site.run("--prefetch").log
