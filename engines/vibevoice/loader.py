"""Loads upstream's model onto its device, after checks of the device, the memory and the tokens."""

import importlib
import logging
from typing import Any

import torch

from engines.memory import free_host_memory
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.code import Upstream
from engines.vibevoice.failures import loaded
from engines.vibevoice.model import Model
from request.errors import EngineError

_GIB = 1 << 30
_OLDEST = (8, 0)  # Ampere: older ones have no kernels for bfloat16
_ROOM = _GIB  # for all but the weights: the KV cache of a long chunk takes 0.2 GiB in the 7B

log = logging.getLogger("vibevoice")


def choose_device(wanted: str) -> torch.device:
    """The device by name; `auto` is the GPU where there is one, else the CPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def load_model(
    upstream: Upstream,
    checkpoint: Checkpoint,
    tokenizer_folder: str,
    device: torch.device,
    attention: str | None = None,
) -> Model:
    """Loads the weights: bfloat16 with flash attention on a GPU, float32 on a CPU.

    `attention` selects another implementation than the device's default. Raises `EngineError`.
    """
    dtype = dtype_for(device)
    check_room(checkpoint, device)
    tokenizer = upstream.Tokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    config = upstream.Config.from_pretrained(checkpoint.folder, local_files_only=True)
    # Upstream's class reads this key, whose default is tied, whatever the decoder's own key says.
    # With that default the published 7B would lose its output head. The weight files decide.
    config.tie_word_embeddings = checkpoint.tied
    network = loaded(lambda: _load_weights(upstream, checkpoint, config, device, dtype, attention))
    network.eval()
    for name in ("speech_scaling_factor", "speech_bias_factor"):
        if not torch.isfinite(getattr(network.model, name)):
            raise EngineError(f"MODEL_PATH: the model's {name} is not a number")
    check_tokens(tokenizer, config.decoder_config.vocab_size)
    return Model(network, tokenizer, checkpoint, upstream.AudioNormalizer())


def dtype_for(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def check_card(device: torch.device) -> None:
    """Raises `EngineError` where the GPU is too old."""
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        raise EngineError(
            f"the GPU {torch.cuda.get_device_name(device)} has compute capability"
            f" {capability[0]}.{capability[1]}, and VibeVoice needs 8.0 (Ampere) or newer: choose"
            " another GPU"
        )


def check_room(checkpoint: Checkpoint, device: torch.device) -> None:
    """Raises `EngineError` where the weights do not fit into the memory that is free."""
    needed = checkpoint.parameters * dtype_for(device).itemsize + _ROOM
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_host_memory()
    if free is not None and needed > free:
        raise EngineError(
            f"MODEL_PATH: the model needs {needed / _GIB:.1f} GiB and"
            f" {free / _GIB:.1f} GiB of {'GPU ' if on_gpu else ''}memory are free: use a larger"
            f" {'GPU' if on_gpu else 'machine or a GPU'}, or a smaller model",
            code="out_of_memory",
        )


def _load_weights(
    upstream: Upstream,
    checkpoint: Checkpoint,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None,
) -> Any:
    def load(implementation: str) -> Any:
        return upstream.Model.from_pretrained(
            checkpoint.folder,
            config=config,
            torch_dtype=dtype,
            attn_implementation=implementation,
            device_map=str(device),
            local_files_only=True,
        )

    wanted = attention or ("flash_attention_2" if device.type == "cuda" else "sdpa")
    if wanted != "flash_attention_2":
        return load(wanted)
    problem = _flash_problem(device)
    if problem is None:
        try:
            return load(wanted)
        except (ImportError, ValueError) as refusal:
            problem = refusal
    log.warning("attention: sdpa instead of flash_attention_2: %s", problem)
    return load("sdpa")


def _flash_problem(device: torch.device) -> Exception | None:
    """The error of a trial run of flash attention, or None where it works.

    A build without kernels for this GPU imports without an error and fails later.
    """
    if device.type != "cuda":
        return None
    try:
        flash_attn = importlib.import_module("flash_attn")
        token = torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16, device=device)
        flash_attn.flash_attn_func(token, token, token)
    except (ImportError, RuntimeError) as problem:
        return problem
    return None


def check_tokens(tokenizer: Any, vocabulary: int) -> None:
    marks = {
        tokenizer.speech_start_id,
        tokenizer.speech_end_id,
        tokenizer.speech_diffusion_id,
        tokenizer.eos_token_id,
    }
    if None in marks or len(marks) != 4 or max(len(tokenizer) - 1, *marks) >= vocabulary:
        raise EngineError("MODEL_PATH: the tokenizer is not the one that the model was made with")
