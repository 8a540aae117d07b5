"""bootstrap.sh as whole processes: what a first and a warm start cost, up to the first job.

    python -m bench.bootstrap [starts]    (20)

A warm start is timed from the start of bash to the first line of the handler, with a
requirements.txt as long as the production set's, and so is a Python alone; in turn, medians.
The same out of a baked image without a volume.
Then to the first job's answer, with the preview voice and with the tiny model, as RunPod sees it.
Last a first run into an empty volume from the package index, whose cache is warm (the demo set).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bootstrap_site import ROOT, Site, ended
from tests.hub_api import HubApi
from tests.runpod_api import RunPodApi
from tests.worker_process import BOOTSTRAP, worker

CLOCK = "import time; print('HANDLER', time.time())\n"


def seconds_to_handler(site: Site) -> float:
    start = time.time()
    run = ended(site.start())
    return float(run.log.split("HANDLER ")[1]) - start


def seconds_to_python(python: Path) -> float:
    start = time.time()
    out = subprocess.run([python, "-uc", CLOCK], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[1]) - start


def warm_starts(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder, "site"), CLOCK)
        # As much to read and compare as with the production set.
        size = (ROOT / "requirements.txt").stat().st_size
        site.requirements.write_text(
            site.requirements.read_text() + f"# {'x' * 78}\n" * (size // 81)
        )
        first = seconds_to_handler(site)
        print(f"first run with one small package: {first:.2f} s")
        time_warm("warm start", site, site.volume, count)
        ended(site.start("--prefetch", VIBEVOICE_VOLUME=str(site.local)))
        del site.env["VIBEVOICE_VOLUME"]
        time_warm("baked image without a volume", site, site.local, count)


def time_warm(what: str, site: Site, base: Path, count: int) -> None:
    python = base / "venv" / "bin" / "python"
    pairs = [(seconds_to_handler(site), seconds_to_python(python)) for _ in range(count)]
    warm, alone = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(
        f"{what} to the handler's first line: {warm * 1e3:.0f} ms, of which Python"
        f" {alone * 1e3:.0f} ms, bootstrap {(warm - alone) * 1e3:.0f} ms"
    )


def first_job(name: str, own: dict[str, str], folder: Path) -> None:
    """Twice: into an empty volume, then warm."""
    for state in ("first", "warm"):
        start = time.monotonic()
        with RunPodApi() as api:
            job_id = api.submit({"text": "Hello there, how are you today?", "steps": 2})
            with worker(api, folder, BOOTSTRAP, **own):
                if api.wait(job_id, 120).status != "COMPLETED":
                    sys.exit(f"the job failed: {api.jobs[job_id].error}")
                print(
                    f"{name}, {state} start to the first answer: {time.monotonic() - start:.1f} s"
                )


def first_jobs() -> None:
    from tests import vibevoice_fixtures as vibevoice

    with tempfile.TemporaryDirectory() as folder, HubApi({"a/b": vibevoice.checkpoint()}) as hub:
        site = Site(Path(folder, "site"), None)
        code = vibevoice.volume() / "vibevoice"
        own = {name: site.env[name] for name in site.env if name not in ("HOME", "TMPDIR", "PATH")}
        del own["VIBEVOICE_VOLUME"]
        first_job("preview voice", own | {"ENGINE": "espeak"}, Path(folder, "preview"))
        del own["SKIP_MODEL_DOWNLOAD"]
        own |= {"ENGINE": "vibevoice", "MODEL_PATH": "a/b", "HF_ENDPOINT": hub.url}
        first_job("tiny model", own | {"VIBEVOICE_CODE": str(code)}, Path(folder, "tiny"))


def from_the_index() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder, "site"), CLOCK)
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_NO_CACHE_DIR"):
            del site.env[name]
        site.env |= pip | {
            "PIP_CACHE_DIR": str(Path(folder, "pip")),
            "REQUIREMENTS_FILE": str(ROOT / "requirements-demo.txt"),
        }
        for state in ("cold", "warm"):
            site.env["VIBEVOICE_VOLUME"] = str(Path(folder, state))
            print(f"first run, demo set, package cache {state}: {seconds_to_handler(site):.1f} s")


def main() -> None:
    warm_starts(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    first_jobs()
    from_the_index()


if __name__ == "__main__":
    main()
