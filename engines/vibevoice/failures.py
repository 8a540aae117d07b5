"""What a GPU's errors mean for the job and for the worker."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from speech.errors import EngineError, EngineLost

T = TypeVar("T")

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_POISONED = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS_", "CUDNN_STATUS_")


def meaning(error: RuntimeError) -> EngineError | None:
    """The error that a job reports instead, or None if this is none of the device's."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(mark in text for mark in _OUT_OF_MEMORY):
        return EngineError(
            "the model ran out of memory: send a shorter text or shorter voice recordings, or run"
            " the worker on a larger GPU"
        )
    # After such an error every later call fails as well, in this process.
    if isinstance(error, torch.AcceleratorError) or any(mark in text for mark in _POISONED):
        return EngineLost("the GPU failed and this worker has to be replaced: send the job again")
    return None


def free_memory() -> None:
    """Gives unused memory back. Call it where no exception holds on to tensors any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def loaded(load: Callable[[], T]) -> T:
    """What `load` gives. Raises the device's failures in our words, with its memory given back."""
    try:
        return load()
    except RuntimeError as error:
        failure = meaning(error)
        if failure is None:
            raise
    free_memory()
    if isinstance(failure, EngineLost):
        raise failure
    raise EngineError(
        "the model ran out of memory while it was loaded: set fewer MAX_SLOTS or run the worker on"
        " a larger GPU"
    )
