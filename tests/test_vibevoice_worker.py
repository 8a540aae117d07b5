"""The real model's code on tiny weights, as a job's caller meets it: real SDK, real HTTP."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from tests.answers import audio_of
from tests.http_server import server_process
from tests.need import require_program
from tests.vibevoice_fixtures import checkpoint, git, recording, volume
from tools.demo import local_api, post

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parent.parent
TEXT = "Hello there, how are you today? I am fine."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with the clone, two voices and a broken one."""
    home = tmp_path_factory.mktemp("vibevoice volume")
    (home / "vibevoice").symlink_to(volume() / "vibevoice")
    voices = home / "demo" / "voices"
    voices.mkdir(parents=True)
    soundfile.write(voices / "en-Alice_woman.wav", recording(190, 3.5), 24_000)
    soundfile.write(voices / "en-Frank_man.wav", recording(100, 3.5), 24_000)
    soundfile.write(voices / "Short.wav", recording(100, 1), 24_000)
    (voices / "Broken.wav").write_text("no audio")
    return home


def env(home: Path, **more: str) -> dict[str, str]:
    return {
        "ENGINE": "vibevoice",
        "MODEL_PATH": str(checkpoint()),
        "VIBEVOICE_VOLUME": str(home),
        "MAX_CHUNK_CHARS": "100",
        "MIN_LAST_CHUNK_CHARS": "0",
        "PACE_TOLERANCE": "10",
        **more,
    }


@pytest.fixture(scope="module")
def port(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name, value in env(home).items():
            patch.setenv(name, value)
        with local_api() as port:
            yield port


def speak(port: int, text: str = TEXT, **fields: Any) -> dict[str, Any]:
    job = {"text": text, "steps": 2, "seed": 7, "output_format": "wav", **fields}
    reply = post(port, "/runsync", {"input": job})
    assert reply["status"] == "COMPLETED", reply
    output: dict[str, Any] = reply["output"]
    return output


def test_a_job_speaks_with_the_cloned_voice_and_says_what_spoke(port: int) -> None:
    output = speak(port, loudness=None)
    samples, rate = audio_of(output)
    assert (output["engine"], output["voice"]) == ("vibevoice", "en-Alice_woman")
    assert output["model"]["code"].endswith(git(volume() / "vibevoice", "rev-parse", "HEAD")[:12])
    assert output["model"]["weights"].endswith(" million parameters")
    assert output["warnings"] == []
    assert 1 < len(samples) / rate < 60
    assert float(np.sqrt(np.mean(samples**2))) > 0.01


def kill_engine(pid: int) -> None:
    """Kills the one process below that one which has a model."""
    below = psutil.Process(pid).children(recursive=True)
    (engine,) = (process for process in below if "engines.child" in process.cmdline())
    engine.kill()
    engine.wait(60)


def test_a_local_worker_speaks_on_when_its_engine_is_killed(port: int) -> None:
    first = speak(port)["audio_base64"]
    kill_engine(os.getpid())
    assert speak(port)["audio_base64"] == first


def test_the_http_door_speaks_the_same_samples_from_a_process_of_the_models_own(
    port: int, home: Path, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"loudness": None, "seed": 7, "steps": 2}
    job = speak(port, output_format="pcm", speaker_name="Alice", **fields)
    with server_process(tmp_path, **env(home)) as server:
        answer = server.speak(input=TEXT, voice="alloy", response_format="pcm", **fields)
        assert len(psutil.Process(server.pid).children()) == 1
        capabilities = server.call("GET", "/v1/capabilities").json
        kill_engine(server.pid)
        again = server.speak(input=TEXT, voice="alloy", response_format="pcm", **fields)
        assert b"vibevoice_restarts_total 1.0" in server.call("GET", "/metrics").body
    assert answer.body == again.body == base64.b64decode(job["audio_base64"])
    assert answer.headers["x-speech-voice"] == "en-Alice_woman"
    assert capabilities["model"] == job["model"]
    assert (capabilities["cloning"], capabilities["languages"]) == (True, ["en", "zh"])


def test_the_same_seed_gives_the_same_bytes(port: int) -> None:
    first, other, again = (speak(port, seed=seed)["audio_base64"] for seed in (7, 8, 7))
    assert first == again != other


def test_chunks_of_one_text_share_voice_and_seed(port: int) -> None:
    """One sentence, said in three chunks of one request, is the same three times."""
    output = speak(port, f"{TEXT} [pause:1s] {TEXT} [pause:1s] {TEXT}", loudness=None)
    samples, rate = audio_of(output)
    spans = [(round(c["start_sec"] * rate), round(c["end_sec"] * rate)) for c in output["chunks"]]
    first, second, third = (samples[start:end] for start, end in spans)
    assert np.array_equal(first, second)
    assert np.array_equal(first, third)


def test_a_dialogue_keeps_every_line(port: int) -> None:
    text = "Speaker 2: Hello there.\nSpeaker 4: How are you today?\nSpeaker 2: I am fine."
    output = speak(port, text, speakers={"2": "Frank", "4": "Alice"})
    assert output["speakers"] == {"2": "en-Frank_man", "4": "en-Alice_woman"}
    assert [text[c["text_start"] : c["text_end"]] for c in output["chunks"]] == [text]


def test_without_a_voice_it_speaks_too(port: int) -> None:
    assert speak(port, disable_prefill=True)["duration_sec"] > 0.5


def test_a_voice_that_is_too_short_is_refused(port: int) -> None:
    reply = post(port, "/runsync", {"input": {"text": TEXT, "speaker_name": "Short"}})
    assert (
        reply["error"]
        == "[invalid_value] speaker_name: voice 'Short' is 1 s long; allowed: 3 to 30 s"
    )


def test_a_broken_voice_is_named_and_another_speaks(port: int) -> None:
    output = speak(port, speaker_name="Broken")
    assert output["voice"] == "en-Alice_woman"
    assert "Broken" in output["warnings"][0]


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"MODEL_PATH": "/nowhere/at all"}, "MODEL_PATH"),
        ({"VIBEVOICE_CODE": "/nowhere"}, "VIBEVOICE_CODE"),
    ],
)
def test_what_is_missing_fails_the_job_with_the_remedy(
    home: Path, tmp_path: Path, settings: dict[str, str], remedy: str
) -> None:
    job = '{"id": "j", "input": {"text": "Hi."}}'
    run = subprocess.run(
        [sys.executable, "handler.py", "--test_input", job],
        cwd=ROOT,
        env=os.environ | env(home, HOME=str(tmp_path), HF_HUB_OFFLINE="1", **settings),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stdout + run.stderr
    assert remedy in run.stdout


def test_make_demo_speaks_with_the_model_and_says_that_it_is_a_test(
    home: Path, tmp_path: Path
) -> None:
    require_program("make", "make")
    if not (Path(sys.prefix) / ".dev").exists():
        pytest.skip("needs the virtual environment of `make setup`")
    run = subprocess.run(
        [
            *("make", "-s", "demo", f"VENV={sys.prefix}", "ENGINE=vibevoice"),
            *(f"MODEL_PATH={checkpoint()}", "FORMAT=flac"),
        ],
        cwd=ROOT,
        env=os.environ | {"VIBEVOICE_VOLUME": str(home), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "engine vibevoice" in run.stdout
    assert "million parameters" in run.stdout
    assert soundfile.info(ROOT / "out" / "demo.flac").duration > 1
