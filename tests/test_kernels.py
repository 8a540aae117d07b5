"""Which kernel does a piece of work: by error and by time, with a known clock in a GPU's place."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests import vibevoice_fixtures as vibevoice  # skips where torch is missing

from engines.vibevoice.fast.layers import kernels  # isort: skip
from engines.vibevoice.architecture import Unsupported  # isort: skip
from engines.vibevoice.fast.layers.codec import Codec  # isort: skip
from engines.vibevoice.fast.layers.depthwise import WAYS, Filter  # isort: skip
from engines.vibevoice.fast.layers.kernels import FLASH, SDPA, choose_attention, fastest  # isort: skip
from engines.vibevoice.fast.layers.weights import Weights  # isort: skip
from engines.vibevoice.fast.layers.kernels import (  # isort: skip
    device_seconds,
)
from tests.narrow_model import narrow_network, weights_of  # isort: skip

torch = vibevoice.torch

EXACT = torch.linspace(1, 2, 24).view(4, 6)
RIGHT = EXACT * 1.001
WRONG = torch.cat([EXACT[:3], EXACT[3:] * 1.03])  # in one row of four
REFUSED = RuntimeError("GET was unable to find an engine to execute this computation")


def random(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def error(ours: Any, theirs: Any) -> float:
    """Relative root mean square."""
    off = (ours.double() - theirs.double()).square().mean()
    return float((off / theirs.double().square().mean()).sqrt())


def way(out: Any) -> Callable[[], Any]:
    def call() -> Any:
        if isinstance(out, Exception):
            raise out
        return out

    return call


def chosen(outs: Mapping[str, Any], times: Mapping[str, float]) -> str:
    ways = {name: way(out) for name, out in outs.items()}
    by_call = {id(call): times[name] for name, call in ways.items()}
    return fastest("a step", ways, EXACT, lambda call: by_call[id(call)])


@pytest.mark.parametrize(
    ("outs", "times", "wanted"),
    [
        ((RIGHT, RIGHT), (10, 8.9), "other"),
        ((RIGHT, RIGHT), (10, 9.1), "usual"),
        ((RIGHT, WRONG), (10, 1), "usual"),
        ((RIGHT, REFUSED), (10, 1), "usual"),
        ((REFUSED, RIGHT), (1, 10), "other"),
        ((RIGHT, RuntimeError("FlashAttention only supports Ampere")), (10, 1), "usual"),
        ((WRONG, RIGHT), (1, 10), "other"),
        ((RIGHT, RuntimeError("CUDA error: no kernel image is available")), (10, 1), "usual"),
    ],
)
def test_the_fastest_that_is_right_is_taken(
    outs: tuple[Any, ...], times: tuple[float, ...], wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("usual", "other")
    with caplog.at_level(logging.INFO, "vibevoice"):
        taken = chosen(dict(zip(names, outs, strict=True)), dict(zip(names, times, strict=True)))
    assert taken == wanted
    assert f"a step: {wanted} (" in caplog.text


def test_where_none_is_right_each_ones_problem_is_said() -> None:
    with pytest.raises(Unsupported, match=r"a step: usual off by 3.0%, other .*unable to find"):
        chosen({"usual": WRONG, "other": REFUSED}, {"usual": 1, "other": 1})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), RuntimeError),
        (ValueError("a bug"), ValueError),
    ],
)
def test_a_device_that_broke_is_no_matter_of_choice(
    error: Exception, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=str(error)):
        chosen({"usual": RIGHT, "other": error}, {"usual": 1, "other": 1})


class Device:
    """Does what is queued one after the other. What the host takes to queue it is `host`'s time."""

    def __init__(self) -> None:
        self.host = self.free = 0.0

    def queue(self, seconds: float) -> None:
        self.free = max(self.host, self.free) + seconds


class Event:
    def __init__(self, device: Device) -> None:
        self._device, self.at = device, 0.0

    def record(self) -> None:
        self.at = max(self._device.host, self._device.free)

    def synchronize(self) -> None:
        self._device.host = max(self._device.host, self.at)

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.at - self.at)


