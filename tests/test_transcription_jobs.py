"""Jobs that ask what was said, as RunPod's SDK hands them to the handler."""

import asyncio
import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import handler
from config import Settings
from delivery import fetch
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine
from tests.fake_recognizer import FakeRecognizer, managed, tone, tones
from tests.test_transcription import wav
from transcription.transcriber import Transcriber
from worker import progress

SAID = wav(tones(440, 880))
IN_BASE64 = base64.b64encode(SAID).decode()


@pytest.fixture
def fake() -> FakeRecognizer:
    return FakeRecognizer()


@pytest.fixture(autouse=True)
def worker(
    tmp_path: Path, fake: FakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transcriber]:
    settings = Settings(vibevoice_volume=tmp_path, max_upload_mb=1)
    inference = VibeVoiceInference(settings, FakeEngine())
    transcriber = Transcriber(managed(inference.models.manager, fake), 2, 60)
    monkeypatch.setattr(handler, "settings", lambda: settings)
    monkeypatch.setattr(handler, "inference", lambda: inference)
    monkeypatch.setattr(handler, "transcriber", lambda: transcriber)
    yield transcriber
    inference.close()
    transcriber.close()


def run(**fields: Any) -> dict[str, Any]:
    return asyncio.run(handler.handler({"id": "job-1", "input": fields}))


def test_a_job_of_runpods_worker_for_faster_whisper_runs_as_it_is() -> None:
    answer = run(
        audio_base64=IN_BASE64,
        model="fake-1",
        transcription="srt",
        translate=True,
        initial_prompt="Tones.",
        word_timestamps=True,
        enable_vad=False,
        beam_size=5,
    )
    assert answer.pop("timings").keys() == {"decode_sec", "transcribe_sec"}
    assert answer.pop("translation_time") >= 0
    segments = answer.pop("segments")
    assert segments[1] == {
        "id": 1,
        "seek": 100,
        "start": pytest.approx(1, abs=0.001),
        "end": pytest.approx(1.5, abs=0.001),
        "text": "tone 880",
        "tokens": [880],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 0.9,
        "no_speech_prob": 0.01,
    }
    words = answer.pop("word_timestamps")
    assert [word["word"] for word in words] == ["tone", "440", "tone", "880"]
    assert words[3]["end"] == pytest.approx(1.5, abs=0.001)
    assert answer == {
        "status": "success",
        "detected_language": "en",
        "language": "english",
        "transcription": "1\n00:00:00,000 --> 00:00:00,500\ntone 440\n\n"
        "2\n00:00:01,000 --> 00:00:01,500\ntone 880\n\n",
        "translation": "1\n00:00:00,000 --> 00:00:00,500\nsound 440\n\n"
        "2\n00:00:01,000 --> 00:00:01,500\nsound 880\n\n",
        "duration_sec": 2.0,
        "device": "cpu",
        "model": "fake-1",
        "warnings": ["'beam_size': unknown field, ignored"],
    }


def test_its_fields_reach_the_recogniser(fake: FakeRecognizer) -> None:
    run(task="transcribe", audio_base64=IN_BASE64, language="de", keywords=["Aoede"], vad=False)
    assert (fake.asked[0].language, fake.asked[0].hotwords, fake.asked[0].vad) == (
        "de",
        ("Aoede",),
        False,
    )


