"""A finished result reaches its caller, or the caller learns where it is kept."""

import base64
import os
import re
import time
from pathlib import Path

import pytest

from delivery.answer import FACTS_LIMIT, INLINE_LIMIT, Delivery, Outputs, cleanup_old_files, keep
from delivery.bucket import Bucket
from request.errors import Cancelled, DeliveryError, RequestError
from tests.runpod_wire import PIECE_LIMIT, RUN_LIMIT


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "speech.mp3"
    path.write_bytes(b"audio")
    return path


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_small_audio_is_inline_and_a_copy_is_kept(audio: Path, tmp_path: Path) -> None:
    folder = tmp_path / "output"
    delivered = Delivery("session-1", Outputs(folder)).deliver(audio)
    assert base64.b64decode(delivered.fields["audio_base64"]) == b"audio"
    assert delivered.warnings == ()
    (name,) = copies(folder)
    assert re.fullmatch(r"session-1_[0-9a-f]{32}\.mp3", name)
    assert (folder / name).read_bytes() == b"audio"


@pytest.mark.parametrize("save", [True, False])
def test_what_should_fit_or_has_a_store_needs_no_word(tmp_path: Path, save: bool) -> None:
    outputs = Outputs(tmp_path, save=save)
    assert Delivery("s", outputs).foresee(INLINE_LIMIT) == ""
    store = Bucket(None, "id", "secret", "bucket")
    assert Delivery("s", outputs, store).foresee(100 * INLINE_LIMIT) == ""


def test_what_should_not_fit_is_said_before_and_refused_where_nothing_would_keep_it(
    tmp_path: Path,
) -> None:
    kept, lost = Outputs(tmp_path), Outputs(tmp_path, save=False)
    said = Delivery("s", kept).foresee(26_000_000)
    assert said.startswith(
        "the audio will have about 26.0 MB, and an answer carries at most 7.3 MB"
    )
    assert "S3_ENDPOINT_URL" in said
    with pytest.raises(
        RequestError, match=r"^text: the audio will have about 26\.0 MB.*SAVE_OUTPUT"
    ):
        Delivery("s", lost).foresee(26_000_000)
    # It may just fit, if the voice is quick.
    assert "about 9.0 MB" in Delivery("s", lost).foresee(9_000_000)


@pytest.mark.parametrize("save", [True, False])
def test_who_does_not_reach_the_volume_is_told_the_formats_that_fit_and_no_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: bool
) -> None:
    way = Delivery("s", Outputs(tmp_path, save=save), fitting=lambda size: ["mp3", f"{size}"])
    with pytest.raises(RequestError) as before:
        way.foresee(26_000_000)
    assert str(before.value) == (
        "output_format: the audio will have about 26.0 MB, and an answer carries at most 7.3 MB "
        "(allowed: mp3, 26000000, a shorter text)"
    )
    assert way.foresee(9_000_000)  # may just fit
    audio = tmp_path / "speech.wav"
    audio.write_bytes(bytes(100_000))
    monkeypatch.setattr("delivery.answer.INLINE_LIMIT", 50_000)
    with pytest.raises(DeliveryError) as after:
        way.deliver(audio)
    assert str(after.value) == (
        "output_format: the audio has 0.1 MB, and an answer carries at most 7.3 MB "
        "(allowed: mp3, 100000, a shorter text)"
    )
    for error in (before, after):
        assert error.value.problems[0].code == "audio_too_large"


def test_no_copy_is_kept_where_none_is_wanted(audio: Path, tmp_path: Path) -> None:
    folder = tmp_path / "output"
    Delivery("s", Outputs(folder, save=False)).deliver(audio)
    assert not folder.exists()


@pytest.mark.parametrize("save", [True, False])
def test_audio_above_the_limit_is_an_error_that_names_the_kept_file(
    tmp_path: Path, save: bool
) -> None:
    audio = tmp_path / "speech.wav"
    audio.write_bytes(bytes(INLINE_LIMIT + 1))
    folder = tmp_path / "output"
    with pytest.raises(DeliveryError) as caught:
        Delivery("long", Outputs(folder, save=save)).deliver(audio)
    (name,) = copies(folder)
    message = str(caught.value)
    assert "7.3 MB, and an answer carries at most 7.3 MB" in message
    assert "S3_ENDPOINT_URL" in message
    assert message.endswith(f"It is kept as output/{name} in VIBEVOICE_VOLUME")
    assert str(tmp_path) not in message
    assert (folder / name).stat().st_size == INLINE_LIMIT + 1


def test_audio_at_the_limit_is_inline(tmp_path: Path) -> None:
    audio = tmp_path / "speech.wav"
    audio.write_bytes(bytes(INLINE_LIMIT))
    encoded = Delivery("s", Outputs(tmp_path / "o")).deliver(audio).fields["audio_base64"]
    assert len(encoded) + FACTS_LIMIT < RUN_LIMIT - 1000
    assert FACTS_LIMIT < PIECE_LIMIT - 1000


def test_a_cancelled_job_leaves_no_copy(audio: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        Delivery("s", Outputs(tmp_path / "o")).deliver(audio, cancelled=lambda: True)
    assert not (tmp_path / "o").exists()


def test_a_volume_that_takes_no_copy_is_a_warning(audio: Path, tmp_path: Path) -> None:
    folder = tmp_path / "output"
    folder.write_text("a file is in the way")
    delivered = Delivery("s", Outputs(folder)).deliver(audio)
    assert base64.b64decode(delivered.fields["audio_base64"]) == b"audio"
    assert delivered.warnings == ("no copy was kept on the volume: File exists",)


def test_what_fits_nowhere_else_is_kept_on_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = tmp_path / "speech.wav"
    audio.write_bytes(bytes(INLINE_LIMIT + 1))
    (tmp_path / "output").write_text("a file is in the way")
    monkeypatch.setattr("delivery.answer.tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    with pytest.raises(DeliveryError, match="in the worker's temporary folder"):
        Delivery("s", Outputs(tmp_path / "output")).deliver(audio)
    assert len(copies(tmp_path / "tmp" / "vibevoice-output")) == 1


@pytest.mark.parametrize(
    "owner", ["../../up", "/etc/passwd", "a/b", "", "..", "\0", "x" * 500, "ü"]
)
def test_no_owner_leads_outside_the_folder(audio: Path, tmp_path: Path, owner: str) -> None:
    folder = tmp_path / "output"
    name = keep(audio, owner, folder)
    assert copies(folder) == [name]
    assert copies(tmp_path) == ["output", "speech.mp3"]


def test_a_copy_that_breaks_off_leaves_nothing(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("delivery.answer.shutil.copyfile", full)
    folder = tmp_path / "output"
    with pytest.raises(OSError, match="No space"):
        keep(audio, "s", folder)
    assert copies(folder) == []


def test_cleanup_takes_old_copies_of_ours_and_nothing_else(audio: Path, tmp_path: Path) -> None:
    folder = tmp_path / "output"
    old, young = keep(audio, "old", folder), keep(audio, "young", folder)
    for name in ("notes.txt", "song.mp3", f"{old}.part", "link"):
        (folder / name).write_text("x")
    three_days_ago = time.time() - 3 * 86_400
    for name in (old, "notes.txt", "song.mp3", f"{old}.part"):
        os.utime(folder / name, (three_days_ago, three_days_ago))
    assert cleanup_old_files(Outputs(folder, retention_days=2)) == 2
    assert copies(folder) == sorted([young, "notes.txt", "song.mp3", "link"])
    assert cleanup_old_files(Outputs(tmp_path / "nowhere")) == 0
