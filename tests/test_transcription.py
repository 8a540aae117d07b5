"""`/v1/audio/transcriptions` and `/translations`, with OpenAI's own client wherever it can ask."""

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest
import soundfile

from audio.pcm import SAMPLE_RATE, Samples, silence
from config import Settings
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine
from tests.fake_recognizer import FakeRecognizer, tone, tones
from tests.http_server import Answer, Server, serving, wait_for


def wav(samples: Samples) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV")
    return file.getvalue()


SAID = wav(tones(440, 880))


def multipart(*parts: tuple[str, str | bytes]) -> tuple[bytes, dict[str, str]]:
    body = b""
    for name, value in parts:
        is_file = isinstance(value, bytes)
        head = f'Content-Disposition: form-data; name="{name}"' + '; filename="a"' * is_file
        data = value if isinstance(value, bytes) else value.encode()
        body += b"--limit\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"
    return body + b"--limit--\r\n", {"Content-Type": "multipart/form-data; boundary=limit"}


def ask(server: Server, *parts: tuple[str, str | bytes], path: str = "transcriptions") -> Answer:
    body, headers = multipart(*parts)
    return server.call("POST", f"/v1/audio/{path}", body, headers)


@contextmanager
def started(
    folder: Path, recognizer: FakeRecognizer | None = None, **settings: Any
) -> Iterator[Server]:
    engine = FakeEngine()
    inference = VibeVoiceInference(Settings(vibevoice_volume=folder, **settings), engine)
    with serving(inference, recognizer=recognizer) as server:
        yield server


@pytest.fixture(scope="module")
def fake() -> FakeRecognizer:
    return FakeRecognizer()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fake: FakeRecognizer) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("volume"), fake) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# The forms of an answer


def test_json_is_the_text_and_the_duration(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", SAID))
    assert answer.to_dict() == {
        "text": "tone 440 tone 880",
        "usage": {"type": "duration", "seconds": 2},
    }


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("text", "tone 440 tone 880\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:00,500\ntone 440\n\n"
            "2\n00:00:01,000 --> 00:00:01,500\ntone 880\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\ntone 440\n\n"
            "00:00:01.000 --> 00:00:01.500\ntone 880\n\n",
        ),
    ],
)
def test_texts_and_subtitles_come_as_text(client: openai.OpenAI, form: Any, body: str) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", SAID), response_format=form
    )
    assert answer == body


def test_verbose_json_has_segments_and_with_the_granularity_words(client: openai.OpenAI) -> None:
    def hear(*granularities: Any) -> Any:
        return client.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", SAID),
            response_format="verbose_json",
            timestamp_granularities=list(granularities),
        )

    answer = hear("segment")
    assert (answer.language, answer.duration, answer.words) == ("english", 2.0, None)
    assert answer.to_dict()["task"] == "transcribe"
    assert answer.segments[1].to_dict() == {
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
    answer = hear("word")
    assert answer.segments is None
    assert [word.word for word in answer.words] == ["tone", "440", "tone", "880"]
    assert answer.words[3].end == pytest.approx(1.5, abs=0.001)
    answer = hear("word", "segment")
    assert (len(answer.segments), len(answer.words)) == (2, 4)


def test_diarized_json_names_speakers_by_letters_and_known_ones_by_name(
    client: openai.OpenAI,
) -> None:
    reference = f"data:audio/wav;base64,{base64.b64encode(wav(tone(880, 3))).decode()}"
    answer = client.audio.transcriptions.create(
        model="gpt-4o-transcribe-diarize",
        file=("a.wav", SAID),
        response_format="diarized_json",
        chunking_strategy={"type": "server_vad", "threshold": 0.4},
        known_speaker_names=["agent"],
        known_speaker_references=[reference],
    )
    assert answer.to_dict() == {
        "task": "transcribe",
        "duration": 2.0,
        "text": "tone 440 tone 880",
        "segments": [
            {
                "type": "transcript.text.segment",
                "id": f"seg_{number}",
                "start": pytest.approx(number, abs=0.001),
                "end": pytest.approx(number + 0.5, abs=0.001),
                "speaker": speaker,
                "text": text,
            }
            for number, (speaker, text) in enumerate([("A", "tone 440"), ("agent", "tone 880")])
        ],
        "usage": {"type": "duration", "seconds": 2},
    }


def test_probabilities_come_where_they_are_included(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("a.wav", SAID), include=["logprobs"]
    )
    assert answer.logprobs is not None
    assert answer.logprobs[1].to_dict() == {
        "token": "440",
        "logprob": pytest.approx(-0.223144),
        "bytes": [52, 52, 48],
    }


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_translation_is_english(client: openai.OpenAI, fake: FakeRecognizer) -> None:
    answer = client.audio.translations.create(model="whisper-1", file=("a.wav", SAID))
    assert answer.text == "sound 440 sound 880"
    verbose = client.audio.translations.create(
        model="whisper-1", file=("a.wav", SAID), response_format="verbose_json", prompt="Tones."
    )
    assert (verbose.language, verbose.text) == ("english", answer.text)
    assert verbose.to_dict()["task"] == "translate"
    assert fake.asked[-1].prompt == "Tones."


def test_hints_language_and_temperature_reach_the_recogniser(
    client: openai.OpenAI, fake: FakeRecognizer
) -> None:
    client.audio.transcriptions.create(
        model="GPT-4O-transcribe",
        file=("a.wav", SAID),
        language="German",
        prompt="Before.",
        keywords=["Kokoro", "Aoede"],
        temperature=0.4,
    )
    asked = fake.asked[-1]
    assert (asked.language, asked.prompt, asked.hotwords, asked.temperature) == (
        "de",
        "Before.",
        ("Kokoro", "Aoede"),
        0.4,
    )
    client.audio.transcriptions.create(
        model="gpt-transcribe", file=("a.wav", SAID), languages=["en"], temperature=0
    )
    assert (fake.asked[-1].language, fake.asked[-1].temperature) == ("en", None)


# Streams


def test_a_stream_sends_deltas_and_in_the_end_the_text(client: openai.OpenAI) -> None:
    events: list[Any] = list(
        client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("a.wav", SAID), stream=True
        )
    )
    assert [event.type for event in events] == [
        "transcript.text.delta",
        "transcript.text.delta",
        "transcript.text.done",
    ]
    assert "".join(event.delta for event in events[:2]) == events[2].text == "tone 440 tone 880"
    assert events[2].usage.to_dict() == {
        "type": "tokens",
        "input_tokens": 20,
        "output_tokens": 5,
        "total_tokens": 25,
        "input_token_details": {"audio_tokens": 20, "text_tokens": 0},
    }


