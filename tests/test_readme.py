"""The README's and the examples' commands are run as they stand."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from api.socket.events import TYPES
from request.errors import RequestError
from request.model import ALIASES, Defaults, SpeechRequest, parse_request
from tests.http_server import server_process
from tests.need import require_program
from text.chunks import Limits, plan_text

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
STREAMING = (ROOT / "docs" / "streaming.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_first_example_is_the_one_that_make_demo_speaks() -> None:
    assert json.loads(blocks("json")[0]) == json.loads((ROOT / "test_input.json").read_text())


@pytest.mark.process
def test_make_demo_speaks_into_a_file(tmp_path: Path) -> None:
    require_program("make", "make")
    if not (Path(sys.prefix) / ".created").exists():
        pytest.skip("needs the virtual environment of `make setup`")
    run = subprocess.run(
        [
            *("make", "-s", "demo", f"VENV={sys.prefix}"),
            *("TEXT=It costs $5, $(shell echo no).", "VOICE=Frank", "FORMAT=wav"),
        ],
        cwd=ROOT,
        env=os.environ | {"VIBEVOICE_VOLUME": str(tmp_path), "ENGINE": "espeak"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    audio = soundfile.info(ROOT / "out" / "demo.wav")
    assert f"out/demo.wav: {audio.duration:.2f} s of speech" in run.stdout
    assert "voice Frank, engine espeak" in run.stdout
    assert (
        '-d \'{"input": {"text": "It costs $5, $(shell echo no).", "speaker_name": "Frank"'
        in run.stdout
    )


@pytest.mark.process
def test_the_curl_example_makes_a_file(local_api: int, tmp_path: Path) -> None:
    require_program("curl", "curl")
    (command,) = [block for block in blocks("bash") if "/runsync" in block]
    command = command.replace("127.0.0.1:8000", f"127.0.0.1:{local_api}")
    command = command.replace(
        "python3 examples/", f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT))}/examples/"
    )
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, check=True)
    assert soundfile.info(tmp_path / "fox.wav").samplerate == 24000


@pytest.mark.process
def test_the_http_example_and_the_socket_example_make_files(tmp_path: Path) -> None:
    require_program("curl", "curl")
    (command,) = [block for block in blocks("bash") if "/v1/audio/speech" in block]
    (script,) = re.findall(r"^```python\n(.*?)^```", STREAMING, re.M | re.S)
    with server_process(tmp_path) as server:
        command = command.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
        script = script.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, check=True)
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "fox.mp3").read_bytes()[:2] == b"\xff\xf3"
    assert (tmp_path / "hello.pcm").stat().st_size > 48_000


def test_the_streaming_page_names_every_message_and_field() -> None:
    server = "".join(
        (ROOT / "api" / "socket" / f"{name}.py").read_text() for name in ("session", "replies")
    )
    for kind in set(re.findall(r'"type": "([a-z.]+)"', server)) | set(TYPES):
        assert f"`{kind}`" in STREAMING, kind
    for field in re.findall(r'^ +"([a-z_]+)": ', server, re.M):
        assert f"`{field}`" in STREAMING, field


@pytest.mark.process
def test_the_answer_example_has_the_fields_of_an_answer(local_api: int) -> None:
    from tools.demo import post

    (example,) = [json.loads(block) for block in blocks("json") if '"status"' in block]
    answer = post(local_api, "/runsync", {"input": {"text": "The quick brown fox.", "seed": 1}})
    assert list(example) == list(answer["output"])
    assert list(example["chunks"][0]) == list(answer["output"]["chunks"][0])
    assert set(example["timings"]) <= set(answer["output"]["timings"])


def test_the_error_example_is_the_error() -> None:
    (example,) = [json.loads(block)["error"] for block in blocks("json") if '"error"' in block]
    with pytest.raises(RequestError) as caught:
        parse_request({"text": "Hi.", "cfg_scale": "abc", "speed": 99}, Defaults())
    assert f"[invalid_type] {caught.value}" == example


def test_the_pauses_that_the_readme_names_are_pauses() -> None:
    tags = re.findall(r"`(\[pause[^`]*\]|<break[^`]*/>)`", README + API)
    assert len(tags) >= 8
    for tag in tags:
        assert len(plan_text(f"One. {tag.replace('...', 'weak')} Two.", Limits()).chunks) == 2


@pytest.mark.process
@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.sh")), ids=lambda p: p.name)
def test_every_example_script_makes_a_file(script: Path, local_api: int, tmp_path: Path) -> None:
    require_program("curl", "curl")
    require_program("python3", "python3")
    run = subprocess.run(
        ["bash", str(script)],
        cwd=tmp_path,
        env=os.environ | {"ENDPOINT": f"http://127.0.0.1:{local_api}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (audio,) = tmp_path.iterdir()
    assert soundfile.info(audio).duration > 0.5


def test_docs_name_every_field_of_a_request() -> None:
    rows = re.findall(r"^\| (`.+?) \|", API.split("## Text")[0], re.M)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(SpeechRequest.model_fields) | set(ALIASES)
