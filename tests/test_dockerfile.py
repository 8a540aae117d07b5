"""The Dockerfile, as far as that goes without a container engine."""

import json
import re
from pathlib import Path

import pytest

from engines.vibevoice.checkpoint import DEFAULT_TOKENIZER
from tests.bootstrap_site import ROOMS, ROOT, Site
from tests.dockerfile import Image, context, instructions
from tests.hub_api import HubApi
from tests.need import require_mounts
from tests.paper_checkpoint import write_paper_tokenizer

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_context_holds_what_runs_and_nothing_else() -> None:
    files = context(ROOT)
    assert {"bootstrap.sh", "handler.py", "requirements.txt", "test_input.json"} < set(files)
    folders = {path.split("/")[0] for path in files if "/" in path}
    assert folders == {"bridge", "provision", *ROOMS}
    assert [path for path in files if path.startswith("bridge/")] == ["bridge/voices.json"]
    assert "api/page/index.html" in files
    assert not [path for path in files if re.search(r"test_\w+\.py$|\.md$|requirements-", path)]


def test_no_line_holds_a_secret() -> None:
    for word, rest in instructions(DOCKERFILE):
        if word in ("ARG", "ENV"):
            assert not re.search(r"TOKEN|SECRET|PASSWORD|API_KEY", rest)


def test_the_image_runs_what_runpod_needs() -> None:
    assert "nvidia/cuda:12.8.1-cudnn-" in DOCKERFILE
    last = dict(instructions(DOCKERFILE))
    assert json.loads(last["ENTRYPOINT"]) == ["/usr/bin/tini", "--"]
    assert last["WORKDIR"] == "/workspace/vibevoice"


@pytest.mark.process
@pytest.mark.parametrize("bake", ["1", "0"])
def test_its_lines_make_an_image_that_speaks(tmp_path: Path, bake: str) -> None:
    require_mounts()
    pytest.importorskip("huggingface_hub")
    tokenizer = write_paper_tokenizer(tmp_path / "tokenizer")
    site = Site(tmp_path / "site")
    own = {name: value for name, value in site.env.items() if "VIBEVOICE" not in name}
    own |= {"VIBEVOICE_REPO": site.origin.as_uri(), "VIBEVOICE_REF": site.commit}
    with Image(tmp_path / "image", ROOT, BAKE=bake) as image:
        with HubApi({DEFAULT_TOKENIZER: tokenizer}) as hub:
            image.build(DOCKERFILE, own | {"HF_ENDPOINT": hub.url})
        assert {"git", "ffmpeg", "tini", "python3.12-venv"} < set(image.packages)
        baked = [path for path in image.files() if path.startswith("/opt/vibevoice/venv-")]
        assert bool(baked) == (bake == "1")
        assert any("/hf_cache/models--Qwen" in path for path in image.files()) == (bake == "1")
        start = image.run(image.command, {**own, "ENGINE": "espeak"})
        assert start.returncode == 0, start.stdout
        said = [line for line in start.stdout.splitlines() if line.startswith("bootstrap:")]
        if bake == "1":
            (line,) = said
            assert "no network volume is attached: what this worker writes goes with it" in line
        else:
            assert "!!! no network volume is attached at /runpod-volume" in said[0]
            assert "building the Python environment" in start.stdout
        assert re.search(r"Job local_test completed|Local testing complete", start.stdout)
        copies = [path for path in image.files() if "/opt/vibevoice/output/" in path]
        assert len(copies) == 1
        snapshot = "/runpod-volume/huggingface-cache/hub/models--a--b/snapshots/" + "c" * 40
        config = Path(f"{image.layer}{snapshot}/config.json")
        config.parent.mkdir(parents=True)
        config.write_text("{}")
        named = {"MODEL_PATH": "a/b", "MODEL_REVISION": "c" * 40, "SKIP_MODEL_DOWNLOAD": ""}
        check = image.run(["bash", "bootstrap.sh", "--check"], {**own, **named})
        assert re.search(f"^model +cached +by RunPod, {snapshot}$", check.stdout, re.M)
        assert re.search("^volume +absent ", check.stdout, re.M)
        assert re.search("^next start +warm", check.stdout, re.M)
