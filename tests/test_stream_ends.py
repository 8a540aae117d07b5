"""However a stream or a file ends, its engine's work, its thread and its files end with it."""

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from config import Settings
from request.errors import Cancelled, EngineError
from synthesis.inference import VibeVoiceInference
from synthesis.parts import StreamOptions
from tests.fake_engine import FakeEngine
from tests.http_server import wait_for
from tests.test_stream import filed, request, streamed


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(lambda _: np.full(3200 * 100, 0.5, np.float32))


@pytest.fixture
def inference(tmp_path: Path, engine: FakeEngine) -> Iterator[VibeVoiceInference]:
    made = VibeVoiceInference(Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)}), engine)
    yield made
    made.close()


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def open_files(inference: VibeVoiceInference) -> list[str]:
    """Those in its temporary folder, also removed ones."""
    links = Path("/proc/self/fd").iterdir()
    files = [str(link.readlink()) for link in links if link.is_symlink()]
    return [name for name in files if name.startswith(inference._folder.name)]


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_file_that_fails_above_the_engine_ends_the_engines_work(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.audio = [np.full(20_000, 0.5, np.float32), np.full(20_000, np.nan, np.float32)]
    with pytest.raises(EngineError, match="no numbers"):
        filed(inference, request("One. [pause:100ms] Two."))
    assert engine.speeches[0].cancelled


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_file_that_fails_leaves_no_file_open(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.fail_at = 50
    with pytest.raises(EngineError, match="as it was told to"):
        filed(inference, request("One."))
    assert open_files(inference) == []


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_stream_that_fails_above_the_engine_ends_its_work_before_it_is_read(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.audio = [np.full(20_000, np.nan, np.float32)]

    async def main() -> None:
        stream = inference.stream(request("One."))
        await asyncio.wait({stream._making})
        assert engine.speeches[0].cancelled
        await stream.aclose()

    asyncio.run(main())


def test_a_stream_cancelled_at_once_is_no_clean_end(inference: VibeVoiceInference) -> None:
    async def main() -> None:
        stream = inference.stream(request("One."))
        stream.cancel()
        with pytest.raises(Cancelled):
            await asyncio.wait_for(anext(stream), 5)
        await stream.aclose()

    asyncio.run(main())


def test_the_end_of_the_loop_ends_a_stream_that_waits_for_its_reader(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    async def main() -> None:
        stream = inference.stream(request("One."), StreamOptions(0, 0, parts_ahead=1))
        await asyncio.to_thread(wait_for, lambda: stream._items.qsize() == 2)  # start, one part

    running = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    running.start()
    running.join(5)
    assert not running.is_alive()
    assert engine.speeches[0].cancelled


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_stream_that_fails_leaves_no_file_open(
    inference: VibeVoiceInference, engine: FakeEngine
) -> None:
    engine.interleave, engine.fail_at = True, 50

    async def main() -> None:
        async for _ in inference.stream(request("One. [pause:100ms] Two.")):
            pass

    with pytest.raises(EngineError, match="as it was told to"):
        asyncio.run(main())
    assert open_files(inference) == []


def test_a_folder_that_cannot_be_removed_yet_costs_no_finished_answer(
    inference: VibeVoiceInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")  # as NFS, while a file in it is open

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        assert filed(inference, request("One."))[0]
        assert streamed(inference, request("One."))[0]
    inference.close()
    assert not Path(inference._folder.name).exists()
