"""The reference engine: upstream's own `generate` behind the engine wall.

One chunk is generated at a time; jobs take turns chunk by chunk, in the order they came. Each
speech has a thread while it is iterated, and none before or after.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import Capabilities, End, Frame, Plan, Samples
from engines.line import Line
from engines.vibevoice import checkpoint as checkpoints
from engines.vibevoice.code import find_code, import_code
from engines.vibevoice.frames import Frames
from engines.vibevoice.hub import PLATFORM_CACHE, Hub, commit_of
from speech.errors import EngineLost

if TYPE_CHECKING:
    from engines.vibevoice.model import Model

log = logging.getLogger("vibevoice")


class VibeVoiceEngine:
    """VibeVoice, loaded at the first `load` or `start`.

    `model` is a hub id, of which `revision` is used, or a folder. `code` is a clone of upstream, by
    default the one in `volume` or else the installed package. Where models are looked for and
    downloaded to is said by `Hub.of`.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str = "main",
        code: Path | None = None,
        volume: Path | None = None,
        hub_cache: Path | None = None,
        further_caches: Sequence[Path] = (),
        token: str | None = None,
        device: str = "auto",
        attention: str | None = None,
        platform_cache: Path = PLATFORM_CACHE,
    ) -> None:
        self._name = model
        self._revision = revision
        self._code = code
        self._volume = volume
        self._hub = Hub.of(volume, hub_cache, token, platform_cache, further_caches)
        self._device = device
        self._attention = attention
        self._details = {"model": Path(model).name if Path(model).is_dir() else model}
        self._line = Line()
        self._guard = threading.Lock()
        self._loading: Future[Model] | None = None
        self._model: Model | None = None
        self._lost: EngineLost | None = None
        self._speeches: weakref.WeakSet[VibeVoiceSpeech] = weakref.WeakSet()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("vibevoice", cloning=True, varies=True, details=dict(self._details))

    @property
    def ready(self) -> bool:
        return self._model is not None and self._lost is None

    def check(self) -> None:
        """Looks for the code and, where the model is on a disk already, at its files and for the
        memory that it needs."""
        find_code(self._code, self._volume)
        folder = self._hub.local(self._name, "MODEL_PATH", checkpoints.inspect, self._revision)
        if folder is None:
            log.warning("MODEL_PATH: %s is on no disk yet and will be downloaded", self._name)
        elif self._model is None:
            from engines.vibevoice.loader import check_room, choose_device

            check_room(checkpoints.inspect(folder), choose_device(self._device))

    def load(self) -> None:
        """Loads the model once; whoever calls meanwhile waits for the same outcome. After a failure
        the next call tries again. Raises `EngineError`."""
        self._loaded()

    def _loaded(self) -> "Model":
        with self._guard:
            if self._lost is not None:
                raise EngineLost(str(self._lost))
            first = self._loading is None
            if self._loading is None:
                self._loading = Future()
            loading = self._loading
        if first:
            try:
                model = self._load()
            except BaseException as error:
                with self._guard:
                    self._loading = None
                    if isinstance(error, EngineLost):
                        self._lost = error
                loading.set_exception(error)
                raise
            self._model = model
            loading.set_result(model)
        return loading.result()

    def _load(self) -> "Model":
        code = find_code(self._code, self._volume)
        log.info("code: %s %s", code.version, code.folder or "")
        upstream = import_code(code)
        checkpoint, tokenizer = checkpoints.find(self._hub, self._name, self._revision)
        from engines.vibevoice.loader import choose_device, load_model

        model = load_model(
            upstream, checkpoint, str(tokenizer), choose_device(self._device), self._attention
        )
        size = f"{checkpoint.parameters / 1e6:,.1f} million parameters"
        self._details |= {
            "code": code.version,
            "weights": f"test model, {size}" if checkpoint.is_test_model else size,
            **model.details,
        }
        if commit := commit_of(checkpoint.folder):
            self._details["revision"] = commit
        log.info("ready: %s", ", ".join(f"{key} {value}" for key, value in self._details.items()))
        return model

    def start(self, plan: Plan) -> "VibeVoiceSpeech":
        speech = VibeVoiceSpeech(self._loaded(), self._line, plan, self._lose)
        self._speeches.add(speech)
        return speech

    def _lose(self, error: EngineLost) -> None:
        self._lost = error

    def close(self) -> None:
        """Ends all speeches and lets go of the model; `load` brings it back."""
        for speech in list(self._speeches):
            speech.cancel()
        with self._line.enter(threading.Event()), self._guard:
            loaded, self._model, self._loading = self._model is not None, None, None
        if loaded:
            from engines.vibevoice.failures import free_memory

            free_memory()


class VibeVoiceSpeech:
    """See `engines.base.Speech`."""

    def __init__(
        self, model: "Model", line: Line, plan: Plan, lose: Callable[[EngineLost], None]
    ) -> None:
        self._model = model
        self._line = line
        self._plan = plan
        self._lose = lose
        self._cancelled = threading.Event()
        self._frames = Frames()

    def cancel(self) -> None:
        self._cancelled.set()
        self._frames.close()
        self._line.wake()

    def __iter__(self) -> Iterator[Frame | End]:
        worker = threading.Thread(target=self._work, name="vibevoice", daemon=True)
        worker.start()
        try:
            yield from self._frames
        finally:
            self.cancel()
            worker.join()

    def _work(self) -> None:
        try:
            self._speak()
        except EngineLost as error:
            self._lose(error)
            self._frames.finish(error)
        except BaseException as error:  # noqa: BLE001 - raised again where the speech is read
            self._frames.finish(error)
        else:
            self._frames.finish()

    def _speak(self) -> None:
        plan, model = self._plan, self._model
        recordings = model.record([voice.samples for voice in plan.voices])
        for index, chunk in enumerate(plan.chunks):
            emit = partial(self._emit, index)
            with self._line.enter(self._cancelled):
                reason = model.speak(chunk, recordings, plan.options, emit, self._cancelled.is_set)
            self._frames.put(End(index, reason, chunk.seed))

    def _emit(self, index: int, samples: Samples) -> None:
        self._frames.put(Frame(index, samples))
