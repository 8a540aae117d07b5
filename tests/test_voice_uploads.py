"""Voices that callers bring: decoded, bounded, under no path of theirs, and gone when deleted."""

import errno
import http.client
import io
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from config import Settings
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine
from tests.http_server import Answer, Server, serving
from voices.uploads import VoiceStore

AGREED = "Ada agreed on paper"


def recording(seconds: float = 4, rate: int = 24_000, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    tone = np.sin(np.arange(round(seconds * rate)) / 20).astype(np.float32) / 2
    soundfile.write(file, tone, rate, format=form)
    return file.getvalue()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def server(tmp_path: Path, engine: FakeEngine) -> Iterator[Server]:
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path / "volume")})
    with serving(VibeVoiceInference(settings, engine)) as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "volume" / "demo" / "voices"


def form(parts: Mapping[str, str | tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    mark = uuid.uuid4().hex
    body = b""
    for name, value in parts.items():
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, tuple):
            head += f'; filename="{value[0]}"\r\nContent-Type: application/octet-stream'
        data = value[1] if isinstance(value, tuple) else value.encode()
        body += f"{head}\r\n\r\n".encode() + data + b"\r\n"
    body += f"--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}"}


def upload(server: Server, name: str = "Ada", **parts: Any) -> Answer:
    fields = {"name": name, "consent": AGREED, "audio_sample": ("a.wav", recording()), **parts}
    return server.call("POST", "/v1/audio/voices", *form(fields))


def names(server: Server) -> list[str]:
    return [voice["id"] for voice in server.call("GET", "/v1/audio/voices").json["data"]]


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG"])
def test_an_uploaded_voice_is_listed_speaks_and_can_be_deleted(
    server: Server, engine: FakeEngine, folder: Path, kind: str
) -> None:
    answer = upload(server, audio_sample=("x", recording(form=kind)))
    assert answer.status == 200, answer.body
    made = answer.json
    assert (made["id"], made["name"], made["object"]) == ("Ada", "Ada", "audio.voice")
    assert made["type"] == "audio_sample" and made["created_at"] > 1.7e9
    assert "Ada" in names(server)
    assert server.speak(voice={"id": "Ada"}).headers["x-speech-voice"] == "Ada"
    samples = engine.plans[0].voices[0].samples
    assert samples is not None
    assert len(samples) == pytest.approx(4 * 24_000, rel=0.03)
    assert json.loads((folder / "Ada.json").read_text())["consent"] == AGREED
    gone = server.call("DELETE", "/v1/audio/voices/Ada")
    assert gone.json == {"id": "Ada", "object": "audio.voice.deleted", "deleted": True}
    assert "Ada" not in names(server)
    again = server.call("DELETE", "/v1/audio/voices/Ada")
    assert (again.status, again.error["code"]) == (404, "voice_not_found")
    assert list(folder.iterdir()) == []


