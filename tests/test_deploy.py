"""docs/deploy.md: its settings are those of the scripts, its local commands run as they stand."""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from config import Settings
from tests.bootstrap_site import PYTHON, ROOT, Site

DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
BOOTSTRAP = (ROOT / "bootstrap.sh").read_text()
PROVISION = "".join(path.read_text() for path in sorted((ROOT / "provision").glob("*.py")))
OTHERS = {
    "BASH_REMATCH", "HOSTNAME", "RUNPOD_ENDPOINT_ID", "RUNPOD_POD_ID", "TMPDIR", "REPLY",
    "VIBEVOICE_IMAGE", "VIBEVOICE_IN_USE",
}  # fmt: skip
INNER = re.compile("LOCK_|XDG_|TRITON_|TORCHINDUCTOR_|NUMBA_|CUDA_|HF_XET_")
"""What nobody has to set: bash's and the platform's own, caches, and the pace of the lock."""


def test_every_setting_of_the_start_is_documented() -> None:
    read = set(re.findall(r"\$\{!?([A-Z][A-Z_]+)(?::?[-=]|,|\})", BOOTSTRAP))
    read |= set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', PROVISION))
    read = {name for name in read if name not in OTHERS and not INNER.match(name)}
    table = DEPLOY.split("## Settings of the start")[1].split("## ")[0]
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", table, re.M))
    settings = {name.upper() for name in Settings.model_fields}
    assert read <= documented | settings
    assert documented - read == set()


def test_what_the_log_says_is_in_the_troubleshooting() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", DEPLOY.split("## Troubleshooting")[1], re.M)
    engine = (ROOT / "engines" / "vibevoice").rglob("*.py")
    sentences = PROVISION + "".join(path.read_text() for path in engine)
    # A sentence of Python's may go on in the next line, and holds names in braces.
    said = BOOTSTRAP + re.sub(r'"\s+f?"', "", sentences).replace("{status}", "403")
    for row in rows:
        for part in re.split(r"\.\.\.|WORKER|/runpod-volume|!!!| \(Read-only file system\)", row):
            assert part.strip() in said, part


def commands(title: str) -> str:
    section = DEPLOY.split(f"## {title}")[1]
    (block,) = re.findall(r"^```bash\n(.*?)^```", section.split("\n## ")[0], re.M | re.S)
    return str(block)


@pytest.mark.soak
def test_the_local_commands_speak() -> None:
    """With the package index; the code comes from a repository of ours instead of GitHub."""
    with tempfile.TemporaryDirectory() as folder:  # espeak-ng's data may lie 160 characters deep
        assert_the_local_commands_speak(Site(Path(folder, "site"), handler=None))


def assert_the_local_commands_speak(site: Site) -> None:
    (site.code / "examples").symlink_to(ROOT / "examples")
    site.use_package_index()
    block = commands("Try it on your machine").replace("PYTHON=python3.11", f"PYTHON={PYTHON}")
    env = {
        **{name: site.env[name] for name in ("PATH", "HOME", "TMPDIR", "XDG_CONFIG_HOME")},
        "VIBEVOICE_REPO": site.env["VIBEVOICE_REPO"],
        "VIBEVOICE_REF": site.commit,
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=site.code, env=env, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "everything is in place" in run.stderr
    assert re.search(r"next start +warm", run.stdout)
    volume = site.code / "out" / "network-volume" / "vibevoice"
    assert len(list((volume / "output").iterdir())) == 1
