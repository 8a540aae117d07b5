"""bootstrap.sh in an image with everything baked, with and without a volume."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bootstrap_site import ROOT, Run, Site

pytestmark = pytest.mark.process
MOUNTED = Path("/runpod-volume")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """What an image is: its own folder has everything, and nobody says where a volume would be."""
    if MOUNTED.exists():
        pytest.skip(f"needs a machine without {MOUNTED}")
    site = Site(tmp_path / "a site")
    site.give_environment(base=site.local)
    assert site.run("--prefetch", VIBEVOICE_VOLUME=str(site.local)).status == 0
    shutil.rmtree(site.origin)
    shutil.rmtree(site.wheels)
    yield site
    site.end()


def said(run: Run) -> list[str]:
    return [line for line in run.log.splitlines() if line.startswith("bootstrap:")]


def test_a_baked_image_without_a_volume_starts_as_it_is_and_says_so_once(site: Site) -> None:
    del site.env["VIBEVOICE_VOLUME"]
    run, calls = site.run_traced()
    site.assert_ready_from_image(run, site.local)
    assert calls == ["execve", "execve"]
    assert said(run) == [
        "bootstrap: no network volume is attached: what this worker writes goes with it"
    ]
    voices = site.local / "demo" / "voices"
    assert [path.name for path in voices.iterdir()] == ["en-Alice_woman.wav"]
    assert (site.local / "output").is_dir()


def test_what_the_image_lacks_is_a_loud_line_without_a_volume(site: Site) -> None:
    del site.env["VIBEVOICE_VOLUME"], site.env["SKIP_MODEL_DOWNLOAD"]
    run = site.run(MODEL_PATH="../model")
    assert run.status == 1
    assert "!!! no network volume is attached at /runpod-volume. This worker uses" in run.log
    assert "building" not in run.log
    assert "fetching" not in run.log


def test_a_prefetch_without_a_volume_says_where_it_looked(site: Site) -> None:
    del site.env["VIBEVOICE_VOLUME"], site.env["SKIP_MODEL_DOWNLOAD"]
    run = site.run("--prefetch")
    assert run.status == 1
    assert said(run) == ["bootstrap: no network volume is attached at /runpod-volume"]


def test_a_check_without_a_volume_looks_into_the_image(site: Site) -> None:
    del site.env["VIBEVOICE_VOLUME"]
    run = site.run("--check")
    assert run.status == 0, run.log
    assert f"whole      0M         {site.local}/venv-" in run.log
    assert "\nvolume               absent" in run.log
    assert run.log.rstrip().endswith("next start           warm")


def test_a_baked_environment_wins_over_the_volumes(site: Site) -> None:
    first = site.run()
    site.assert_ready_from_image(first, site.volume)
    assert "building" not in first.log
    warm = site.run()
    site.assert_ready_from_image(warm, site.volume)
    assert said(warm) == []


def in_bash(function: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    code = f'source ./bootstrap.sh; {function} "$@"; status=$?; echo "${{REPLY-}}"; exit $status'
    return subprocess.run(
        ["bash", "-c", code, "-", *arguments],
        cwd=ROOT, env={"PATH": os.environ["PATH"], **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


OVERLAY = "overlay /runpod-volume overlay rw,lowerdir=/a,upperdir=/b,workdir=/c 0 0\n"
MOOSE = "mfs#eu-ro-1.runpod.net:9421 /runpod-volume fuse rw,user_id=0 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "volume"),
    [
        (MOOSE, True),
        ("10.0.0.1:/v /runpod-volume nfs4 rw 0 0\n", True),
        ("/dev/vdb /runpod-volume ext4 rw 0 0\n", True),
        ("/dev/vdb /runpod-volume/vibevoice xfs rw 0 0\n", True),
        (MOOSE + OVERLAY, True),
        (OVERLAY, False),
        ("tmpfs /runpod-volume tmpfs rw 0 0\n", False),
        ("/dev/vda /runpod-volume/huggingface-cache ext4 ro 0 0\n", False),
        ("/dev/vda /runpod-volumes ext4 rw 0 0\n", False),
        ("/dev/vda /data/runpod-volume ext4 rw 0 0\n", False),
        ("overlay / overlay rw 0 0\n", False),
    ],
)
def test_a_volume_is_what_is_mounted_there_and_is_no_overlay(
    tmp_path: Path, mounts: str, volume: bool
) -> None:
    listed = tmp_path / "mounts"
    listed.write_text(f"overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n{mounts}shm /s tmpfs 0 0")
    run = in_bash("outlives_the_worker", "/runpod-volume", str(listed))
    assert (run.returncode == 0) == volume
    assert run.stderr == ""


def test_where_nobody_can_say_what_is_mounted_a_folder_is_believed(tmp_path: Path) -> None:
    assert in_bash("outlives_the_worker", "/runpod-volume", str(tmp_path / "none")).returncode == 0


def test_the_platforms_cached_model_is_found_by_its_revision(tmp_path: Path) -> None:
    root = tmp_path / "models--a--b"
    snapshot = root / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)

    def found(revision: str, model: str = "a/b") -> str | None:
        run = in_bash(
            "cached_by_platform", str(tmp_path), MODEL_PATH=model, MODEL_REVISION=revision
        )
        return run.stdout.strip() if run.returncode == 0 else None

    assert found("c" * 40) is None
    (snapshot / "config.json").write_text("{}")
    assert found("c" * 40) == str(snapshot)
    assert found("main") is None
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c" * 40 + "\n")
    assert found("main") == str(snapshot)
    assert found("main", "a/c") is None
