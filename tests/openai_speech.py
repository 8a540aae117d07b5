"""OpenAI's speech contract as a caller sees it: the cases of openai_contract.json are asked of an
address, and their answers checked and decoded."""

import base64
import io
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from tests.need import require_program

CONTRACT = json.loads((Path(__file__).parent / "openai_contract.json").read_text())
CASES = {case["name"]: case for cases in CONTRACT["lines"].values() for case in cases}
TYPES = {
    "mp3": "audio/mpeg", "opus": "audio/opus", "aac": "audio/aac",
    "flac": "audio/flac", "wav": "audio/wav", "pcm": "audio/pcm",
}  # fmt: skip
TEXT = CONTRACT["speech"]["input"]
METHODS = ("get", "post", "head", "options")


def send(url: str, key: str, case: dict[str, Any]) -> httpx.Response:
    """The answer to one case."""
    method = next((name for name in METHODS if name in case), "post")
    headers = {"Authorization": f"Bearer {key}"} if "auth" not in case else {}
    if case.get("auth"):
        headers["Authorization"] = case["auth"]
    content = case.get("body")
    if not any(name in case for name in METHODS):
        fields = CONTRACT["speech"] | case.get("speech", {})
        fields |= {name: part * times for name, (part, times) in case.get("fill", {}).items()}
        content = json.dumps({name: value for name, value in fields.items() if value is not None})
    if content is not None:
        headers["Content-Type"] = "application/json"
    return httpx.request(
        method.upper(),
        url + case.get(method, "/v1/audio/speech"),
        headers=headers | case.get("headers", {}),
        content=content,
        timeout=300,
    )


def answers_of(url: str, key: str) -> dict[str, httpx.Response]:
    """The answer to every case, and under "slow ..." to those with a tempo at speed 1."""
    cases = CASES | {
        f"slow {name}": case | {"speech": case["speech"] | {"speed": 1}}
        for name, case in CASES.items()
        if "tempo" in case
    }
    with ThreadPoolExecutor(8) as pool:
        sent = pool.map(lambda case: send(url, key, case), cases.values())
        return dict(zip(cases, sent, strict=True))


def check(name: str, answers: dict[str, httpx.Response], folder: Path) -> None:
    """Asserts all that a case says of its answer, whose audio is decoded in `folder`."""
    case, answer = CASES[name], answers[name]
    assert answer.status_code == case.get("status", 200), answer.text[:500]
    assert answer.headers["x-request-id"]
    for header, value in case.get("answers", {}).items():
        if value.startswith("~"):
            assert re.search(value[1:], answer.headers[header])
        else:
            assert answer.headers[header] == value
    if "error" in case:
        assert answer.headers["content-type"] == "application/json"
        assert list(answer.json()) == ["error"]
        error = answer.json()["error"]
        assert isinstance(error.pop("message"), str)
        assert error == {"type": "invalid_request_error"} | case["error"]
    if "json" in case:
        assert holds(answer.json(), case["json"])
    if "audio" in case or "events" in case:
        seconds = seconds_of(case, answer, folder)
        assert seconds > 0.3
        if "tempo" in case:
            slow = seconds_of(case, answers[f"slow {name}"], folder)
            assert slow / seconds == pytest.approx(case["tempo"], rel=0.1)
    if "head" in case or answer.status_code == 204:
        assert answer.content == b""


def holds(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(holds(whole[name], value) for name, value in part.items())
    if isinstance(part, list):
        return all(any(holds(each, item) for each in whole) for item in part)
    return bool(whole == part)


def seconds_of(case: dict[str, Any], answer: httpx.Response, folder: Path) -> float:
    if "audio" in case:
        assert answer.headers["content-type"] == TYPES[case["audio"]]
        return decoded(answer.content, case["audio"], folder)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    return decoded(spoken(answer.text), case["events"], folder)


def spoken(text: str) -> bytes:
    """The audio of whole and well-formed events."""
    lines = text.split("\r\n\r\n")
    assert lines.pop() == ""
    assert lines.pop() == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    done = events.pop()
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert sorted(usage) == ["input_tokens", "output_tokens", "total_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert {(*event,) for event in events} == {("type", "audio")}
    parts = [base64.b64decode(event["audio"]) for event in events]
    assert {len(part) for part in parts[:-1]} <= {4096}
    return b"".join(parts)


def decoded(data: bytes, name: str, folder: Path) -> float:
    """The seconds of audio that a decoder finds which, where there is one, did not make it."""
    if name == "pcm":
        return len(data) / 2 / 24_000
    if name == "aac":
        (folder / "speech.aac").write_bytes(data)
        command = [require_program("faad", "faad"), "-q", "-o", "speech.wav", "speech.aac"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return float(soundfile.info(folder / "speech.wav").duration)
    return float(soundfile.info(io.BytesIO(data)).duration)
