"""The VibeVoice engine: finds upstream's code and a model, and loads a runtime.

The fast runtime (`fast/`) generates many chunks at once by our own forward pass. The reference
runtime (`reference.py`) runs upstream's `generate`, one chunk at a time. Both have the same
interface.
"""

import functools
import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from engines.base import Capabilities, Plan, Speech
from engines.vibevoice import checkpoint as checkpoints
from engines.vibevoice.code import Upstream, find_code, import_code
from engines.vibevoice.fast.graph_shape import CPU_SLOTS, MOST_SLOTS
from engines.vibevoice.hub import PLATFORM_CACHE, Hub, commit_of
from request.errors import EngineLost

if TYPE_CHECKING:
    import torch

    from engines.vibevoice.fast.runtime import Choices

RuntimeName = Literal["fast", "reference"]
Attention = Literal["sdpa", "flash"]

_ATTENTIONS = {"flash": "flash_attention_2", "sdpa": "sdpa", None: None}
"""Their names in transformers."""

log = logging.getLogger("vibevoice")


class Runtime(Protocol):
    """A loaded model. `lost` is the error after which it no longer works, or None."""

    lost: EngineLost | None

    @property
    def details(self) -> Mapping[str, str]: ...

    @property
    def figures(self) -> Mapping[str, float]: ...

    def start(self, plan: Plan) -> Speech: ...

    def close(self) -> None: ...


