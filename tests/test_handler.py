"""What a job's caller and the worker's log get to see, and what neither does."""

import asyncio
import base64
import ctypes
import errno
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runpod.serverless.modules import rp_job

import handler
from audio.codecs import Encoder
from audio.loudness import LoudnessMeter
from config import Settings
from delivery import answer as delivery
from engines.base import End, Frame, Plan, PlannedChunk, Turn, Voice
from request.errors import Cancelled, EngineError, EngineLost
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine, FakeSpeech
from worker import sdk_loop, startup

SECRET = "the-callers-secret-words"
PLAN = Plan((PlannedChunk((Turn(0, "Hi."),), 0),), (Voice("Alice"),))


def test_a_stream_worker_yields_pieces_and_then_the_facts() -> None:
    seen, kept = run_stream(stream=True, output_format="pcm", loudness=None, seed=3)
    *pieces, facts = seen
    assert [piece["index"] for piece in pieces] == list(range(len(pieces)))
    assert [piece["is_last"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    data = b"".join(base64.b64decode(piece["audio_chunk"]) for piece in pieces)
    assert len(data) == 48_000
    batch = run(output_format="pcm", loudness=None, seed=3)
    assert base64.b64decode(batch.pop("audio_base64")) == data
    for answer in (facts, batch):
        answer.pop("timings")
    assert facts == batch
    assert all(not item.get("audio_chunk") for item in kept)


def test_an_answer_says_what_it_cost(engine: FakeEngine, worker: VibeVoiceInference) -> None:
    engine.capabilities, engine.device_sec = replace(engine.capabilities, gpu=True), 2.5
    worker.settings = worker.settings.model_copy(update={"gpu_usd_per_second": 0.0004})
    for answer in (run(), run_stream(stream=True)[0][-1]):
        assert answer["timings"]["gpu_sec"] == 2.5
        assert answer["cost_usd"] == 0.001


def test_a_stream_workers_batch_answer_gets_its_audio_once_it_is_posted() -> None:
    (seen,), (kept,) = run_stream(output_format="pcm")
    assert "audio_base64" not in seen
    assert base64.b64decode(kept["audio_base64"])
    assert {**seen, "audio_base64": kept["audio_base64"]} == kept


def test_a_stream_that_fails_says_so_after_its_pieces(engine: FakeEngine) -> None:
    engine.audio = lambda _: np.full(48_000, 0.5, np.float32)
    engine.fail_at = 12
    seen, _ = run_stream(stream=True)
    assert all("audio_chunk" in item for item in seen[:-1])
    assert seen[-1] == {"error": "[engine_failed] the fake engine failed as it was told to"}


def test_facts_whose_post_was_lost_are_in_the_final_list_all_the_same() -> None:
    async def main() -> list[dict[str, Any]]:
        kept = []
        async for item in handler.stream_handler(
            {"id": "j", "input": {"text": "Hi.", "stream": True}}
        ):
            if "audio_chunk" not in item:
                item[sdk_loop.LOST] = True
            kept.append(item)
        return kept

    *_, facts = asyncio.run(main())
    assert facts["status"] == "success"
    assert sdk_loop.LOST not in facts


def test_a_bad_request_to_a_stream_worker_is_one_error() -> None:
    (seen,), _ = run_stream(stream=True, speed=99)
    assert seen["error"].startswith("[invalid_value] speed: 99")


def test_a_stream_is_kept_on_the_volume_too(tmp_path: Path) -> None:
    seen, _ = run_stream(stream=True, output_format="mp3", session_id="live")
    (copy,) = (tmp_path / "output").glob("live_*.mp3")
    data = b"".join(base64.b64decode(piece["audio_chunk"]) for piece in seen[:-1])
    assert copy.read_bytes() == data


def test_closing_a_stream_stops_the_engine(engine: FakeEngine) -> None:
    engine.audio = lambda _: np.full(3200 * 10_000, 0.5, np.float32)

    async def main() -> None:
        items = handler.stream_handler({"id": "j", "input": {"text": "Long.", "stream": True}})
        await anext(items)
        await items.aclose()

    asyncio.run(main())
    assert engine.speeches[0].cancelled


def test_a_stop_while_a_piece_is_posted_is_quiet_though_the_engine_needs_a_moment(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The SDK leaves its generator to the garbage collector, which closes it a second time."""
    posting = asyncio.Event()

    async def post(*_: Any) -> None:
        posting.set()
        await asyncio.Event().wait()

    class Slow(FakeSpeech):
        def __iter__(self) -> Iterator[Frame | End]:
            for event in super().__iter__():
                time.sleep(0.3)
                yield event

    speech = Slow(engine, PLAN)
    monkeypatch.setattr(engine, "start", lambda _: speech)
    monkeypatch.setattr(rp_job, "stream_result", post)
    problems: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
        fields = {"text": "Hi.", "stream": True, "output_format": "pcm", "loudness": None}
        job = {"id": "j", "input": fields}
        config = {"handler": handler.stream_handler, "return_aggregate_stream": True}
        working = asyncio.create_task(rp_job.handle_job(None, config, job))
        await posting.wait()
        working.cancel()
        del working
        for _ in range(10):
            gc.collect()
            await asyncio.sleep(0.1)

    asyncio.run(main())
    assert speech.cancelled
    assert problems == []
    log = capfd.readouterr().out
    assert "cancelled" in log
    assert "internal error" not in log


def run_stream(**fields: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is posted of a stream worker's items, and what is left of them in the final list."""

    async def main() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        posted, kept = [], []
        job = {"id": "job-1", "input": {"text": SECRET, **fields}}
        async for item in handler.stream_handler(job):
            posted.append(dict(item))
            kept.append(item)
        return posted, kept

    return asyncio.run(main())


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(audio=lambda _: np.full(24_000, 0.5, np.float32))


@pytest.fixture(autouse=True)
def worker(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VibeVoiceInference]:
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)})
    inference = VibeVoiceInference(settings, engine)
    monkeypatch.setattr(handler, "settings", lambda: settings)
    monkeypatch.setattr(handler, "inference", lambda: inference)
    yield inference
    inference.close()