def test_a_diarized_stream_sends_each_segment_with_its_speaker(client: openai.OpenAI) -> None:
    events: list[Any] = list(
        client.audio.transcriptions.create(
            model="gpt-4o-transcribe-diarize",
            file=("a.wav", SAID),
            response_format="diarized_json",
            stream=True,
            chunking_strategy="auto",
        )
    )
    segments = [event for event in events if event.type == "transcript.text.segment"]
    assert [(each.id, each.speaker, each.text) for each in segments] == [
        ("seg_0", "A", "tone 440"),
        ("seg_1", "B", "tone 880"),
    ]
    assert "".join(each.delta for each in events if each.type == "transcript.text.delta") == (
        events[-1].text
    )


def test_a_stream_is_in_openais_framing(server: Server) -> None:
    answer = ask(server, ("file", SAID), ("model", "whisper-1"), ("stream", "true"))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    events = answer.body.decode().split("\r\n\r\n")
    assert json.loads(events[0].removeprefix("data: "))["delta"] == "tone 440"
    assert events[-2:] == ["data: [DONE]", ""]


def test_whole_forms_ignore_the_stream_as_whisper_1_does(server: Server) -> None:
    answer = ask(server, ("file", SAID), ("response_format", "srt"), ("stream", "true"))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.startswith(b"1\n00:00:00,000")


def test_a_failure_after_the_first_event_is_an_event(tmp_path: Path) -> None:
    with started(tmp_path, FakeRecognizer(breaks=True)) as server:
        whole = ask(server, ("file", SAID))
        assert (whole.status, whole.error["code"]) == (500, "engine_failed")
        assert whole.headers["x-should-retry"] == "false"
        events = ask(server, ("file", SAID), ("stream", "true")).body.decode().split("\r\n\r\n")
        last = json.loads(events[-2].removeprefix("data: "))
        assert (last["type"], last["error"]["code"]) == ("error", "engine_failed")
        assert "[DONE]" not in events


# What is refused


@pytest.mark.parametrize(
    ("parts", "status", "param", "code"),
    [
        ((), 400, "file", "missing_required_parameter"),
        ((("file", "a text"),), 400, "file", "invalid_type"),
        ((("file", b""),), 400, "file", "invalid_value"),
        ((("file", b"no audio at all" * 100),), 400, "file", "invalid_value"),
        ((("file", wav(silence(100))),), 400, "file", "invalid_value"),
        ((("file", SAID), ("model", "tts-1")), 404, "model", "model_not_found"),
        ((("file", SAID), ("language", "xx")), 400, "language", "invalid_value"),
        ((("file", SAID), ("temperature", "2")), 400, "temperature", "invalid_value"),
        ((("file", SAID), ("temperature", "warm")), 400, "temperature", "invalid_type"),
        ((("file", SAID), ("prompt", "a" * 5000)), 400, "prompt", "string_above_max_length"),
        ((("file", SAID), ("response_format", "docx")), 400, "response_format",
         "unsupported_format"),
        ((("file", SAID), ("stream", "perhaps")), 400, "stream", "invalid_value"),
        ((("file", SAID), ("timestamp_granularities[]", "letter")), 400,
         "timestamp_granularities", "invalid_value"),
        ((("file", SAID), ("keywords[]", "a" * 200)), 400, "keywords", "string_above_max_length"),
        ((("file", SAID), ("known_speaker_names[]", "Ann")), 400, "known_speaker_references",
         "invalid_value"),
        ((("file", SAID), ("known_speaker_names[]", "Ann"),
          ("known_speaker_references[]", "data:audio/wav;base64,AAAA")), 400,
         "known_speaker_references", "invalid_value"),
        ((("file", SAID), ("file", SAID)), 400, None, "invalid_value"),
    ],
)  # fmt: skip
def test_what_cannot_be_heard_is_refused_by_field(
    server: Server, parts: tuple[Any, ...], status: int, param: str | None, code: str
) -> None:
    answer = ask(server, *parts)
    assert (answer.status, answer.error["param"], answer.error["code"]) == (status, param, code)


