"""Translates a GPU's errors: out of memory, unsupported, or a broken device."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from engines.vibevoice.architecture import Unsupported
from request.errors import EngineError, EngineLost

T = TypeVar("T")

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_NO_KERNELS = ("no kernel image is available", "CUBLAS_STATUS_ARCH_MISMATCH")
_UNSUPPORTED = (  # one kernel cannot do it; the device still works
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_BAD_PARAM",
    "CUBLAS_STATUS_NOT_SUPPORTED",
    "unable to find an engine",
    "No available kernel",
)
_POISONED = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS_", "CUDNN_STATUS_")

log = logging.getLogger("vibevoice")


def meaning(error: RuntimeError) -> EngineError | None:
    """The error that a request reports instead, or None if it is no error of the device."""
    text = str(error)
    if _is_memory(error):
        return EngineError(
            "the model ran out of memory: send a shorter text or shorter voice recordings, or run"
            " the worker on a larger GPU"
        )
    if any(mark in text for mark in _NO_KERNELS):
        return EngineError(
            "this build of PyTorch has no kernels for the worker's GPU: choose another GPU, or"
            " packages that are built for it (REQUIREMENTS_FILE)"
        )
    if any(mark in text for mark in _UNSUPPORTED):
        return Unsupported(f"the GPU cannot take a step of the model ({first_line(error)})")
    # After such an error every later CUDA call in this process fails too.
    if isinstance(error, torch.AcceleratorError) or any(mark in text for mark in _POISONED):
        return EngineLost("the GPU failed and the engine has to be replaced: send the job again")
    return None


def failure_of(error: Exception) -> Exception:
    """The error that the reader of a speech gets."""
    return (meaning(error) if isinstance(error, RuntimeError) else None) or error


def loss_of(error: BaseException) -> EngineLost:
    """The `EngineLost` that ends the loop, for a broken device or any unexpected error."""
    meant = meaning(error) if isinstance(error, RuntimeError) else error
    if isinstance(meant, EngineLost):
        return meant
    log.error("the frame loop has broken off", exc_info=error)
    return EngineLost(
        "the frame loop broke off and the engine has to be replaced: send the job again"
    )


def _is_memory(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(mark in text for mark in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Frees unused memory. Call it where no exception's traceback refers to tensors any more."""
    gc.collect()
    if torch.cuda.is_available():
        empty_cache()


def empty_cache() -> None:
    """Frees torch's cached device memory. Never raises, since the worker can serve without it."""
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:
        log.warning("GPU memory that is not in use stays taken: %s", first_line(error))


def free_device_memory(device: torch.device) -> int:
    """The free memory of a device in bytes, including torch's cache of freed tensors."""
    empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def loaded(load: Callable[[], T]) -> T:
    """The result of `load`. A device's failure is raised as `EngineError`, its memory freed."""
    try:
        return load()
    except RuntimeError as error:
        failure = meaning(error)
        if failure is None:
            raise
        if _is_memory(error):
            failure = EngineError(
                "the model ran out of memory while it was loaded: set fewer MAX_SLOTS or run the"
                " worker on a larger GPU",
                code="out_of_memory",
            )
    free_memory()
    raise failure