def run(**fields: Any) -> dict[str, Any]:
    return asyncio.run(handler.handler({"id": "job-1", "input": {"text": SECRET, **fields}}))


def test_an_answer_carries_audio_and_the_facts_about_it(tmp_path: Path) -> None:
    answer = run(output_format="pcm", loudness=None, seed=3)
    samples = np.frombuffer(base64.b64decode(answer.pop("audio_base64")), "<i2")
    assert len(samples) == 24_000
    timings = answer.pop("timings")
    assert all(isinstance(seconds, float) for seconds in timings.values())
    assert answer == {
        "status": "success",
        "sample_rate": 24000,
        "duration_sec": 1.0,
        "format": "pcm",
        "content_type": "audio/pcm",
        "engine": "fake",
        "voice": "Alice",
        "seed": 3,
        "gain_db": None,
        "chunks": [
            {
                "index": 0,
                "text_start": 0,
                "text_end": len(SECRET),
                "start_sec": 0.0,
                "end_sec": 1.0,
                "attempts": 1,
                "truncated": False,
            }
        ],
        "warnings": [],
    }
    (copy,) = (tmp_path / "output").iterdir()
    assert copy.name.startswith("job-1_")


def test_so_many_chunks_that_runpod_would_refuse_the_answer_are_left_out(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "facts_limit", lambda _: 10_000)
    engine.audio = lambda _: np.full(2400, 0.5, np.float32)
    whole, short = (run(text="A.[pause:9ms]" * count, loudness=None) for count in (50, 100))
    assert len(whole["chunks"]) == 50
    assert whole["warnings"] == []
    assert short["chunks"] == []
    assert short["warnings"] == ["chunks: left out, there are too many"]
    assert base64.b64decode(short["audio_base64"])