def test_speakers_are_named() -> None:
    known = {"Ann": base64.b64encode(wav(tone(880, 3))).decode()}
    answer = run(
        task="transcribe",
        audio_base64=IN_BASE64,
        speakers=True,
        known_speakers=known,
        transcription="formatted_text",
    )
    assert [segment["speaker"] for segment in answer["segments"]] == ["A", "Ann"]
    assert answer["transcription"] == "A: tone 440\nAnn: tone 880"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "[missing_required_parameter] audio: is missing"),
        ({"audio_base64": "AAAA", "audio": "http://a.example/b"}, "[invalid_value] audio: comes"),
        ({"audio": "file:///etc/passwd"}, "[invalid_value] audio: 'file:///etc/passwd' cannot"),
        ({"audio": "http://127.0.0.1:9/a"}, "[invalid_value] audio: leads to no public"),
        ({"audio_base64": "no base64!"}, "[invalid_value] audio_base64: is no base64"),
        ({"audio_base64": "AAAA"}, "[invalid_value] audio_base64: the recording is not readable"),
        ({"audio_base64": IN_BASE64, "model": "tiny"}, "[model_not_found] model: 'tiny' does not"),
        ({"audio_base64": IN_BASE64, "language": "tlh"}, "[invalid_value] language: 'tlh' is no"),
        ({"audio_base64": IN_BASE64, "keywords": "a"}, "[invalid_type] keywords: is a string"),
        ({"audio_base64": IN_BASE64, "known_speakers": {"A": "AA"}},
         "[invalid_value] known_speakers: the recording of 'A' is no base64"),
        ({"audio_base64": IN_BASE64, "transcription": "docx"},
         "[unsupported_format] transcription: 'docx' is unknown"),
        ({"audio_base64": IN_BASE64, "temperature": 3},
         "[invalid_value] temperature: 3 is out of range (allowed: a number from 0 to 1)"),
    ],
)  # fmt: skip
def test_what_cannot_be_heard_is_refused_by_field(fields: dict[str, Any], error: str) -> None:
    assert run(task="transcribe", **fields)["error"].startswith(error)


def test_a_recording_is_fetched_up_to_its_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SAID if self.path == "/said" else bytes(2**20 + 1))

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    monkeypatch.setattr(fetch, "is_public", lambda _: True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as files:
        thread = threading.Thread(target=files.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{files.server_port}"
            assert run(audio=f"{base}/said")["transcription"] == "tone 440 tone 880"
            error = run(audio=f"{base}/large")["error"]
        finally:
            files.shutdown()
            thread.join()
    assert error == "[invalid_value] audio: is larger than 1 MB"


def test_a_stream_worker_gets_what_is_large_once_the_rest_is_posted() -> None:
    async def main() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        posted, kept = [], []
        job = {"id": "job-1", "input": {"audio_base64": IN_BASE64}}
        async for item in handler.stream_handler(job):
            posted.append(dict(item))
            kept.append(item)
        return posted, kept

    (posted,), (kept,) = asyncio.run(main())
    assert "segments" not in posted
    assert "transcription" not in posted
    assert posted["status"] == "success"
    assert kept["transcription"] == "tone 440 tone 880"
    assert len(kept["segments"]) == 2


def test_progress_is_posted_while_a_recording_is_heard(
    monkeypatch: pytest.MonkeyPatch, fake: FakeRecognizer
) -> None:
    posts: list[dict[str, Any]] = []
    fake.gate = threading.Event()

    async def post(_: object, sent: dict[str, Any], __: object) -> None:
        posts.append(sent)
        assert fake.gate
        fake.gate.set()

    monkeypatch.setenv("RUNPOD_WEBHOOK_POST_OUTPUT", "http://127.0.0.1:9/")
    monkeypatch.setattr(progress, "INTERVAL_SEC", 0.05)
    monkeypatch.setattr(progress, "send_result", post)
    run(audio_base64=IN_BASE64)
    first = posts[0]
    assert first["status"] == "IN_PROGRESS"
    assert first["output"]["audio_sec"] == 2.0
    assert first["output"].keys() == {"heard_sec", "audio_sec", "segments"}


def test_a_cancelled_job_ends_the_recogniser(fake: FakeRecognizer) -> None:
    fake.gate = threading.Event()

    async def main() -> None:
        job = {"id": "job-1", "input": {"audio_base64": IN_BASE64}}
        task = asyncio.create_task(handler.handler(job))
        while not fake.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # ends although the second segment never comes


def test_an_answer_too_large_for_runpod_loses_its_tokens_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run(audio_base64=IN_BASE64)
    whole["segments"][0]["tokens"] = []
    most = len(json.dumps(whole)) + 80
    monkeypatch.setattr(FakeRecognizer, "token_count", 1000)
    monkeypatch.setattr("worker.transcription._MOST_ANSWER", most)
    answer = run(audio_base64=IN_BASE64)
    assert [segment["tokens"] for segment in answer["segments"]] == [[], []]
    assert "tokens are left out" in answer["warnings"][0]
    monkeypatch.setattr("worker.transcription._MOST_ANSWER", 100)
    assert run(audio_base64=IN_BASE64)["error"].startswith("[delivery_failed] the transcript has")