def test_the_time_of_a_way_is_the_devices_and_not_what_the_host_takes_to_launch_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Event(device))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: device.queue(cycles / 2e9))

    def eight_kernels() -> Any:
        for _ in range(8):
            device.host += 10e-6
            device.queue(2e-6)

    assert device_seconds(eight_kernels) == pytest.approx(16e-6)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return weights_of(narrow_network(layers=1, code=vibevoice.volume() / "vibevoice"))


def flash(scale: float) -> Any:
    """With the signature of flash-attn's kernel, and off by so much."""

    def kernel(query: Any, keys: Any, values: Any, *, cache_seqlens: Any) -> Any:
        out = torch.empty_like(query)
        for row, held in enumerate(cache_seqlens.tolist()):
            q, k, v = (part.transpose(0, 1) for part in (query[row], keys[row], values[row]))
            seen = torch.softmax(q @ k[:, :held].mT / q.shape[-1] ** 0.5, -1) @ v[:, :held]
            out[row] = scale * seen.transpose(0, 1)
        return out

    return lambda: kernel


@pytest.mark.parametrize(
    ("scale", "flash_sec", "wanted"), [(1.0, 1, FLASH), (1.0, 3, SDPA), (1.03, 1, SDPA)]
)
def test_attention_by_flash_attn_where_it_is_faster_and_right(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, scale: float, flash_sec: float, wanted: str
) -> None:
    monkeypatch.setattr("engines.vibevoice.fast.layers.language.flash_kernel", flash(scale))
    times = iter((2, flash_sec))
    assert choose_attention(weights, 2, lambda _: next(times)) == wanted


def test_without_flash_attn_attention_is_pytorchs(weights: Weights) -> None:
    assert choose_attention(weights, 2, lambda _: 1) == SDPA


def decoder(weights: Weights) -> Codec:
    return Codec(weights.decoder, weights.architecture.decoder, decodes=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_all_ways_of_a_convolution_give_the_same(weights: Weights, dtype: Any) -> None:
    by = decoder(weights).filters[3][1]
    by = Filter(by.kernel.to(dtype), by.bias.to(dtype), by.taps, by.exact_bias)
    full = random(3, 46, by.taps.shape[1]).to(dtype)
    outs = [way(full, by) for way in WAYS.values()]
    assert {(out.shape, out.dtype) for out in outs} == {((3, 40, by.taps.shape[1]), dtype)}
    for out in outs[1:]:
        assert error(out, outs[0]) < (1e-5 if dtype == torch.float32 else 0.01)


def test_each_stage_convolves_in_its_own_way(weights: Weights) -> None:
    codec = decoder(weights)
    latents = random(1, 5, weights.architecture.latent)
    with torch.inference_mode():
        before = codec.whole(latents)
        calls = iter(range(1000))
        said = kernels.choose_convolutions(
            {"decoder": codec}, weights, 2, lambda _: (1, 1, 1, 5, 1, 5, 5, 5, 1)[next(calls) % 9]
        )
        assert codec.ways == ["cudnn", *["cudnn", "native", "products"] * 2]
        assert said == "cudnn 2, native 2, products 2"
        assert error(codec.whole(latents), before) < 1e-5


def test_a_way_that_refuses_a_length_is_left_for_products(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codec = decoder(weights)
    latents = random(1, 5, weights.architecture.latent)
    with torch.inference_mode():
        wanted = codec.whole(latents)
        convolve = WAYS["cudnn"]

        def refuse(full: Any, by: Filter) -> Any:
            if full.shape[1] == 46:
                raise REFUSED
            return convolve(full, by)

        monkeypatch.setattr("engines.vibevoice.fast.layers.codec.WAYS", {**WAYS, "cudnn": refuse})
        assert error(codec.whole(latents), wanted) < 1e-5
    assert codec.ways.count("products") == 1
    assert "unable to find an engine" in caplog.text


def test_a_device_that_breaks_in_a_convolution_is_not_covered_up(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("engines.vibevoice.fast.layers.codec.WAYS", {**WAYS, "cudnn": broken})
    with torch.inference_mode(), pytest.raises(RuntimeError, match="illegal memory access"):
        decoder(weights).whole(random(1, 5, weights.architecture.latent))
