"""A voice that comes with the request: by address or in base64, hostile or not."""

import asyncio
import base64
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from config import Settings
from delivery import fetch
from request.errors import RequestError, VoiceError
from request.model import Defaults, parse_request
from synthesis.inference import VibeVoiceInference
from tests.bad_network import Handler, answering, dripping, dripping_head, mute, serving
from tests.fake_engine import FakeEngine
from tests.test_stream import filed
from voices.request_voices import RequestVoices


def recording(seconds: float = 4, file_format: str = "WAV") -> bytes:
    tone = 0.3 * np.sin(2 * np.pi * 200 * np.arange(int(seconds * 24_000)) / 24_000)
    data = io.BytesIO()
    soundfile.write(data, tone, 24_000, format=file_format)
    return data.getvalue()


PATHS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/voice": (200, {}, recording()),
    "/gone": (404, {}, b"no"),
    "/large": (200, {"Content-Length": str(11 * 2**20)}, b""),
    "/lying": (200, {}, bytes(11 * 2**20)),
    "/text": (200, {}, b"no audio at all " * 100),
    "/moved": (302, {"Location": "/voice"}, b""),
    "/inside": (302, {"Location": "http://127.0.0.2:9/voice"}, b""),
    "/local": (302, {"Location": "file:///etc/passwd"}, b""),
}


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, headers, body = PATHS[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            return  # the reader has seen enough

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def private_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own address, and no other of the inside."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def inference(tmp_path: Path, engine: FakeEngine) -> Iterator[VibeVoiceInference]:
    made = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    yield made
    made.close()


def speak(inference: VibeVoiceInference, **fields: Any) -> tuple[str, ...]:
    request, _ = parse_request({"text": "Hi.", **fields}, Defaults())
    return filed(inference, request)[1].warnings


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "MP3", "OGG"])
@pytest.mark.parametrize("prefix", ["", "data:audio/anything;base64,"])
def test_a_recording_in_base64_speaks(
    inference: VibeVoiceInference, engine: FakeEngine, file_format: str, prefix: str
) -> None:
    encoded = base64.b64encode(recording(4, file_format)).decode()
    speak(inference, voice_base64=prefix + encoded)
    (voice,) = engine.plans[0].voices
    assert voice.name.startswith("guest-")
    assert voice.samples is not None
    assert abs(len(voice.samples) - 4 * 24_000) < 2000


@pytest.mark.usefixtures("private_allowed")
def test_a_recording_at_an_address_speaks(
    inference: VibeVoiceInference, engine: FakeEngine, server: str
) -> None:
    warnings = speak(inference, voice_url=f"{server}/moved", speaker_name="Frank")
    assert engine.plans[0].voices[0].name.startswith("guest-")
    assert "speaker_name: ignored, since a recording is given" in warnings


@pytest.mark.usefixtures("private_allowed")
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/gone", "voice_url: the server answers 404"),
        ("/large", "voice_url: is larger than 10 MB"),
        ("/lying", "voice_url: is larger than 10 MB"),
        ("/text", "voice_url: the recording is not readable as audio"),
        ("/inside", "voice_url: leads to no public http address"),
        ("/local", "voice_url: leads to no public http address"),
    ],
)
def test_what_is_no_voice_is_refused(
    inference: VibeVoiceInference, engine: FakeEngine, server: str, path: str, problem: str
) -> None:
    with pytest.raises(VoiceError) as caught:
        speak(inference, voice_url=server + path)
    assert str(caught.value) == problem
    assert engine.plans == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "10.0.0.1",
        "169.254.169.254",
        "user@127.0.0.1",
    ],
)
def test_no_address_of_the_inside_is_asked(host: str) -> None:
    with pytest.raises(VoiceError, match="leads to no public http address"):
        fetch.fetch_voice(f"http://{host}:9/voice")