def test_warnings_of_every_layer_come_back() -> None:
    warnings = run(nobody=1, stream=True, speakers=["A"], loudness=None)["warnings"]
    assert [warning.split(":")[0] for warning in warnings] == ["'nobody'", "stream", "speakers"]


@pytest.mark.parametrize("job", [{"id": "x"}, {"id": "x", "input": None}, {"input": []}, {}])
def test_a_job_without_an_input_is_refused(job: dict[str, Any]) -> None:
    assert asyncio.run(handler.handler(job))["error"].startswith("[invalid_type] input: is ")


def test_an_engine_failure_is_told_in_its_words(engine: FakeEngine) -> None:
    engine.fail_at = 0
    assert run() == {"error": "[engine_failed] the fake engine failed as it was told to"}


def test_a_lost_engine_asks_runpod_for_another_worker(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: Any) -> Any:
        raise EngineLost("the GPU failed; the worker is replaced")

    monkeypatch.setattr(engine, "start", lost)
    assert run() == {
        "error": "[worker_unavailable] the GPU failed; the worker is replaced",
        "refresh_worker": True,
    }


@pytest.mark.parametrize(("pod", "ends"), [("pod-1", [signal.SIGTERM]), ("", [])])
def test_a_lost_engine_ends_a_stream_worker_only_where_runpod_begins_another(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, pod: str, ends: list[signal.Signals]
) -> None:
    def lost(_: Any) -> Any:
        raise EngineLost("the GPU failed")

    sent: list[int] = []
    monkeypatch.setenv("RUNPOD_POD_ID", pod)
    monkeypatch.setattr(engine, "start", lost)
    monkeypatch.setattr(os, "kill", lambda _, signum: sent.append(signum))
    (seen,), _ = run_stream(stream=True)
    assert seen == {"error": "[worker_unavailable] the GPU failed", "refresh_worker": True}
    assert sent == ends


def test_preloading_loads_the_model_and_tells_what_went_wrong(
    engine: FakeEngine,
    worker: VibeVoiceInference,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    worker.settings = worker.settings.model_copy(update={"preload_models": ("",)})
    startup.preload(handler.inference(), handler.log())
    assert engine.ready
    (speech,) = engine.speeches  # the warm-up
    assert speech.plan.options.min_frames == 3

    def broken() -> None:
        raise EngineError("MODEL_PATH: there is no model")

    monkeypatch.setattr(engine, "load", broken)
    engine.ready = False
    startup.preload(handler.inference(), handler.log())
    assert "the model is not loaded: MODEL_PATH: there is no model" in capfd.readouterr().out


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.CRITICAL])
def test_what_an_engine_logs_reaches_runpods_log(
    level: int, capfd: pytest.CaptureFixture[str]
) -> None:
    record = logging.LogRecord("vibevoice", level, "", 0, "ready: %s", ("cpu",), None)
    startup._ToRunPod(handler.log()).emit(record)
    assert "ready: cpu" in capfd.readouterr().out


def test_a_volume_that_cannot_be_written_to_makes_the_worker_unfit(
    worker: VibeVoiceInference, tmp_path: Path
) -> None:
    check = startup.volume_check(worker)
    check()
    assert list((tmp_path / "output").iterdir()) == []
    (tmp_path / "output").rmdir()
    (tmp_path / "output").write_text("in the way")
    with pytest.raises(RuntimeError, match=r"^the volume cannot be written to: "):
        check()


def test_a_full_volume_keeps_no_probe(
    worker: VibeVoiceInference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), data.decode())

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RuntimeError, match=r"cannot be written to: No space left on device$"):
        startup.volume_check(worker)()
    assert list((tmp_path / "output").iterdir()) == []


def test_workers_that_start_at_the_same_time_find_the_volume_writable(
    worker: VibeVoiceInference,
) -> None:
    check = startup.volume_check(worker)
    with ThreadPoolExecutor(8) as pool:
        for checked in [pool.submit(check) for _ in range(400)]:
            checked.result()