class VibeVoiceEngine:
    """VibeVoice, loaded at the first `load` or `start`.

    `model` is a folder, or a hub id of which `revision` is used. `code` is a clone of upstream; by
    default the one in `volume`, else the installed package. `Hub.of` says where models are searched
    and where they are downloaded to.
    `slots` is the most chunks that the fast runtime generates at once; by default as many as fit
    into memory. Where the fast runtime cannot run the model, the reference does. The reason is in
    the log and in `details`.
    """

    name = "vibevoice"
    setting = "MODEL_PATH"

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
        runtime: RuntimeName = "fast",
        slots: int | None = None,
        attention: Attention | None = None,
        graphs: bool = True,
        platform_cache: Path = PLATFORM_CACHE,
    ) -> None:
        self._model = model
        self._revision = revision
        self._code = code
        self._volume = volume
        self._hub = Hub.of(volume, hub_cache, token, platform_cache, further_caches)
        self._device = device
        self._attention = attention
        self._graphs = graphs
        self._details = {"model": Path(model).name if Path(model).is_dir() else model}
        self._on_gpu = False
        self._runtime_name: RuntimeName = runtime
        self._slots = slots
        self._guard = threading.Lock()
        self._loading: Future[Runtime] | None = None
        self._runtime: Runtime | None = None
        self._lost: EngineLost | None = None
        self._speeches: weakref.WeakSet[Speech] = weakref.WeakSet()

    @property
    def capabilities(self) -> Capabilities:
        runtime = self._runtime
        return Capabilities(
            self.name,
            cloning=True,
            varies=True,
            jobs=self._jobs,
            gpu=self._on_gpu,
            details={**self._details, **(runtime.details if runtime else {})},
            figures=runtime.figures if runtime else {},
        )

    def inspect(self) -> Capabilities:
        return self.capabilities

    @functools.cached_property
    def _jobs(self) -> int:
        """A quarter of the slots, so that the chunks of a long text run side by side."""
        if self._runtime_name == "reference":
            return 1
        from engines.vibevoice.loader import choose_device

        on_cpu = choose_device(self._device).type == "cpu"
        return max(2, (self._slots or (CPU_SLOTS if on_cpu else MOST_SLOTS)) // 4)

    @property
    def ready(self) -> bool:
        return self._runtime is not None and self._fatal() is None

    @property
    def lost(self) -> bool:
        return self._fatal() is not None

    def _fatal(self) -> EngineLost | None:
        return self._lost or (self._runtime.lost if self._runtime is not None else None)

    def check(self) -> None:
        """Checks the code and the GPU, and of a model on a disk its files and memory needs.

        Raises `EngineError`.
        """
        from engines.vibevoice.loader import check_room

        find_code(self._code, self._volume)
        device = self._card()
        folder = self._hub.local(self._model, self.setting, self._inspect, self._revision)
        if folder is None:
            log.warning(
                "%s: %s is on no disk yet and will be downloaded", self.setting, self._model
            )
        elif self._runtime is None:
            check_room(self._inspect(folder), device)

    def load(self) -> None:
        """Loads the model. Single-flight: calls meanwhile wait for the same outcome.

        After a failure the next call loads again. Raises `EngineError`.
        """
        self._loaded()

    def _loaded(self) -> Runtime:
        with self._guard:
            if (lost := self._fatal()) is not None:
                raise EngineLost(lost.problems)
            first = self._loading is None
            if self._loading is None:
                self._loading = Future()
            loading = self._loading
        if first:
            try:
                runtime = self._load()
            except BaseException as error:
                with self._guard:
                    self._loading = None
                    if isinstance(error, EngineLost):
                        self._lost = error
                loading.set_exception(error)
                raise
            self._runtime = runtime
            loading.set_result(runtime)
        return loading.result()

    def _load(self) -> Runtime:
        self._details = {"model": self._details["model"]}
        code = find_code(self._code, self._volume)
        log.info("code: %s %s", code.version, code.folder or "")
        upstream = import_code(code)
        device = self._card()
        checkpoint, tokenizer = checkpoints.find(
            self._hub, self._model, self._revision, self.setting, self._inspect
        )
        runtime = self._load_runtime(upstream, checkpoint, str(tokenizer), device)
        self._details |= {
            "code": code.version,
            "weights": f"{checkpoint.parameters / 1e6:,.1f} million parameters",
            **runtime.details,
        }
        if commit := commit_of(checkpoint.folder):
            self._details["revision"] = commit
        log.info("ready: %s", ", ".join(f"{key} {value}" for key, value in self._details.items()))
        return runtime

    def _card(self) -> "torch.device":
        """The model's device. Raises `EngineError` for an unfit one, before any download."""
        from engines.vibevoice.loader import check_card, choose_device

        device = choose_device(self._device)
        self._on_gpu = device.type == "cuda"
        check_card(device)
        return device

    def _load_runtime(
        self,
        upstream: Upstream,
        checkpoint: checkpoints.Checkpoint,
        tokenizer: str,
        device: "torch.device",
    ) -> Runtime:
        from engines.vibevoice.architecture import Unsupported
        from engines.vibevoice.failures import free_memory

        if self._runtime_name == "fast":
            try:
                return self._load_fast(upstream, checkpoint, tokenizer, device)
            except Unsupported as reason:
                log.warning("the reference runtime is used: %s", reason)
                self._details["fallback"] = str(reason)
            free_memory()  # only now does no exception refer to the failed attempt's weights
        return self._load_reference(upstream, checkpoint, tokenizer, device)

    def _load_fast(
        self,
        upstream: Upstream,
        checkpoint: checkpoints.Checkpoint,
        tokenizer: str,
        device: "torch.device",
    ) -> Runtime:
        from engines.vibevoice.fast.runtime import load_fast

        return load_fast(upstream, checkpoint, tokenizer, device, self._choices)

    def _load_reference(
        self,
        upstream: Upstream,
        checkpoint: checkpoints.Checkpoint,
        tokenizer: str,
        device: "torch.device",
    ) -> Runtime:
        from engines.vibevoice.loader import load_model
        from engines.vibevoice.reference import Reference

        attention = _ATTENTIONS[self._attention]
        reference = Reference(load_model(upstream, checkpoint, tokenizer, device, attention))
        if device.type == "cuda":
            reference.make_trial()
        return reference

    @staticmethod
    def _inspect(folder: Path) -> checkpoints.Checkpoint:
        return checkpoints.inspect(folder)

    @property
    def _choices(self) -> "Choices":
        from engines.vibevoice.fast.runtime import Choices

        return Choices(self._slots, self._attention, self._graphs)

    def start(self, plan: Plan) -> Speech:
        speech = self._loaded().start(plan)
        self._speeches.add(speech)
        return speech

    def close(self) -> None:
        """Ends all speeches and frees the model; `load` loads it again."""
        for speech in list(self._speeches):
            speech.cancel()
        with self._guard:
            runtime, self._runtime, self._loading = self._runtime, None, None
        if runtime is not None:
            self._lost = runtime.lost or self._lost
            runtime.close()
            del runtime
            from engines.vibevoice.failures import free_memory

            free_memory()
