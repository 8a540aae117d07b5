"""The voices of VibeVoice-Realtime on a volume: fetched at a commit, converted, filled once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from engines.realtime.presets import list_presets, load_tensors
from provision import presets
from provision.work import Builder
from tests.need import require_program
from tests.test_presets import preset

pytestmark = pytest.mark.realtime


class Site:
    """What a step asks of its builder, and which commands it ran."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.ran: list[list[str]] = []

    def doing(self, _what: str) -> None: ...

    def room_for(self, _what: str, _needed_mb: int) -> None: ...

    def assert_ours(self) -> None: ...

    def run(self, *command: str | Path, **env: str) -> None:
        self.ran.append([str(word) for word in command])
        subprocess.run(command, check=True, env=os.environ | env, capture_output=True)


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    require_program("git", "git")
    made = tmp_path / "origin"
    folder = made / "demo" / "voices" / "streaming_model"
    folder.mkdir(parents=True)
    for name in ("en-Ana_woman", "de-Bob_man"):
        torch.save(preset(), folder / f"{name}.pt")
    (made / "video.mp4").write_bytes(b"large")

    def git(*words: str) -> str:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        run = subprocess.run(["git", *who, *words], cwd=made, check=True, capture_output=True)
        return run.stdout.decode().strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("config", "uploadpack.allowFilter", "true")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    monkeypatch.setattr(presets, "REPOSITORY", made.as_uri())
    monkeypatch.setattr(presets, "COMMIT", git("rev-parse", "HEAD"))
    return made


@pytest.mark.usefixtures("origin")
def test_presets_are_filled_once_and_what_lies_there_is_kept(tmp_path: Path) -> None:
    site, venv = Site(tmp_path / "volume"), tmp_path / "venv"
    (site.base / "presets").mkdir(parents=True)
    (site.base / "presets" / "de-Bob_man.json").write_text('{"name": "mine"}')
    (venv / "bin").mkdir(parents=True)
    # A link to the interpreter would be another environment's.
    (venv / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (venv / "bin" / "python").chmod(0o755)
    builder = cast("Builder", cast(Any, site))
    presets.provide(builder, venv)
    found = list_presets(site.base / "presets")
    assert list(found) == ["de-Bob_man", "en-Ana_woman"]
    assert found["de-Bob_man"] == {"name": "mine"}
    assert load_tensors(site.base / "presets", "en-Ana_woman")["lm.cache"].shape[1] == 6
    assert not (site.base / ".building-presets").exists()
    done = len(site.ran)
    presets.provide(builder, venv)
    assert len(site.ran) == done


@pytest.mark.parametrize(
    ("engine", "models", "wanted"),
    [
        ("realtime", "", True),
        ("vibevoice", "vibevoice, vibevoice-realtime", True),
        ("vibevoice", "vibevoice,kokoro", False),
        ("", "", False),
    ],
)
def test_only_a_worker_that_may_speak_with_them_fetches_them(
    engine: str, models: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE", engine)
    monkeypatch.setenv("MODELS", models)
    assert presets.are_wanted() == wanted