def test_the_stored_samples_are_those_that_were_decoded(server: Server, folder: Path) -> None:
    upload(server)
    stored, rate = soundfile.read(folder / "Ada.wav", dtype="float32")
    sent, _ = soundfile.read(io.BytesIO(recording()), dtype="float32")
    assert rate == 24_000
    assert np.abs(stored - sent).max() < 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "..",
        ".hidden",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:evil",
        "a\x00b",
        "",
        " ",
        "a" * 65,
        "a.",
        "Ünïcode",
        "a\nb",
        "$(id)",
    ],
    ids=ascii,
)
def test_no_name_leaves_the_folder(server: Server, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = upload(server, name)
    assert answer.status == 400
    assert answer.error["param"] == "name"
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []


def test_a_file_name_of_the_callers_is_never_used(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    assert upload(server, audio_sample=("../../../evil.wav", recording())).status == 200
    assert sorted(path.name for path in folder.iterdir()) == ["Ada.json", "Ada.wav"]
    assert not list(tmp_path.rglob("evil*"))


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", b"\0" * 50_000_000)
    return file.getvalue()


WRONG = {
    "a zip bomb": bomb(),
    "zlib of zeros": zlib.compress(b"\0" * 50_000_000),
    "text": b"hello " * 1000,
    "a pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system",
    "a playlist": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
    "html": b"<html><script>alert(1)</script></html>",
    "a png": b"\x89PNG\r\n\x1a\n" + b"\0" * 1000,
    "nothing": b"",
    "a cut header": recording()[:40],
    "too short": recording(1),
    "silence": b"RIFF" + recording()[4:44] + b"\0" * 200_000,
    "a rate that no voice has": recording(4, 4000),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_recording_of_a_voice_is_refused(
    server: Server, folder: Path, what: str
) -> None:
    answer = upload(server, audio_sample=("voice.wav", WRONG[what]))
    assert answer.status == 400, answer.body
    assert answer.error["param"] == "audio_sample"
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize("missing", ["name", "consent", "audio_sample"])
def test_every_part_is_needed(server: Server, missing: str) -> None:
    parts: dict[str, Any] = {
        "name": "Ada",
        "consent": AGREED,
        "audio_sample": ("a.wav", recording()),
    }
    del parts[missing]
    answer = server.call("POST", "/v1/audio/voices", *form(parts))
    assert answer.status == 400
    assert (answer.error["param"], answer.error["code"]) == (missing, "missing_required_parameter")


@pytest.mark.parametrize("consent", [" ", "a" * 501])
def test_consent_is_said(server: Server, consent: str) -> None:
    answer = upload(server, consent=consent)
    assert (answer.status, answer.error["param"]) == (400, "consent")


def test_100_mb_are_refused_before_they_are_read(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.putrequest("POST", "/v1/audio/voices")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(100_000_000))
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 413
    assert json.loads(reply.read())["error"]["code"] == "request_too_large"
    connection.close()


def test_100_mb_without_a_length_are_refused_on_the_way(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.putrequest("POST", "/v1/audio/voices")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    head = b'--x\r\nContent-Disposition: form-data; name="audio_sample"; filename="a"\r\n\r\n'
    connection.send(b"%x\r\n%s\r\n" % (len(head), head))
    chunk = b"100000\r\n" + b"\0" * 2**20 + b"\r\n"
    sent = 0
    try:
        for _ in range(100):
            connection.send(chunk)
            sent += 1
            if sent > 30:
                break
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413
    assert status == 413
    connection.close()


def test_a_name_that_is_taken_stays_with_its_owner(server: Server, folder: Path) -> None:
    upload(server)
    first = (folder / "Ada.wav").read_bytes()
    for name in ("Ada", "ADA"):
        answer = upload(server, name, audio_sample=("a.wav", recording(5)))
        assert (answer.status, answer.error["param"]) == (400, "name")
    assert (folder / "Ada.wav").read_bytes() == first


def test_an_upload_hides_no_built_in_voice(server: Server) -> None:
    before = names(server)
    assert upload(server).status == 200
    assert names(server) == [*before[:-2], "Ada", *before[-2:]]
    assert server.speak(voice="Frank").headers["x-speech-voice"] == "Frank"
    assert server.speak(voice="echo").headers["x-speech-voice"] == "Frank"
    for name in ("Frank", "FRANK", "en-Frank", "Frank_2"):
        answer = upload(server, name)
        assert (answer.status, answer.error["param"]) == (400, "name"), name
    assert server.call("DELETE", "/v1/audio/voices/Frank").status == 403
    assert "Frank" in names(server)


def test_uploads_may_share_a_part_of_their_names_with_each_other(server: Server) -> None:
    for name in ("Ada", "Ada_calm", "Ada_loud"):
        assert upload(server, name).status == 200
    for name in ("Ada", "Ada_calm", "Ada_loud"):
        assert server.speak(voice=name).headers["x-speech-voice"] == name


def test_an_upload_takes_no_name_from_a_voice_of_the_owner(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "en-Frank_man.wav").write_bytes(recording())
    answer = upload(server, "aa-Frank")
    assert (answer.status, answer.error["param"]) == (400, "name")
    assert server.speak(voice="Frank").headers["x-speech-voice"] == "en-Frank_man"
    assert names(server)[-2:] == ["en-Frank_man", "Alice"]


def test_only_uploads_can_be_deleted(server: Server, folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "Own.wav").write_bytes(recording())
    (tmp_path / "secret.wav").write_bytes(b"x")
    answer = server.call("DELETE", "/v1/audio/voices/Own")
    assert (answer.status, answer.error["type"]) == (403, "permission_error")
    for path in ("..%2F..%2F..%2Fsecret", "%2e%2e%2fsecret.wav", "secret", "*", "%00"):
        answer = server.call("DELETE", f"/v1/audio/voices/{path}")
        assert answer.status in (404, 405), (path, answer.body)
    assert (folder / "Own.wav").exists() and (tmp_path / "secret.wav").exists()


def test_a_body_of_another_kind_is_a_415(server: Server) -> None:
    answer = server.call("POST", "/v1/audio/voices", b"{}", {"Content-Type": "application/json"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_type")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = server.call("POST", "/v1/audio/voices", b"garbage", {"Content-Type": kind})
        assert answer.status == 400
        assert set(answer.error) == {"message", "type", "param", "code"}


def test_a_file_where_a_text_should_be_is_told_by_its_field(server: Server) -> None:
    answer = upload(server, consent=("a.txt", b"Ada"), audio_sample="no file")
    assert (answer.status, answer.error["param"]) == (400, "consent")
    assert answer.error["code"] == "invalid_type"
    answer = upload(server, audio_sample="no file")
    assert (answer.status, answer.error["param"]) == (400, "audio_sample")


FOREIGN = {
    "nested.json": "[" * 100_000,
    "huge.json": '{"name": "huge", "consent": "x", "created_at": 1e999}',
    "list.json": "[1, 2]",
    "cut.json": '{"name": "cut", "cons',
    "other.json": '{"name": "another", "consent": "x", "created_at": 1}',
    "metadata.json": '{"language": "en"}',
    "null.json": "null",
    "bytes.json": "\udcff\udcfe",
}


def test_a_foreign_or_damaged_note_is_skipped_and_named(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "folder.json").mkdir()
    for name, text in FOREIGN.items():
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    (folder / "orphan.json").write_text('{"name": "orphan", "consent": "x", "created_at": 1}')
    store = VoiceStore(folder)
    named = store.problems()
    assert [line.split("'")[1] for line in named] == sorted(
        [*FOREIGN, "folder.json", "orphan.json"]
    )
    assert "'orphan.json' is a note without a recording" in named
    assert store.notes() == {}
    assert upload(server).status == 200
    assert "Ada" in names(server)
    assert server.call("DELETE", "/v1/audio/voices/Ada").status == 200
    assert upload(server, "orphan").status == 200  # its place was free
    assert list(store.notes()) == ["orphan"]


@pytest.mark.parametrize("written", [0, 1], ids=["the note", "the recording"])
def test_an_upload_on_a_full_volume_leaves_nothing_and_says_why(
    server: Server, folder: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = 0

    def full(_: int) -> None:
        nonlocal synced
        synced += 1
        if synced > written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("voices.uploads.os.fsync", full)
    answer = upload(server)
    assert (answer.status, answer.error["code"]) == (507, "storage_failed")
    assert answer.error["message"] == "The voice could not be stored: No space left on device."
    assert answer.headers["x-should-retry"] == "false"
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    assert upload(server).status == 200


def test_what_a_killed_upload_left_is_removed_by_a_later_one(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    old, fresh = folder / ".Eve.wav.7.tmp", folder / ".Bob.wav.8.tmp"
    for path in (old, fresh):
        path.write_bytes(b"RIFF")
    os.utime(old, (1, 1))
    assert upload(server).status == 200
    assert (old.exists(), fresh.exists()) == (False, True)


def test_an_upload_is_never_anybody_elses_voice(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("Own", "Second"):
        (folder / f"{name}.wav").write_bytes(recording())
    assert upload(server, "Aaron").status == 200  # would be the first of all

    def speaks(**fields: Any) -> str:
        return server.speak(**fields).headers["x-speech-voice"]

    assert speaks(voice="Aaron") == speaks(voice="AARON") == "Aaron"
    for voice in ("nobody", "aar", "Aaro", "alloy", "onyx", "Alice"):
        assert speaks(voice=voice) != "Aaron", voice
    script = "Speaker 1: a. Speaker 2: b. Speaker 3: c. Speaker 4: d.".replace(" Sp", "\nSp")
    spoken = server.speak(input=script, voice="Own").headers["x-speech-voice"]
    assert "Aaron" not in spoken
    refused = server.speak(voice="x" * 201)
    assert refused.status == 400 and "Aaron" not in refused.body.decode()


def test_an_upload_named_as_the_default_is_not_the_default(
    tmp_path: Path, engine: FakeEngine
) -> None:
    environment = {"VIBEVOICE_VOLUME": str(tmp_path / "volume"), "DEFAULT_SPEAKER": "Eve"}
    with serving(VibeVoiceInference(Settings.from_env(environment), engine)) as one:
        assert upload(one, "Eve").status == 200
        assert one.speak(voice="Eve").headers["x-speech-voice"] == "Eve"
        assert one.speak(voice="alloy").headers["x-speech-voice"] != "Eve"
        assert one.speak(voice="nobody").headers["x-speech-voice"] != "Eve"
        job = VibeVoiceInference(Settings.from_env(environment), engine)
        assert job.voices.resolve(None)[0].name != "Eve"
        job.close()


@pytest.mark.parametrize("name", ["alloy", "ALLOY", "verse", "Onyx"])
def test_openais_names_cannot_be_uploaded(server: Server, name: str) -> None:
    answer = upload(server, name)
    assert (answer.status, answer.error["param"]) == (400, "name")


def test_after_a_deletion_its_callers_never_get_the_next_upload(
    server: Server, tmp_path: Path, engine: FakeEngine
) -> None:
    assert upload(server, "Ada").status == 200
    assert upload(server, "Ada_2").status == 200
    assert server.call("DELETE", "/v1/audio/voices/Ada").status == 200
    assert upload(server, "Adam").status == 200
    assert server.speak(voice="Ada").headers["x-speech-voice"] == "Alice"
    strict = {"VIBEVOICE_VOLUME": str(tmp_path / "volume"), "STRICT_VOICES": "true"}
    with serving(VibeVoiceInference(Settings.from_env(strict), engine)) as one:
        gone = one.speak(voice="Ada")
        assert (gone.status, gone.error["code"]) == (404, "voice_not_found")
        assert "Ada_2" not in gone.error["message"]


def test_a_voices_version_changes_with_its_recording(server: Server, folder: Path) -> None:
    def version(name: str) -> str | None:
        listed = server.call("GET", "/v1/audio/voices").json["data"]
        found: str | None = next(each for each in listed if each["id"] == name)["version"]
        return found

    assert upload(server).status == 200
    first = version("Ada")
    assert first == version("Ada") and version("Alice") is None
    assert server.call("DELETE", "/v1/audio/voices/Ada").status == 200
    assert upload(server, audio_sample=("a.wav", recording(5))).status == 200
    assert version("Ada") not in (first, None)
    (folder / "Own.wav").write_bytes(recording())
    before = version("Own")
    (folder / "Own.wav").write_bytes(recording(6))
    os.utime(folder)
    assert version("Own") != before
