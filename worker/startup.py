"""The start of a worker before its first job: fitness checks, logs, preloading, a summary.

The SDK runs the fitness checks on RunPod only, and RunPod replaces a worker that fails one.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import runpod

from provision.in_use import mark_in_thread
from request.errors import SpeechError
from synthesis.inference import VibeVoiceInference, process_age_sec


def prepare(inference: VibeVoiceInference, log: Any) -> None:
    """Sets up logs and checks, starts preloading, and logs the duration of the start in seconds.

    The duration counts from the start of the process. bootstrap.sh execs the worker, so its own run
    is included.
    """
    # The SDK logs whole answers with their audio at its default level.
    log.set_level(inference.settings.runpod_log_level)
    engines = logging.getLogger("vibevoice")
    engines.handlers, engines.propagate = [_ToRunPod(log)], False
    engines.setLevel(logging.INFO)
    runpod.serverless.register_fitness_check(volume_check(inference))
    runpod.serverless.register_fitness_check(engine_check(inference))
    mark_in_thread()
    imported_sec, imported = process_age_sec(), time.monotonic()
    voices = inference.voices.names()
    for problem in inference.voices.problems():
        log.warn(problem)
    if not voices:
        log.warn("there are no voices: the model's own speaks")
    if inference.settings.preload_models:
        preloading = threading.Thread(target=preload, args=(inference, log), daemon=True)
        preloading.start()
    inference.note_start()
    summary = {
        "engine": inference.engine.capabilities.name,
        "models": [brief(inference, name) for name in inference.models.names.ids],
        "voices": len(voices),
        "volume": inference.settings.vibevoice_volume.is_dir(),
        "start_sec": round(imported_sec, 2),
        "voices_sec": round(time.monotonic() - imported, 2),
    }
    log.info(f"started: {json.dumps(summary)}")


def brief(inference: VibeVoiceInference, name: str) -> dict[str, Any]:
    """What a model can do, with the number of its voices: their names would fill the log."""
    described = inference.models.described(name)
    return described | {"voices": len(described["voices"])}


def every(
    seconds: float, work: Callable[[], object], ended: threading.Event | None = None
) -> threading.Thread:
    """Calls `work` now and then every `seconds` until `ended`, in a daemon thread.

    In a thread, because a scan of thousands of files on a network volume takes seconds.
    """
    ending = ended or threading.Event()

    def repeat() -> None:
        work()
        while not ending.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    return thread


def preload(inference: VibeVoiceInference, log: Any) -> None:
    """Loads the models of PRELOAD_MODELS. A failure is logged; the first job loads again and gets
    the error."""
    for name in inference.preloaded:
        start = time.monotonic()
        try:
            inference.preload(name)
        except SpeechError as error:
            log.error(f"the model is not loaded: {error}")
        else:
            told = {"model": name, "load_sec": round(time.monotonic() - start, 2)}
            log.info(f"loaded: {json.dumps(told)}")


def volume_check(inference: VibeVoiceInference) -> Any:
    def volume_is_writable() -> None:
        """Fails where there is a volume that takes no files, since results would be lost."""
        volume = inference.settings.vibevoice_volume
        if not volume.is_dir():
            return
        # A random name and not the process id, which is the same in every container.
        probe = inference.settings.output_dir / f".probe-{uuid.uuid4().hex}"
        try:
            probe.parent.mkdir(exist_ok=True)
            try:
                probe.write_bytes(b"probe")
            finally:  # a full volume takes the name and not the bytes
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise RuntimeError(f"the volume cannot be written to: {error.strerror}") from error

    return volume_is_writable


def engine_check(inference: VibeVoiceInference) -> Any:
    def engine_can_work() -> None:
        inference.check()

    return engine_can_work


class _ToRunPod(logging.Handler):
    """A logging handler that forwards the engines' records to RunPod's logger."""

    _LEVELS: ClassVar = {"WARNING": "WARN", "CRITICAL": "ERROR"}

    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = self._LEVELS.get(record.levelname, record.levelname)
        self._log.log(record.getMessage(), level)
