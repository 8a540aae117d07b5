"""From an empty volume to speech: bootstrap.sh, then the real worker, then a job's audio.

The hub and RunPod are on loopback, the code is PyPI's vibevoice in a git repository, the model is
the tiny checkpoint, and all else is real.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import vibevoice_fixtures as vibevoice
from tests.answers import audio_of
from tests.bootstrap_site import ROOT, Site
from tests.hub_api import HubApi
from tests.runpod_api import RunPodApi
from tests.worker_process import BOOTSTRAP, Worker, worker

pytestmark = pytest.mark.process
MODEL = "test/tiny"
KEPT = ("PATH", "HOME", "TMPDIR", "VIBEVOICE_VOLUME")  # the worker's own


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "a site", handler=None)
    package = vibevoice.volume() / "vibevoice" / "vibevoice"
    shutil.copytree(package, site.origin / "vibevoice", dirs_exist_ok=True)
    soundfile.write(
        site.origin / "demo" / "voices" / "en-Alice_woman.wav",
        vibevoice.recording(190, 3.5),
        24_000,
    )
    site.git("-C", str(site.origin), "add", ".")
    site.git("-C", str(site.origin), "commit", "-q", "-m", "upstream's")
    site.commit = site.git("-C", str(site.origin), "rev-parse", "HEAD")
    return site


def settings(site: Site, hub: HubApi) -> dict[str, str]:
    own = {name: value for name, value in site.env.items() if name not in KEPT}
    del own["SKIP_MODEL_DOWNLOAD"]
    return own | {
        "ENGINE": "vibevoice",
        "VIBEVOICE_REF": site.commit,
        "MODEL_PATH": MODEL,
        "HF_ENDPOINT": hub.url,
    }


def assert_it_speaks(one: Worker, site: Site, hub: HubApi) -> None:
    job = {"text": vibevoice.TEXT, "steps": 2, "seed": 7, "output_format": "wav"}
    ended = one.api.wait(one.api.submit(job), timeout=300)
    assert ended.status == "COMPLETED", (ended.error, one.log())
    output = ended.output
    samples, rate = audio_of(output)
    assert 1 < len(samples) / rate < 60
    assert float(np.sqrt(np.mean(samples**2))) > 0.01
    assert (output["engine"], output["voice"]) == ("vibevoice", "en-Alice_woman")
    model = output["model"]
    assert model["model"] == MODEL
    assert model["revision"] == hub.commit(MODEL)
    assert model["code"] == f"clone {site.commit[:12]}"
    assert output["warnings"] == []
    assert one.api.violations == []


def test_an_empty_volume_becomes_a_worker_that_speaks(site: Site, tmp_path: Path) -> None:
    with HubApi({MODEL: vibevoice.checkpoint()}) as hub:
        own = settings(site, hub)
        with RunPodApi() as api, worker(api, tmp_path / "first", BOOTSTRAP, **own) as one:
            assert_it_speaks(one, site, hub)
            (mark,) = (one.volume / ".in-use").iterdir()
            assert mark.name == one.id
        asked = len(hub.asked)
        shutil.move(tmp_path / "first" / "volume", tmp_path / "second" / "volume")
        with RunPodApi() as api, worker(api, tmp_path / "second", BOOTSTRAP, **own) as one:
            assert_it_speaks(one, site, hub)
            assert "bootstrap:" not in one.log()
        assert len(hub.asked) == asked


@pytest.mark.soak
def test_the_same_with_an_environment_installed_from_the_package_index(
    site: Site, tmp_path: Path
) -> None:
    # pip takes hashes for all of a file or for nothing of it.
    light = re.sub(r" \\\n +--hash=\S+", "", (ROOT / "requirements-demo.txt").read_text())
    pins = light + (
        "accelerate==1.6.0\ndiffusers==0.39.0\nhuggingface-hub<1\ntorch==2.13.0\n"
        "transformers==4.51.3\n"
    )
    site.requirements.write_text(pins)
    with HubApi({MODEL: vibevoice.checkpoint()}) as hub:
        own = settings(site, hub)
        site.use_package_index()
        with RunPodApi() as api, worker(api, tmp_path / "one", BOOTSTRAP, **own) as one:
            assert_it_speaks(one, site, hub)
            prefix = (one.volume / "venv").resolve()
            assert list(prefix.glob("lib/python3*/site-packages/torch"))