def test_no_volume_at_all_is_fine(worker: VibeVoiceInference, tmp_path: Path) -> None:
    tmp_path.rmdir()
    startup.volume_check(worker)()
    assert not tmp_path.exists()
    tmp_path.mkdir()


def test_an_engine_that_cannot_work_makes_the_worker_unfit(
    worker: VibeVoiceInference, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit() -> None:
        raise EngineError("MODEL_PATH: weights are missing")

    startup.engine_check(worker)()
    monkeypatch.setattr(engine, "check", unfit)
    with pytest.raises(EngineError, match="weights are missing"):
        startup.engine_check(worker)()


def test_an_engine_that_cannot_be_imported_leaves_word_for_the_next_start(
    worker: VibeVoiceInference,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note = tmp_path / ".failed-1"
    monkeypatch.setenv("VIBEVOICE_FAILED", str(note))

    def fail() -> None:
        try:
            ctypes.CDLL("/no/such/library.so")
        except OSError as problem:
            raise EngineError("torch cannot be imported") from problem

    monkeypatch.setattr(engine, "check", fail)
    with pytest.raises(EngineError):
        startup.engine_check(worker)()
    monkeypatch.setattr(engine, "load", fail)
    with pytest.raises(EngineError):
        worker.load_model()
    assert note.read_text().count("OSError: /no/such/library.so: cannot open") == 2


def test_what_the_model_is_comes_with_the_answer(engine: FakeEngine) -> None:
    engine.capabilities = replace(engine.capabilities, details={"weights": "test model"})
    assert run()["model"] == {"weights": "test model"}


def test_an_unforeseen_failure_tells_its_kind_and_nothing_else(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = "/secret" + "/path"

    def broken(plan: Any) -> Any:
        raise RuntimeError(f"{path} {plan.chunks}")

    monkeypatch.setattr(engine, "start", broken)
    assert run() == {
        "error": "[internal_error] internal error (RuntimeError); see the worker's log"
    }
    log = capfd.readouterr().out
    assert "RuntimeError" in log
    assert "job-1" in log
    assert SECRET not in log
    assert path not in log


def test_a_full_disk_is_named(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> Any:
        raise OSError(28, "No space left on device", "/somewhere/secret")

    monkeypatch.setattr(engine, "start", full)
    sentence = "internal error (OSError: No space left on device); see the worker's log"
    assert run() == {"error": f"[internal_error] {sentence}"}


def test_no_text_and_no_voice_file_reaches_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    run(request_id="trace-7", pronunciations={"hush": SECRET}, speed=99)
    run(request_id="trace-7", speaker_name=SECRET)
    log = capfd.readouterr().out
    assert "trace-7" in log
    assert SECRET not in log


def test_audio_that_does_not_fit_fails_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "INLINE_LIMIT", 1000)
    error = run(output_format="wav", session_id="big")["error"]
    (copy,) = (tmp_path / "output").iterdir()
    assert error.endswith(f"It is kept as output/{copy.name} in VIBEVOICE_VOLUME")
    assert copy.stat().st_size == 44 + 48_000


def test_what_does_not_reach_its_caller_becomes_opus_without_another_synthesis(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "INLINE_LIMIT", 20_000)
    answer = run(output_format="wav", allow_recompress=True, loudness=None)
    assert (answer["format"], answer["content_type"]) == ("opus", "audio/opus")
    assert base64.b64decode(answer["audio_base64"])[:4] == b"OggS"
    assert answer["warnings"] == ["output_format: wav would have had 0.0 MB, so it is opus"]
    assert len(engine.speeches) == 1


def test_a_finished_file_is_kept_where_the_smaller_one_cannot_be_made(
    tmp_path: Path,
    worker: VibeVoiceInference,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(delivery, "INLINE_LIMIT", 1000)
    monkeypatch.setattr(worker, "shrink", full)
    error = run(output_format="wav", allow_recompress=True)["error"]
    (copy,) = (tmp_path / "output").iterdir()
    assert error.startswith("[audio_too_large] ")
    assert error.endswith(f"It is kept as output/{copy.name} in VIBEVOICE_VOLUME")
    assert copy.stat().st_size == 44 + 48_000
    assert "no smaller file could be made: No space left on device" in capfd.readouterr().out


def test_a_job_that_must_fit_is_refused_before_it_is_spoken(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "INLINE_LIMIT", 100_000)
    fields = {"text": "Seven seconds. " * 8, "output_format": "wav", "must_fit": True}
    error = run(**fields)["error"]
    assert error.startswith("[audio_too_large] output_format: the audio will have about 0.")
    assert error.endswith("(allowed: opus, aac, a shorter text)")
    assert engine.speeches == []
    assert run(**fields | {"output_format": "opus"})["status"] == "success"


@pytest.mark.parametrize("phase", ["reaches", "deliver"])
def test_cancelling_a_job_ends_its_upload_and_waits_for_that(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    uploading = threading.Event()
    ended: list[bool] = []

    def upload(_: Any, path: Path, __: str, cancelled: Callable[[], bool]) -> Any:
        uploading.set()
        while not cancelled():
            time.sleep(0.01)
        ended.append(path.exists())
        raise Cancelled

    monkeypatch.setattr(delivery.Delivery, phase, upload)
    job = {"id": "j", "input": {"text": "Hi.", "output_format": "wav", "allow_recompress": True}}

    async def main() -> None:
        task = asyncio.create_task(handler.handler(job))
        await asyncio.to_thread(uploading.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == [True]


def test_old_copies_are_removed(tmp_path: Path) -> None:
    run()
    (old,) = (tmp_path / "output").iterdir()
    os.utime(old, (0, 0))
    run()
    assert handler.cleanup_old_files() == 1
    assert old not in (tmp_path / "output").iterdir()
    assert len(list((tmp_path / "output").iterdir())) == 1


def test_a_cleanup_that_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(delivery, "cleanup_old_files", broken)
    assert handler.cleanup_old_files() == 0
    assert "old copies could not be removed: Permission denied" in capfd.readouterr().out


def test_a_cancelled_job_stops_the_engine_and_is_reported_as_cancelled(engine: FakeEngine) -> None:
    engine.delay = 0.05
    engine.audio = lambda _: np.full(3200 * 500, 0.5, np.float32)

    async def main() -> None:
        task = asyncio.create_task(handler.handler({"id": "j", "input": {"text": "Long."}}))
        while not engine.speeches:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert engine.speeches[0].cancelled


@pytest.mark.parametrize("phase", ["LoudnessMeter.add", "Encoder.encode"])
def test_a_job_that_is_stopped_after_its_synthesis_ends_early_and_leaves_nothing(
    tmp_path: Path, worker: VibeVoiceInference, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    steps = 0
    kind, step = phase.split(".")
    held_by = {"LoudnessMeter": LoudnessMeter, "Encoder": Encoder}[kind]
    real = getattr(held_by, step)

    def slow(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        time.sleep(0.1)
        return real(*args)

    monkeypatch.setattr(held_by, step, slow)
    text = "One. [pause] " * 100

    async def main() -> None:
        task = asyncio.create_task(handler.handler({"id": "j", "input": {"text": text}}))
        while not steps:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert steps <= 3
    assert list(tmp_path.rglob("j_*")) == []
    assert list(Path(worker._folder.name).iterdir()) == []


def test_the_worker_does_not_start_with_bad_settings(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, handler.__file__],
        cwd=tmp_path,
        env=os.environ | {"ENGINE": "sox", "MAX_CHUNK_CHARS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert re.search("The worker cannot start:\nENGINE: .*\nMAX_CHUNK_CHARS: ", run.stderr)


SCRIPT = "Speaker 3: Good morning. [pause:500ms]\nSpeaker 1: It costs $5."


def test_a_dry_run_says_what_would_be_read_and_speaks_nothing(engine: FakeEngine) -> None:
    answer = run(text=SCRIPT, dry_run=True, nonsense=1)
    assert [chunk.pop("expected_sec") > 0 for chunk in answer["chunks"]] == [True, True]
    assert 1 < answer.pop("expected_sec") < 4
    assert answer == {
        "status": "success",
        "dry_run": True,
        "lead_ms": 0,
        "chunks": [
            {
                "index": 0,
                "text_start": 0,
                "text_end": 38,
                "pause_ms": 500,
                "turns": [{"speaker": 3, "voice": "Alice", "text": "Good morning."}],
            },
            {
                "index": 1,
                "text_start": 39,
                "text_end": 62,
                "pause_ms": 0,
                "turns": [{"speaker": 1, "voice": "Frank", "text": "It costs 5 dollars."}],
            },
        ],
        "speakers": {"3": "Alice", "1": "Frank"},
        "warnings": ["'nonsense': unknown field, ignored"],
    }
    assert (engine.ready, engine.speeches) == (False, [])


def test_a_dry_run_dials_no_address_and_refuses_what_a_job_refuses() -> None:
    answer = run(dry_run=True, voice_url="http://192.0.2.1/voice.wav")
    assert answer["chunks"][0]["turns"][0]["voice"] == "voice_url"
    assert run(dry_run=True, speed=9)["error"] == run(speed=9)["error"]
    bad = {"voice_base64": "AAAA"}
    assert run(dry_run=True, **bad)["error"] == run(**bad)["error"]


def test_a_stream_worker_gives_a_dry_run_in_one_piece() -> None:
    seen, _ = run_stream(text=SCRIPT, dry_run=True, stream=True)
    assert seen == [run(text=SCRIPT, dry_run=True)]


def test_a_stream_worker_refuses_a_dry_run_that_runpod_would_not_take() -> None:
    text = "a[pause]" * 12_000
    (answer,), _ = run_stream(text=text, dry_run=True)
    assert answer == {
        "error": "[invalid_value] text: is read in 12000 chunks, too many for one stream item "
        "(allowed: a plan below 1 MB: send it in parts)"
    }
    assert len(run(text=text, dry_run=True)["chunks"]) == 12_000


def test_a_dry_run_whose_post_was_lost_is_in_the_final_list_all_the_same() -> None:
    async def main() -> dict[str, Any]:
        job = {"id": "job-1", "input": {"text": SCRIPT, "dry_run": True}}
        async for item in handler.stream_handler(job):
            item[sdk_loop.LOST] = True
        return item

    assert asyncio.run(main()) == run(text=SCRIPT, dry_run=True)


@pytest.mark.parametrize("text", [".", "...", "\N{THUMBS UP SIGN}", "---", '"..."', "?!"])
def test_a_text_without_a_word_is_silence_and_a_warning(engine: FakeEngine, text: str) -> None:
    answer = run(text=text, output_format="pcm")
    assert base64.b64decode(answer["audio_base64"]) == bytes(2 * 7200)
    assert (answer["duration_sec"], answer["chunks"]) == (0.3, [])
    assert answer["warnings"] == ["text: holds nothing that can be spoken, so the answer is silent"]
    assert (engine.ready, engine.speeches) == (False, [])
    pieces, _ = run_stream(text=text, output_format="pcm", stream=True)
    assert b"".join(base64.b64decode(each.get("audio_chunk", "")) for each in pieces) == bytes(
        14_400
    )
    assert pieces[-1]["warnings"] == answer["warnings"]
    assert run(text=text, dry_run=True)["expected_sec"] == 0.3


@pytest.mark.parametrize("form", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_silence_comes_in_every_format(form: str) -> None:
    answer = run(text="...", output_format=form)
    assert (answer["format"], answer["duration_sec"]) == (form, 0.3)
    assert answer["audio_base64"]
