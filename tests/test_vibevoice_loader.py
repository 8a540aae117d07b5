"""Choices that only a machine with a GPU makes, with the GPU's part played."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from request.errors import EngineError
from tests import vibevoice_fixtures as vibevoice

torch = vibevoice.torch
from engines.vibevoice import loader  # noqa: E402 - imports torch
from engines.vibevoice.checkpoint import inspect  # noqa: E402
from engines.vibevoice.engine import VibeVoiceEngine  # noqa: E402

CUDA = torch.device("cuda")


class Weights:
    """Stands for upstream's model class and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def from_pretrained(self, _: object, **options: Any) -> str:
        self.asked.append((options["attn_implementation"], options["torch_dtype"]))
        return "network"


def load(weights: Weights, attention: str | None = None) -> Any:
    upstream: Any = SimpleNamespace(Model=weights)
    checkpoint = inspect(vibevoice.checkpoint())
    return loader._load_weights(upstream, checkpoint, None, CUDA, torch.bfloat16, attention)


def flash_attention(patch: pytest.MonkeyPatch, attend: Any) -> None:
    vibevoice.checkpoint()  # imports all that would look for a real one
    patch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=attend))
    zeros = torch.zeros
    patch.setattr(torch, "zeros", lambda *shape, **_: zeros(*shape))


def test_a_gpu_with_flash_attention_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attention(monkeypatch, lambda *tokens: tokens[2])
    weights = Weights()
    assert load(weights) == "network"
    assert weights.asked == [("flash_attention_2", torch.bfloat16)]


def test_flash_attention_without_this_gpus_kernels_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def attend(*_: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    flash_attention(monkeypatch, attend)
    weights = Weights()
    assert load(weights) == "network"
    assert weights.asked == [("sdpa", torch.bfloat16)]
    assert "sdpa instead of flash_attention_2: CUDA error: no kernel image" in caplog.text


def test_another_attention_that_is_asked_for_is_used_untried() -> None:
    weights = Weights()
    load(weights, "eager")
    assert weights.asked == [("eager", torch.bfloat16)]


def test_a_model_that_does_not_fit_on_the_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 29, 80 << 30))
    checkpoint = inspect(vibevoice.checkpoint())
    loader.check_room(checkpoint, CUDA)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 29, 80 << 30))
    with pytest.raises(EngineError, match=r"1\.0 GiB and 0\.5 GiB of GPU memory .* larger GPU"):
        loader.check_room(checkpoint, CUDA)


def test_a_gpu_that_is_too_old_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(EngineError, match=r"the GPU Tesla T4 has compute capability 7\.5, and .*8"):
        loader.check_card(CUDA)
    loader.check_card(torch.device("cpu"))
    for fine in ((8, 0), (8, 9), (10, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, fine=fine: fine)
        loader.check_card(CUDA)


def test_a_gpu_that_is_too_old_is_refused_before_a_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    engine = VibeVoiceEngine("some/Model", volume=vibevoice.volume(), device="cuda")
    monkeypatch.setattr(engine, "_hub", None)
    for call in (engine.load, engine.check):
        with pytest.raises(EngineError, match="Tesla T4"):
            call()


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loader.choose_device("auto") == CUDA
    assert loader.choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loader.choose_device("auto") == torch.device("cpu")