def test_a_known_speaker_needs_two_to_ten_seconds(server: Server) -> None:
    for seconds, problem in ((1.0, "too short"), (11.0, "longer than 10 s")):
        reference = base64.b64encode(wav(tone(440, seconds))).decode()
        answer = ask(
            server,
            ("file", SAID),
            ("response_format", "diarized_json"),
            ("known_speaker_names[]", "Ann"),
            ("known_speaker_references[]", reference),
        )
        assert answer.error["param"] == "known_speaker_references"
        assert problem in answer.error["message"]


def test_a_body_that_is_no_form_is_refused(server: Server) -> None:
    answer = server.call("POST", "/v1/audio/transcriptions", b"{}", {"Content-Type": "a/json"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_type")
    headers = {"Content-Type": "multipart/form-data"}
    answer = server.call("POST", "/v1/audio/transcriptions", b"{}", headers)
    assert (answer.status, answer.error["code"]) == (400, "invalid_value")


def test_an_unknown_field_is_ignored_and_named(server: Server) -> None:
    answer = ask(server, ("file", SAID), ("colour", "red"))
    assert answer.status == 200
    assert answer.headers["x-speech-ignored"] == "colour"


def test_sizes_and_lengths_are_bounded(tmp_path: Path) -> None:
    with started(tmp_path, max_upload_mb=1, max_audio_sec=2) as server:
        answer = ask(server, ("file", bytes(2**20 + 1)))
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        answer = ask(server, ("file", bytes(20 * 2**20)))
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        # An hour of silence in a few kilobytes.
        bomb = io.BytesIO()
        soundfile.write(bomb, np.zeros(3600 * 8000, np.int16), 8000, format="FLAC")
        answer = ask(server, ("file", bomb.getvalue()))
        assert (answer.status, answer.error["param"]) == (400, "file")
        assert "longer than 2 s" in answer.error["message"]
        texts = [(f"field{number}", "a" * 2**19) for number in range(35)]
        answer = ask(server, ("file", b"RIFF"), *texts)
        assert (answer.status, answer.error["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("kind", ["mp3", "ogg", "webm", "mp4", "flac"])
def test_every_container_is_heard(server: Server, kind: str) -> None:
    codec = {"mp3": "mp3", "ogg": "libopus", "webm": "libopus", "mp4": "aac", "flac": "flac"}[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=48_000 if codec == "libopus" else 24_000)
        samples = (tones(440, 880) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", stream.codec_context.sample_rate
        )
        for each in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(each))
    answer = ask(server, ("file", file.getvalue()))
    assert answer.json["text"] == "tone 440 tone 880"


# Side by side


def test_more_than_the_seats_wait_and_more_than_the_queue_are_refused(tmp_path: Path) -> None:
    gate = threading.Event()
    fake = FakeRecognizer(gate)
    with started(tmp_path, fake, max_transcriptions=1, max_queue=1) as server:
        answers: list[Answer] = []

        def hear() -> None:
            answers.append(ask(server, ("file", SAID)))

        threads = [threading.Thread(target=hear) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: answers)
        assert [answer.status for answer in answers] == [503]
        assert int(answers[0].headers["retry-after"]) >= 1
        gate.set()
        for thread in threads:
            thread.join(60)
        assert sorted(answer.status for answer in answers) == [200, 200, 503]


def test_a_caller_who_leaves_stops_the_recogniser(tmp_path: Path) -> None:
    fake = FakeRecognizer(threading.Event())  # the second segment never comes
    with started(tmp_path, fake, max_transcriptions=1, max_queue=0) as server:
        body, headers = multipart(("file", SAID), ("stream", "true"))
        peer = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        peer.request("POST", "/v1/audio/transcriptions", body, headers)
        assert b"tone 440" in peer.getresponse().read1()
        one = ("file", wav(tones(440)))
        assert ask(server, one).status == 503
        peer.close()
        wait_for(lambda: ask(server, one).status == 200)


def test_the_models_and_their_names_are_listed(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "fake-ear"} <= names
    assert "fake-1" in names
    assert "gpt-4o-transcribe-diarize" in names
    assert client.models.retrieve("whisper-1").id == "whisper-1"


def test_the_capabilities_say_what_the_recogniser_can(server: Server) -> None:
    facts = server.call("GET", "/v1/capabilities").json["transcription"]
    assert facts == {
        "model": "fake-1",
        "resident": True,
        "timestamps": False,
        "speakers": True,
        "words": True,
        "translation": True,
        "languages": ["en", "de"],
    }
