"""What a test needs from the machine: skipped, with the remedy, where it is missing."""

import os
import shutil

import pytest


def require_program(name: str, package: str) -> str:
    """The program's path. Without it the test is skipped, or fails where REQUIRE_ALL=1."""
    path = shutil.which(name)
    if path is None:
        remedy = f"needs the Debian package {package} (tests/apt.sh installs it)"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return path
