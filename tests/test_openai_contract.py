"""OpenAI's contract, case by case, against the running server: tests/openai_contract.json."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import soundfile

from audio.codecs import FORMATS
from tests.http_server import Answer, Server, server_process

CONTRACT = json.loads((Path(__file__).parent / "openai_contract.json").read_text())
CASES = [
    pytest.param(case, id=f"{case['name']}")
    for cases in CONTRACT["lines"].values()
    for case in cases
    if case.get("get") != "/"  # the bridge has no page, this server has one
]
METHODS = ("get", "post", "head", "options")
KEY = CONTRACT["key"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("contract")
    with server_process(folder, API_KEYS=f"other,{KEY}", HOST="127.0.0.1", CORS_ORIGIN="*") as one:
        yield one


def ask(server: Server, case: dict[str, Any], **changes: Any) -> Answer:
    method = next((each for each in METHODS if each in case), None)
    headers = dict(case.get("headers", {}))
    auth = case.get("auth", f"Bearer {KEY}")
    if auth:
        headers["Authorization"] = auth
    if method and "body" not in case:
        return server.call(method.upper(), case[method], None, headers)
    headers.setdefault("Content-Type", "application/json")
    if "body" in case:
        return server.call("POST", case["post"], case["body"], headers)
    filled = {name: text * times for name, (text, times) in case.get("fill", {}).items()}
    fields = {**CONTRACT["speech"], **case.get("speech", {}), **filled, **changes}
    fields = {name: value for name, value in fields.items() if value is not None}
    return server.call("POST", "/v1/audio/speech", json.dumps(fields), headers)


def events(answer: Answer) -> list[Any]:
    parts = answer.body.decode().split("\r\n\r\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part[6:]) for part in parts]


def file_in(answer: Answer) -> bytes:
    *deltas, done = events(answer)
    assert {tuple(each) for each in deltas} == {("type", "audio")}
    assert {each["type"] for each in deltas} == {"speech.audio.delta"}
    parts = [base64.b64decode(each["audio"]) for each in deltas]
    assert all(len(part) == 4096 for part in parts[:-1])
    usage = done["usage"]
    assert done["type"] == "speech.audio.done"
    assert usage["input_tokens"] == 11
    assert usage["total_tokens"] == 11 + usage["output_tokens"]
    return b"".join(parts)


def seconds(data: bytes, kind: str) -> float:
    """How long a file is, by a decoder; that it is one of its kind is checked on the way."""
    if kind == "pcm":
        return len(data) / 48_000
    if kind == "wav":
        assert data[:4] == b"RIFF" and data[4:8] == data[40:44] == b"\xff\xff\xff\xff"
    if kind == "flac":
        return float(soundfile.info(io.BytesIO(data)).duration)
    names = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "wav": "wav"}
    with av.open(io.BytesIO(data), "r", format=names[kind]) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(contains(whole[name], part[name]) for name in part)
    if isinstance(part, list):
        return all(any(contains(each, item) for each in whole) for item in part)
    return bool(whole == part)


@pytest.mark.parametrize("case", CASES)
def test_the_contract_holds(server: Server, case: dict[str, Any]) -> None:
    answer = ask(server, case)
    assert answer.status == case.get("status", 200), answer.body[:500]
    assert answer.headers["x-request-id"]
    for name, value in case.get("answers", {}).items():
        given = answer.headers.get(name, "")
        assert re.search(value[1:], given) if value[0] == "~" else given == value, (name, given)
    if "error" in case:
        assert answer.headers["content-type"] == "application/json"
        error = answer.error
        assert error.pop("message")
        assert error == {"type": "invalid_request_error", **case["error"]}
    if "json" in case:
        assert contains(answer.json, case["json"]), answer.json
    if "audio" in case or "events" in case:
        kind = case.get("audio") or case["events"]
        sse = "events" in case
        file = file_in(answer) if sse else answer.body
        expected = "text/event-stream; charset=utf-8" if sse else FORMATS[kind].content_type
        assert answer.headers["content-type"] == expected
        if kind == "flac" and not sse:
            assert int(answer.headers["content-length"]) == len(answer.body)
        else:
            assert answer.headers["transfer-encoding"] == "chunked"
            assert "content-length" not in answer.headers
        assert not sse or answer.headers["cache-control"] == "no-store"
        length = seconds(file, kind)
        assert length > 0.4
        if "tempo" in case:
            plain = ask(server, case, speed=1)
            usual = seconds(file_in(plain) if sse else plain.body, kind)
            assert usual / length == pytest.approx(case["tempo"], rel=0.08)
    if "head" in case or case.get("empty"):
        assert answer.body == b""
