"""What a test needs from the machine: skipped, with the remedy, where it is missing."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

BRIDGE = Path(__file__).resolve().parent.parent / "bridge"


def require_program(name: str, package: str) -> str:
    """The program's path. Without it the test is skipped, or fails where REQUIRE_ALL=1."""
    path = shutil.which(name)
    if path is None:
        remedy = f"needs the Debian package {package} (tests/apt.sh installs it)"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return path


def require_node() -> str:
    """The path of node, with what the bridge is tested by installed; else as `require_program`."""
    if os.environ.get("BRIDGE") == "":
        pytest.skip("the bridge is left out (BRIDGE=)")
    path = shutil.which("node")
    if path is not None and (BRIDGE / "node_modules" / "miniflare").is_dir():
        return path
    remedy = "needs node and the bridge's packages (make setup installs them)"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(remedy)
    pytest.skip(remedy)


def require_package(module: str, requirement: str) -> None:
    """Skips the test, with the package's name, where a model's wheel could not be had. It may be
    missing even where REQUIRE_ALL=1: not every registry has each."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs the Python package {requirement} (make setup tries to install it)")


def require_mounts() -> None:
    """Skips the test where this process may not mount: that takes root, and in a container more."""
    require_program("unshare", "util-linux")
    attempt = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    if subprocess.run(attempt, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
