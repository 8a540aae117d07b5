"""Where models are looked for, in which order, and what a download is asked for."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engines.vibevoice.hub import Hub, Incomplete, commit_of, snapshot
from request.errors import EngineError
from tests.hub_api import TOKEN, HubApi

NAME = "vibevoice/VibeVoice-7B"
SHA = "0123456789abcdef0123456789abcdef01234567"


def check(folder: Path) -> None:
    if not (folder / "weights").exists():
        raise Incomplete("weights are missing")


def find(hub: Hub, name: str = NAME) -> Path:
    return hub.find(name, "MODEL_PATH", check, ["*.json", "weights"])


def cached(cache: Path, sha: str = SHA, ref: str | None = SHA, whole: bool = True) -> Path:
    root = cache / "models--vibevoice--VibeVoice-7B"
    folder = root / "snapshots" / sha
    folder.mkdir(parents=True)
    if whole:
        (folder / "weights").touch()
    if ref is not None:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(ref)
    return folder


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub, "snapshot_download", refuse)


def test_a_folder_wins_over_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cached(tmp_path / "cache")
    folder = tmp_path / NAME
    folder.mkdir(parents=True)
    (folder / "weights").touch()
    assert find(Hub(caches=(tmp_path / "cache",)), NAME) == Path(NAME)
    assert find(Hub(), str(folder)) == folder


def test_caches_are_searched_in_order_and_then_the_models_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caches = tmp_path / "platform", tmp_path / "cache", tmp_path / "volume"
    hub = Hub(caches=caches, models=tmp_path / "models")
    (tmp_path / "models" / "VibeVoice-7B").mkdir(parents=True)
    (tmp_path / "models" / "VibeVoice-7B" / "weights").touch()
    found = [find(hub)]
    for cache in reversed(caches):
        cached(cache)
        with caplog.at_level(logging.INFO, "vibevoice"):
            found.append(find(hub))
        assert f"found in {found[-1]}" in caplog.text
    assert [folder.relative_to(tmp_path).parts[0] for folder in found] == [
        "models",
        "volume",
        "cache",
        "platform",
    ]


def test_an_incomplete_snapshot_is_passed_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached(tmp_path / "broken", whole=False)
    whole = cached(tmp_path / "whole")
    assert find(Hub(caches=(tmp_path / "broken", tmp_path / "whole"))) == whole
    assert "passed over: weights are missing" in caplog.text


def test_an_incomplete_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="weights are missing"):
        find(Hub(), str(tmp_path))


def test_the_snapshot_of_main_counts_else_the_newest(tmp_path: Path) -> None:
    first = cached(tmp_path, "a" * 40, ref=None)
    assert snapshot(tmp_path, NAME) == first
    second = cached(tmp_path, "b" * 40, ref="b" * 40)
    third = cached(tmp_path, "c" * 40, ref=None)
    assert snapshot(tmp_path, NAME) == second
    (tmp_path / "models--vibevoice--VibeVoice-7B" / "refs" / "main").write_text("d" * 40)
    assert snapshot(tmp_path, NAME) in (first, second, third)
    assert snapshot(tmp_path, "vibevoice/Another") is None
    assert commit_of(third) == "c" * 40
    assert commit_of(tmp_path) is None


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./no", "../no", "a/b/c", "a/..", "~:", "C:\\model", "", "a b"]
)
def test_what_is_neither_a_folder_nor_an_id_is_refused(tmp_path: Path, name: str) -> None:
    """`~:` is a home that no machine has: no user's name holds a colon."""
    with pytest.raises(EngineError, match="MODEL_PATH is neither a folder that exists nor a hub"):
        find(Hub(caches=(tmp_path,), models=tmp_path), name)


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubApi]:
    """The hub on loopback, with the one model in it."""
    from huggingface_hub import constants
    from huggingface_hub._snapshot_download import snapshot_download

    model = tmp_path / "hub"
    model.mkdir()
    for name in ("weights", "config.json", "README.md"):
        (model / name).write_text(name)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with HubApi({NAME: model}) as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


def test_what_is_nowhere_is_downloaded_to_the_volume(tmp_path: Path, online: HubApi) -> None:
    hub = Hub.of(tmp_path / "volume", token=TOKEN, platform_cache=tmp_path / "platform")
    folder = find(hub)
    assert folder == snapshot(tmp_path / "volume" / "hf_cache", NAME)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights"]
    assert commit_of(folder) == online.commit(NAME)
    asked = len(online.asked)
    assert find(hub) == folder
    assert len(online.asked) == asked


def test_a_damaged_snapshot_is_made_good_by_the_next_download(
    tmp_path: Path, online: HubApi
) -> None:
    hub = Hub.of(tmp_path / "volume", platform_cache=tmp_path / "platform")
    (find(hub) / "weights").unlink()
    assert (find(hub) / "weights").read_text() == "weights"
    assert online.bytes_asked_of("weights") == ["", ""]


def test_what_two_download_at_once_is_there_once(tmp_path: Path, online: HubApi) -> None:
    hub = Hub.of(tmp_path / "volume", platform_cache=tmp_path / "platform")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: find(hub), range(2))
    assert first == second
    assert online.commit(NAME) == first.name


def test_a_revision_is_found_by_its_name_or_commit(tmp_path: Path) -> None:
    first, second = cached(tmp_path, "a" * 40), cached(tmp_path, "b" * 40, ref="b" * 40)
    (second.parents[1] / "refs" / "v1").write_text("a" * 40)
    assert snapshot(tmp_path, NAME, "main") == second
    assert snapshot(tmp_path, NAME, "v1") == first
    assert snapshot(tmp_path, NAME, "a" * 40) == first
    assert snapshot(tmp_path, NAME, "v2") is None
    assert snapshot(tmp_path, NAME, "c" * 40) is None


@pytest.mark.parametrize("problem", [OSError("no route to hf_secret"), ValueError("offline")])
def test_a_download_that_fails_names_the_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", ask)
    with pytest.raises(EngineError, match=r"VibeVoice-7B is on no disk.*set HF_TOKEN") as caught:
        find(Hub(caches=(tmp_path,)))
    assert "hf_secret" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_the_hub_library_downloads_nothing_when_it_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub._snapshot_download import snapshot_download

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EngineError, match="its download failed"):
        find(Hub(download_to=tmp_path))