@pytest.mark.parametrize(
    "host", ["0x7f000001", "2130706433", "127.1", "0", "%00", "..", "[::1", "a" * 300]
)
def test_an_address_that_is_written_oddly_is_none(host: str) -> None:
    with pytest.raises(VoiceError, match=r"leads to no public http address|cannot be fetched"):
        fetch.fetch_voice(f"http://{host}/voice")


def test_a_name_that_means_the_inside_by_the_time_it_is_used_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: inside)
    with pytest.raises(VoiceError, match="leads to no public http address"):
        fetch.fetch_voice("http://voices.example:9/voice")


@pytest.mark.usefixtures("private_allowed")
@pytest.mark.parametrize("handler", [dripping, dripping_head, mute])
def test_a_server_that_never_ends_is_left(
    monkeypatch: pytest.MonkeyPatch, handler: Handler
) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT_SEC", 0.5)
    with (
        serving(handler) as port,
        pytest.raises(VoiceError, match=r"^voice_url: takes longer than 0\.5 s$"),
    ):
        fetch.fetch_voice(f"http://127.0.0.1:{port}/voice")


@pytest.mark.usefixtures("private_allowed")
def test_what_fails_is_told_without_its_address_and_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(answering(200, "voice", "this is no header\r\n")) as port:
        for there in (port, 9):
            with pytest.raises(VoiceError, match=r"^voice_url: cannot be fetched \(\w+\)$"):
                fetch.fetch_voice(f"http://127.0.0.1:{there}/voice?signature=secret")
    assert caplog.text == ""


@pytest.mark.usefixtures("private_allowed")
def test_a_signed_address_is_asked_for_to_the_byte() -> None:
    seen: list[bytes] = []
    signed = b"/a%2Fb%7e?sig=a%2Bb%3D&to=%27%3A"

    async def note(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b" HTTP"))

    with serving(note) as port, pytest.raises(VoiceError):
        fetch.fetch_voice(f"http://127.0.0.1:{port}{signed.decode()}")
    assert set(seen) == {b"GET " + signed + b" HTTP"}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"voice_base64": "not base64!"}, "voice_base64: is no base64"),
        ({"voice_base64": "A" * 15_000_000}, "voice_base64: has 15000000 characters"),
        ({"voice_base64": 5}, "voice_base64: is a number"),
        ({"voice_url": "ftp://example.com/a"}, "voice_url: 'ftp://example.com/a' cannot be used"),
        ({"voice_url": "file:///etc/passwd"}, "voice_url: 'file:///etc/passwd' cannot be used"),
        (
            {"voice_url": "http://example.com", "voice_base64": "AAAA"},
            "voice_url: comes with voice_base64, and only one can speak",
        ),
    ],
)
def test_requests_that_cannot_hold_a_voice_are_refused(
    fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request({"text": "Hi.", **fields}, Defaults())
    assert str(caught.value).startswith(f"{problem} (allowed: ")


def test_a_recording_is_decoded_once_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests = RequestVoices()
    first, _ = guests.resolve(recording(), tmp_path, "voice_base64")
    monkeypatch.setattr("voices.request_voices.decode", None)
    again, _ = guests.resolve(recording(), tmp_path, "voice_base64")
    assert first is again
    assert list(tmp_path.iterdir()) == []


def test_a_long_recording_is_trimmed_with_a_warning_and_a_short_one_refused(
    tmp_path: Path,
) -> None:
    guests = RequestVoices()
    voice, warnings = guests.resolve(recording(40), tmp_path, "voice_base64")
    assert voice.samples is not None
    assert len(voice.samples) == 30 * 24_000
    assert warnings == ["voice_base64: the recording is longer than 30 s; its first 30 s are used"]
    with pytest.raises(VoiceError, match="the recording is 1 s long; allowed: 3 to 30 s"):
        guests.resolve(recording(1), tmp_path, "voice_base64")


def test_only_the_last_recordings_are_remembered(tmp_path: Path) -> None:
    guests = RequestVoices()
    for index in range(40):
        guests.resolve(recording(3 + index / 100), tmp_path, "voice_base64")
    assert len(guests._known) == 32
